"""`dynsearch run EXPORT --input FILE`: answers of an exported model to the texts of a file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from dynsearch.export.files import write_atomic
from dynsearch.export.runner import load
from dynsearch.quality.data import read_unchecked


def run_export(
    folder: Path,
    texts: Path,
    *,
    out: Path | None,
    batch: int,
    threads: int,
    runtime: str | None = None,
) -> dict[str, Any]:
    """Classify the texts of a file.

    Args:
        folder: An exported folder, torch or onnx.
        texts: CSV or JSON Lines with the columns that the model was trained on; a column `label`
            is compared with the answers.
        out: JSON Lines file that gets the answers; None: they are in the result.
        batch: Texts in a batch.
        threads: Of the runtime.
        runtime: Of ONNX graphs; None: onnxruntime.

    Returns:
        `n` texts, `exits` (share by layer), `accuracy` (None where rows have no label that the
        model knows), and `answers` or `files`.

    Raises:
        InputError: a folder that is not whole, a file that holds no such texts.
    """
    model = load(folder, threads=threads, runtime=runtime)
    columns = model.config["text_columns"]
    wanted = columns[0] if len(columns) == 1 else (columns[0], columns[1])
    found, labels = read_unchecked(texts, text=wanted)
    answers = [asdict(answer) for answer in model.classify(found, batch)]
    left = Counter(answer["exit_layer"] for answer in answers)
    known = [
        (answer["label"], label)
        for answer, label in zip(answers, labels, strict=True)
        if label in model.config["labels"]
    ]
    result: dict[str, Any] = {
        "export": str(folder),
        "n": len(answers),
        "exits": {str(layer): left[layer] / len(answers) for layer in sorted(left)},
        "accuracy": sum(a == b for a, b in known) / len(known) if known else None,
        "warnings": _warnings(answers, model.config["max_len"]),
    }
    if out is None:
        return result | {"answers": answers}
    lines = (json.dumps(answer, ensure_ascii=False) for answer in answers)
    return result | {"files": [str(write_atomic(out, "\n".join(lines) + "\n"))]}


def _warnings(answers: list[dict[str, Any]], max_len: int) -> list[str]:
    full = sum(answer["tokens"] >= max_len for answer in answers)
    if not full:
        return []
    return [f"{full} texts fill the longest input of {max_len} tokens; the rest is not read"]


def show(result: dict[str, Any], out: TextIO) -> None:
    """An answer a line (unless they went to a file), then where texts left."""
    for answer in result.get("answers", ()):
        out.write("{label}\t{probability:.3f}\tlayer {exit_layer}\n".format(**answer))
    out.writelines(f"{name}\n" for name in result.get("files", ()))
    exits = ", ".join(f"layer {layer} {share:.1%}" for layer, share in result["exits"].items())
    out.write(f"{result['n']} texts; answered by {exits}\n")
    if result["accuracy"] is not None:
        out.write(f"accuracy {result['accuracy']:.2%}\n")
