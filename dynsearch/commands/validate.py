"""`dynsearch validate`: predicted beside measured, as a table, as Markdown, as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from cost_models.scores import Score
from cost_models.validate import POOLED
from cost_models.validate import validate as scored
from dynsearch.commands.tables import print_table
from dynsearch.search.runs import source_commit

Result = dict[str, Any]

UNBOUNDED = 99.0  # width above which an interval bounds nothing
NO_BOUND = "no bound"

COLUMNS = (
    "family",
    "level",
    "device",
    "runtime",
    "format",
    "protocol",
    "n",
    "MAPE %",
    "median %",
    "within 10 %",
    "tau",
    "coverage %",
    "width %",
    "roofline %",
    "others %",
)


def validate(
    data: Path,
    *,
    out: Path | None = None,
    known_only: bool = False,
    command: str = "",
    progress: Callable[[float, str], None] | None = None,
) -> Result:
    """Score the cost models on every measured table of a folder.

    Args:
        data: Folder with measured CSV files of any layout that an adapter knows.
        out: Markdown file to write; None: none.
        known_only: Leave out groups only, not whole devices.
        command: The command line that the Markdown file names.
        progress: Called with the share that is done and what is being fitted.

    Returns:
        `rows` as contracts promise, `files` read, `unrecognised` files, `written`, `warnings`.

    Raises:
        InputError: nothing in the folder is recognised.
    """
    report = scored(data, unknown=not known_only, progress=progress)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(markdown(report.rows, command), encoding="utf-8")
    return {
        "rows": [row.to_dict() for row in report.rows],
        "files": report.read,
        "unrecognised": list(report.unrecognised),
        "written": [] if out is None else [str(out)],
        "warnings": list(report.warnings),
    }


def show(result: Result, out: TextIO) -> None:
    """The pooled rows, every device below, worst of each family first, and what was not read."""
    rows = [Score(**row) for row in result["rows"]]
    for title, part in _sections(rows):
        print_table(out, title, COLUMNS, [cells(row) for row in part])
        out.write("\n")
    if result["unrecognised"]:
        out.write(f"no adapter for: {', '.join(result['unrecognised'])}\n")
    for file in result["written"]:
        out.write(f"table: {file}\n")


def markdown(rows: Sequence[Score], command: str) -> str:
    """The same tables for a document, with the command that makes them."""
    commit = source_commit()
    made = f"Made by `{command}`" + (f" at commit `{commit[:7]}`" if commit else "")
    lines = ["# How wrong the cost models are", "", f"{made}. {LEGEND}", ""]
    lines += ["## Intervals, all families", "", *_covered(rows), ""]
    for title, part in _sections(rows):
        lines += [f"## {title}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
        lines += [_line(cells(row)) for row in part]
        lines.append("")
    return "\n".join(lines)


def _covered(rows: Sequence[Score]) -> list[str]:
    """Share of all rows of a protocol inside their 90 % interval, with the mean width."""
    found: dict[str, list[Score]] = {}
    for row in rows:
        if row.runtime == POOLED:
            found.setdefault(_protocol(row), []).append(row)
    lines = []
    for protocol, part in found.items():
        n = sum(row.n for row in part)
        coverage = sum(row.n * row.coverage for row in part) / n
        width = math.expm1(sum(row.n * math.log1p(row.width) for row in part) / n)
        lines.append(f"- {protocol}: {n} rows, {100 * coverage:.1f} %, width {_width(width)} %")
    return lines


def _width(width: float) -> str:
    """Percent, or that the ends lie so far apart that the interval says nothing."""
    return f"{100 * width:.0f}" if width < UNBOUNDED else NO_BOUND


LEGEND = (
    "MAPE is the mean of |predicted / measured - 1| over rows that no fit had seen. *Groups left "
    "out*: the device was measured, but whole models, geometries or ranges of shapes were not. "
    "*Device left out*: nothing of the device was measured; *10, 20, 30 rows*: so many of its "
    "rows, chosen by information, were. *Task left out*: all that was measured on the device is "
    "50 networks of other tasks. *Beside relatives*: 5 or 10 networks of the device, and what "
    "measured devices of the same runtime took; rows that share a geometry with the given ones "
    "are not scored. Defaults of the forms were chosen with rows of these devices in view, so "
    "lines of devices left out are too good by an unknown amount, above all those of the TPU. "
    "Coverage is the share of rows inside their 90 % interval, width the geometric mean of its "
    f"upper over its lower end, minus 1; *{NO_BOUND}* where the ends are more than a factor of "
    f"{1 + UNBOUNDED:.0f} apart: no other device of the form was scored alike, or hardly any, so "
    "that how wrong such a prediction is was never seen (Student's t of one degree of freedom). "
    "The roofline is that of the datasheet; energy has full board power in its place. Of tables "
    "with more than 3000 rows, 3000 are drawn with a fixed seed. What was tried where a figure is "
    "missed: docs/validation-attempts.md."
)


def _sections(rows: Sequence[Score]) -> list[tuple[str, list[Score]]]:
    """Pooled rows, then each family's devices with the worst first; training apart."""
    sections: list[tuple[str, list[Score]]] = []
    for training in (False, True):
        mine = [row for row in rows if row.training == training]
        pooled = [row for row in mine if row.runtime == POOLED]
        single = [row for row in mine if row.runtime != POOLED]
        what = "training" if training else "inference"
        if pooled:
            sections.append((f"All devices, {what}", pooled))
        for known in (True, False):
            part = [row for row in single if row.known_device == known]
            part.sort(key=lambda row: (row.family, row.rows_seen, -row.mape))
            if part:
                of = "known devices" if known else "devices left out"
                sections.append((f"{of.capitalize()}, {what}", part))
    return sections


def _protocol(row: Score) -> str:
    return row.protocol if row.known_device else f"{row.protocol}, {row.rows_seen} rows"


def cells(row: Score) -> list[str]:
    """One row of the table as text."""
    others = ", ".join(f"{name} {100 * value:.1f}" for name, value in row.peer_mape.items())
    return [
        row.family,
        row.level,
        row.device,
        row.runtime,
        row.dtype,
        _protocol(row),
        str(row.n),
        f"{100 * row.mape:.1f}",
        f"{100 * row.median_ape:.1f}",
        f"{100 * row.within_10:.0f}",
        "-" if row.kendall is None else f"{row.kendall:.2f}",
        f"{100 * row.coverage:.0f}",
        _width(row.width),
        f"{100 * row.roofline_mape:.1f}",
        others or "-",
    ]


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
