"""A commented job file for one's own model and texts, from a look at both.

Everything that a search would refuse later is refused here, before a file is written.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynsearch.errors import InputError
from dynsearch.export.files import safe_name, write_atomic
from dynsearch.formats import formats_that_pay, time_formats
from dynsearch.job import job_from_dict
from dynsearch.models.tokens import load_tokenizer, tokenize
from dynsearch.models.weights import read_backbone, weights_path
from dynsearch.quality.data import Examples, first_columns, read_examples
from dynsearch.quality.splits import FEW_ROWS, split_examples
from search_spaces.candidate import Backbone

logger = logging.getLogger(__name__)

TEXT_NAMES = ("text", "sentence", "review", "content", "document", "utterance", "body", "tweet")
LABEL_NAMES = ("label", "class", "category", "target", "sentiment", "intent", "topic", "y")
LONGEST = 512  # tokens that a workload may have
ENOUGH_ROWS = 3_000  # training rows from which two epochs do
USED_SPLITS = ("train", "search", "report")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look at model and texts found."""

    backbone: Backbone
    model_bytes: int
    rows: int
    duplicates: int
    classes: dict[str, int]  # rows by label
    splits: dict[str, int]  # rows by split
    lengths: tuple[int, int, int, int]  # tokens: median, 95 %, 99 %, longest
    too_long: int  # texts beyond the model's positions


