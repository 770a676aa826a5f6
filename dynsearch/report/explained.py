"""The report's section on where the time of the named configurations goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynsearch.errors import InputError
from dynsearch.explain.run import open_source
from dynsearch.export.records import Front
from dynsearch.report import sections, units
from dynsearch.report.headline import STATIC_FAMILIES
from dynsearch.report.markup import Html, tag

HELPS = 5  # rows of each configuration's table


def explanations(run_dir: Path, front: Front, device: str) -> tuple[list[dict[str, Any]], str]:
    """What `dynsearch explain` says of the dynamic points named or certified on a device.

    Returns:
        The explanations, and why there are none (empty where there are).
    """
    mine = [p for p in front.front if p.device == device]
    named = [p for p in mine if p.named or p.certificate]
    dynamic = [p for p in named if p.family not in STATIC_FAMILIES]
    if not dynamic:
        return [], "No dynamic configuration is named on this device."
    try:
        source = open_source(run_dir, front)
        if device not in source.devices:
            return [], f"The file of {device} is missing from the run folder."
        return [source.explain(p) for p in dynamic], ""
    except InputError as error:
        return [], f"The run's traces do not tell: {error.problems[0].message}."


def section(found: Sequence[Mapping[str, Any]], why_not: str) -> Html:
    """Waterfalls, drawn by the script, each over its table of what would help."""
    return tag(
        "section",
        tag("h2", "Where the time goes"),
        tag("p", why_not, class_="small")
        if why_not
        else [
            tag(
                "p",
                "From the time that a configuration would need if it followed its FLOPs to the "
                "time that is predicted, per input. A step is what it pays for one thing beyond "
                "its FLOPs share of what the full network pays. Steps add up exactly. ",
                tag("code", "dynsearch explain RUN ID"),
                " tells it of every configuration, device and batch.",
                class_="small",
            ),
            tag("div", [_one(x) for x in found], id="explained", class_="grid wide"),
        ],
        id="explain",
    )


def _one(found: Mapping[str, Any]) -> Html:
    helps = [x for x in found["helps"] if x["saved_s"] > 0][:HELPS]
    rows = [
        tag(
            "tr",
            tag("td", x["label"]),
            tag("td", units.seconds(x["saved_s"]), class_="num"),
            tag("td", units.times(_speed(found, x)), class_="num"),
        )
        for x in helps
    ]
    return tag(
        "article",
        tag("div", data_waterfall=found["id"]),
        sections.table(["what would help", "saves", "speed-up then"], rows),
        class_="explained",
    )


def _speed(found: Mapping[str, Any], one: Mapping[str, Any]) -> float | None:
    return found["full_s"] / one["seconds"] if one["seconds"] > 0 else None


def chart(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the script draws of one explanation."""
    return {
        **{k: found[k] for k in ("id", "family", "dtype", "device", "full_s", "flops_share")},
        **{k: found[k] for k in ("speed_up", "start_s", "total_s")},
        **{k: found[k] for k in ("operators", "memory", "latency_quantiles")},
        "steps": [
            {k: step[k] for k in ("name", "label", "seconds", "own_s", "full_s")}
            for step in found["steps"]
        ],
    }
