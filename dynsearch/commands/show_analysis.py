"""The result of `dynsearch analyse` as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from dynsearch.commands.tables import percent, print_table

MOST_STEPS = 12  # rows of a configuration's sensitivity; all are in the JSON


def show(result: Mapping[str, Any], out: TextIO) -> None:
    """Progress, importances, what binds, then the steps that change most."""
    _progress(result["hypervolume"], out)
    _importances(result, out)
    print_table(
        out,
        "\ndevices",
        ("device", "hypervolume", "passes within budgets, %", "configurations"),
        [
            [d["device"], f"{d['hypervolume']:.4f}", percent(d["passes_within"]), str(d["points"])]
            for d in result["devices"]
        ],
    )
    _binds(result, out)
    for one in result["sensitivity"]:
        _sensitivity(one, out)
    for warning in result["warnings"]:
        out.write(f"{warning}\n")


def _progress(history: Sequence[Mapping[str, Any]], out: TextIO) -> None:
    gained = [step for step in history if step["added"] > 0]
    rows = [
        [str(h["passes"]), f"{h['seconds']:.1f}", f"{h['mean']:.4f}", f"{h['added']:+.4f}"]
        for h in gained
    ]
    title = f"hypervolume: {len(gained)} of {len(history)} passes added to it"
    print_table(out, title, ("pass", "seconds", "hypervolume", "added"), rows)


def _importances(result: Mapping[str, Any], out: TextIO) -> None:
    shares = result["importances"]
    if not shares:
        out.write(f"\nimportances of knobs: {result['no_importances']}\n")
        return
    knobs = list(dict.fromkeys(knob for found in shares.values() for knob in found))
    rows = [[knob, *(percent(found.get(knob)) for found in shares.values())] for knob in knobs]
    print_table(out, "\nimportances of knobs, %", ("knob", *shares), rows)


def _binds(result: Mapping[str, Any], out: TextIO) -> None:
    if not result["binds"]:
        out.write("\nno budgets: nothing but the devices binds\n")
        return
    rows = [
        [
            one["device"],
            one["budget"],
            f"{one['limit']:.4g}",
            percent(one["rejected"]["all"]),
            percent(one["rejected"]["alone"]),
            percent(one["slack_least"]),
            f"{one['gain']:+.4f}",
        ]
        for one in result["binds"]
    ]
    columns = ("device", "budget", "limit", "rejects, %", "alone, %", "least slack, %")
    more = f"hypervolume if {result['relaxed_by']:.0%} more"
    print_table(out, "\nwhat binds", (*columns, more), rows)


def _sensitivity(one: Mapping[str, Any], out: TextIO) -> None:
    device = one["steps"][0]["device"] if one["steps"] else ""
    mine = [step for step in one["steps"] if step["device"] == device]
    mine.sort(key=lambda step: -abs(step["cost_share"]))
    rows = [
        [
            step["knob"],
            f"{step['before']} -> {step['after']}",
            "-" if step["error_change"] is None else f"{step['error_change'] * 100:+.2f}",
            f"{step['cost_share'] * 100:+.1f}",
            "yes" if step["within"] else "no",
        ]
        for step in mine[:MOST_STEPS]
    ]
    columns = ("knob", "step", "error, points", "cost, %", "within budgets")
    print_table(out, f"\none step from {one['id']} on {device}", columns, rows)