def init(
    model: Path,
    data: Path,
    out: Path,
    *,
    text: str | None = None,
    label: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a job file for a model folder and a file of labelled texts.

    Args:
        model: Hugging Face folder of a pretrained encoder.
        data: `.csv` or `.jsonl` file, one labelled text a row.
        out: The job file.
        text: Column of the text; None: the usual names are tried.
        label: Column of the label; None: the usual names are tried.
        force: Write over a file that is there.

    Returns:
        `files`, and `seen`: what the look found.

    Raises:
        InputError: no model, no data, or data that a search would refuse; or `out` is there.
    """
    if out.exists() and not force:
        raise InputError.one(out, "--out", None, "is there already; name another, or --force")
    backbone = read_backbone(model)
    size = weights_path(model).stat().st_size
    columns = first_columns(data)
    text = text or _guess(data, "--text-column", TEXT_NAMES, columns)
    label = label or _guess(data, "--label-column", LABEL_NAMES, columns)
    examples = read_examples(data, text=text, label=label)
    seen = _look(examples, backbone, size, model, str(data))
    written = _job_text(seen, model=model, data=data, out=out, text=text, label=label)
    job_from_dict(tomllib.loads(written), file=str(out), base=out.resolve().parent)
    write_atomic(out, written)
    return {
        "files": [str(out)],
        "seen": {
            "model": backbone.name,
            "layers": backbone.num_layers,
            "hidden_size": backbone.hidden_size,
            "positions": backbone.max_len,
            "rows": seen.rows,
            "duplicates": seen.duplicates,
            "classes": seen.classes,
            "splits": seen.splits,
            "tokens": dict(zip(("median", "q95", "q99", "longest"), seen.lengths, strict=True)),
            "too_long": seen.too_long,
            "columns": {"text": text, "label": label},
        },
    }


def _guess(data: Path, option: str, names: Sequence[str], columns: Sequence[str]) -> str:
    found = [c for name in names for c in columns if c.lower() == name]
    if not found:
        have = ", ".join(columns) or "none"
        raise InputError.one(data, option, None, f"name the column; the file has: {have}")
    return found[0]


def _look(examples: Examples, backbone: Backbone, size: int, model: Path, file: str) -> Seen:
    """Counts and lengths of the texts, after the checks that a search makes."""
    counts = Counter(examples.labels[k] for k in examples.classes)
    _tell_twins(file, list(counts))
    parts = split_examples(examples, file=file)
    for name in USED_SPLITS:
        absent = set(range(len(examples.labels))) - set(parts[name].classes)
        if absent:
            first = examples.labels[min(absent)]
            says = f"class absent from this split, it has {counts[first]} rows in all; give more"
            raise InputError.one(file, f"split {name}", first, says)
    if len(parts["report"]) < FEW_ROWS:
        logger.warning(
            "%d report rows: confirmed losses will have wide intervals (%d are advised)",
            len(parts["report"]),
            FEW_ROWS,
        )
    lengths = tokenize(load_tokenizer(model), examples.texts, 1 << 20).lengths
    too_long = int((lengths > backbone.max_len).sum())
    if too_long:
        logger.warning(
            "%d of %d texts are longer than the model's %d positions and will be cut",
            too_long,
            len(lengths),
            backbone.max_len,
        )
    middle, high, higher = (int(q) for q in np.quantile(lengths, (0.5, 0.95, 0.99)))
    distinct = sum(len(p) for p in parts.values())
    return Seen(
        backbone=backbone,
        model_bytes=size,
        rows=len(examples),
        duplicates=len(examples) - distinct,
        classes=dict(counts.most_common()),
        splits={name: len(part) for name, part in parts.items()},
        lengths=(middle, high, higher, int(lengths.max())),
        too_long=too_long,
    )


def _tell_twins(file: str, labels: list[str]) -> None:
    """Warn of labels that differ only in case or spaces: most likely one class."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(" ".join(label.lower().split()), []).append(label)
    for group in groups.values():
        if len(group) > 1:
            names = ", ".join(repr(x) for x in sorted(group))
            logger.warning("%s: labels that differ only in case or spaces: %s", file, names)


def _longest(seen: Seen) -> int:
    """Longest input of the workload: covers 99 % of the texts, a multiple of 8."""
    wanted = max(16, math.ceil(seen.lengths[2] / 8) * 8)
    return min(wanted, seen.backbone.max_len, LONGEST)


def _groups(layers: int) -> list[list[int]]:
    """About three groups of neighbouring layers [first, last]."""
    size = math.ceil(layers / 3)
    return [[i + 1, min(i + size, layers)] for i in range(0, layers, size)]


def _relative(path: Path, base: Path) -> str:
    """`path` as the job writes it: from the job's folder where that is shorter."""
    whole = path.resolve()
    near = os.path.relpath(whole, base.resolve())
    return near if Path(near).parts.count("..") < 2 else str(whole)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _job_text(seen: Seen, *, model: Path, data: Path, out: Path, text: str, label: str) -> str:
    b, layers = seen.backbone, seen.backbone.num_layers
    shown = ", ".join(f"{name} {n}" for name, n in list(seen.classes.items())[:6])
    if len(seen.classes) > 6:
        shown += f" and {len(seen.classes) - 6} more"
    splits = ", ".join(f"{name} {n}" for name, n in seen.splits.items())
    middle, high, _, longest = seen.lengths
    formats = json.dumps(formats_that_pay(time_formats()))
    lines = [
        f"# Written by `dynsearch init` for {data.name} on {b.name}.",
        "# Search it with: dynsearch search THIS_FILE",
        "schema_version = 1",
        f"name = {_quoted(safe_name(data.stem, limit=40))}",
        'devices = ["local"]                # this machine, calibrated; more: dynsearch devices',
        'objectives = ["error", "latency_mean_s"]',
        "",
        "[model]",
        f"# {layers} layers, width {b.hidden_size}, {b.num_heads} heads, {b.max_len} positions, "
        f"{seen.model_bytes / 1e6:.0f} MB",
        f"folder = {_quoted(_relative(model, out.parent))}",
        "",
        "[data]",
        f"# {seen.rows} rows, {seen.duplicates} of them duplicates, which are dropped",
        f"# {len(seen.classes)} classes: {_one_line(shown)}",
        f"# splits: {splits}",
        f"file = {_quoted(_relative(data, out.parent))}",
        f"text = {_quoted(text)}",
        f"label = {_quoted(label)}",
        '# also = "more.csv"                # labelled texts that training alone reads',
        '# unlabelled = "more.txt"          # texts without labels make early exits better',
        "",
        "[training]",
        f"epochs = {2 if seen.splits['train'] >= ENOUGH_ROWS else 4}",
        "",
        "[space]",
        f"dtype = {formats}".ljust(35) + "# those that pay on this machine",
        "",
    ]
    if layers > 1:
        lines += [
            "[space.skim]                       # share of the tokens alive after a layer",
            f"layers = {list(range(1, max(2, layers - 1)))}",
            "keep = [1.0, 0.75, 0.5]" if middle < 64 else "keep = [1.0, 0.5, 0.25]",
            "",
        ]
    counts = [c for c in (1, 4, 8) if b.ffn_size % c == 0]
    if len(counts) > 1:
        lines += [
            "[space.experts]                    # feed-forward networks cut into experts",
            f"groups = {_groups(layers)}",
            f"counts = {counts}",
            "active = [0.25, 0.5]",
            'granularity = ["sequence", "token"]',
            "",
        ]
    if layers > 1:
        lines += [
            "[space.exits]                      # where an input may leave early",
            f"layers = {list(range(1, layers))}",
            f"min_depth = {max(1, layers // 2)}",
            'criteria = ["max_prob", "entropy"]',
            "",
        ]
    lines += [
        "[workload]",
        "batch = 1                          # inputs that are answered together",
        f"# tokens of a text: half have {middle} or fewer, 95 % {high} or fewer, the longest "
        f"{longest}; {seen.too_long} are beyond the model",
        f"max_len = {_longest(seen)}",
        "",
        "# [budgets]                        # SI units, or a share of the full network's cost",
        "# latency_worst_s = { of_full_network = 0.6 }",
        "# peak_bytes = { of_full_network = 0.9 }",
        "",
        "[search]",
        f"trials = {64 if middle < 64 else 24}                        # forward passes over the "
        "search rows",
    ]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())
