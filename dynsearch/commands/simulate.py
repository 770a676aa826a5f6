"""`dynsearch simulate` on the screen, and the picture that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from dynsearch.commands.show import cost as show_costs
from dynsearch.commands.tables import print_table
from dynsearch.errors import InputError
from dynsearch.export.files import write_atomic

Result = dict[str, Any]

SHOWN_LOADS = 16  # layers of experts whose loads are printed


def write_picture(result: Result, path: Path) -> Path:
    """The outcome as an SVG file.

    Raises:
        InputError: another kind of file.
    """
    require_svg(path)
    from dynsearch.simulate.picture import figure

    return write_atomic(path, figure(result) + "\n")


def require_svg(path: Path) -> None:
    """Refuse other kinds of pictures before anything is simulated.

    Raises:
        InputError: the name does not end in .svg.
    """
    if path.suffix != ".svg":
        text = f"pictures are SVG: use {path.with_suffix('.svg')}"
        raise InputError.one("command line", "--picture", str(path), text)


def show(result: Result, out: TextIO) -> None:
    """Costs, exits, tokens, experts, assumptions."""
    load = result["workload"]
    out.write(f"{result['subject']} on {result['device']}, batch {load['batch']}, ")
    out.write(f"{load['exit_batching']}; activity: {result['activity']}\n")
    show_costs(result, out)
    accuracy = result["accuracy"]
    out.write(f"mean exit layer: {result['mean_exit_layer']:.3g}")
    out.write(f"; accuracy: {accuracy:.3g}\n" if accuracy is not None else "\n")
    for name, value in result["more"].items():
        out.write(f"{name}: {value:.4g}\n")
    if len(result["exits"]) > 1:
        rows = [
            [str(row["layer"]), f"{100 * row['share']:.2f}", "early" if row["early"] else "last"]
            for row in result["exits"]
        ]
        print_table(out, "", ("leave after layer", "%", "exit"), rows)
    rows = [
        [str(row["layer"]), f"{row['mean']:.4g}", f"{row['mean_square']:.4g}"]
        for row in result["tokens"]
    ]
    print_table(out, "", ("layer", "tokens", "tokens squared"), rows)
    _show_experts(result["experts"], out)
    if result["parameters"]:
        rows = [
            [name, _brief(p["value"]), p["origin"]] for name, p in result["parameters"].items()
        ]
        print_table(out, "", ("parameter", "value", "origin"), rows)
    for name, value in result.get("fidelity", {}).items():
        out.write(f"replay beside real run, {name}: {_brief(value)}\n")
    for text in result["inexact_because"]:
        out.write(f"estimate: {text}\n")
    for text in result["notes"]:
        out.write(f"note: {text}\n")
    for path in result.get("files", ()):
        out.write(f"{path}\n")


def _show_experts(experts: list[Result], out: TextIO) -> None:
    rows = [
        [
            str(row["layer"]),
            str(len(row["load"])),
            f"{row['touched']:.3g}",
            f"{row['max_over_mean']:.3g}",
            f"{100 * row['dropped']:.2f}",
        ]
        for row in experts[:SHOWN_LOADS]
    ]
    if rows:
        columns = ("layer", "experts", "with work", "most loaded / mean", "dropped %")
        print_table(out, "", columns, rows)
    if len(experts) > SHOWN_LOADS:
        out.write(f"... and {len(experts) - SHOWN_LOADS} layers more, see --json\n")


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{x:.3g}" for x in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
