"""`dynsearch trace`: what a user's own model does on labelled texts, recorded for replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

import numpy as np

from dynsearch.commands.tables import percent, print_table
from dynsearch.quality.data import read_examples
from dynsearch.quality.trace import save_trace
from dynsearch.quality.user_trace import load_hook, record

Result = dict[str, Any]


def trace(
    model: Path,
    data: Path,
    *,
    out: Path,
    text: tuple[str, ...] = ("text",),
    label: str = "label",
    batch: int = 32,
    dtype: str = "fp32",
) -> Result:
    """Record a model and write its trace.

    Args:
        model: Python file with a function `trace_batch`, see `quality.user_trace`.
        data: CSV or JSON Lines file of labelled texts.
        out: Trace to write (.npz).
        text: Column of the text, or of both texts of a pair.
        label: Column of the class.
        batch: Texts of a call.
        dtype: Number format that the model runs in.

    Returns:
        `files`, `rows`, `layers`, `classes`, `weights_hash`, `arrays` beside the logits, and
        `accuracy` by layer.

    Raises:
        InputError: faulty file, data or arrays; everything is named.
        DynsearchError: the user's own code fails.
    """
    hook = load_hook(model)
    columns: str | tuple[str, str] = (text[0], text[1]) if len(text) > 1 else text[0]
    examples = read_examples(data, text=columns, label=label)
    found = record(hook, examples, batch=batch, dtype=dtype)
    path = save_trace(out, found)
    right = found.logits.argmax(axis=-1) == found.labels[:, None]
    return {
        "files": [str(path)],
        "rows": found.num_samples,
        "layers": found.num_layers,
        "classes": int(found.logits.shape[2]),
        "weights_hash": hook.weights_hash,
        "arrays": sorted(found.aux),
        "accuracy": [float(x) for x in np.asarray(right.mean(axis=0))],
    }


def show(result: Result, out: TextIO) -> None:
    """Accuracy by layer, and where the trace lies."""
    rows = [[str(i + 1), percent(x)] for i, x in enumerate(result["accuracy"])]
    print_table(out, f"{result['rows']} texts", ("layer", "accuracy %"), rows)
    out.write(f"weights: {result['weights_hash']}\n")
    for path in result["files"]:
        out.write(f"{path}\n")
