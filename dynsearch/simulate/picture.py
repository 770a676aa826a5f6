"""An outcome as one SVG: costs, where inputs leave, tokens by layer, load of experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynsearch.report import svg, units
from dynsearch.report.markup import Html

WIDTH, HEIGHT = 430, 210  # of a panel
LEFT, BOTTOM, TOP, RIGHT, TITLE = 60, 38, 34, 14, 40
ROOM = 1.08  # of an axis, in units of what is largest
LATENCIES = ("mean", "p50", "p95", "p99", "worst")


def figure(result: Mapping[str, Any]) -> str:
    """An SVG image of what `simulate.run.simulate` gives."""
    panels = [_latencies(result)]
    if len(result["exits"]) > 1 or result["exits"][0]["early"]:
        panels.append(
            _bars("leave after layer", _pairs(result["exits"], "share"), svg.BLUE, percent)
        )
    panels.append(
        _bars("tokens entering layer", _pairs(result["tokens"], "mean"), svg.GREEN, number)
    )
    if result["experts"]:
        busy = _pairs(result["experts"], "max_over_mean")
        panels.append(_bars("most loaded expert, in mean loads", busy, svg.ORANGE, number))
    width, height = svg.panels_size(len(panels), WIDTH, HEIGHT, TITLE)
    title = f"{result['subject']} on {result['device']}, batch {result['workload']['batch']}"
    heading = svg.text(LEFT, 26, title, anchor="start", weight=600)
    return svg.image(title, width, height, heading, svg.panels(panels, WIDTH, HEIGHT, TITLE))


def percent(value: float) -> str:
    """A share."""
    return units.percent(value)


def number(value: float) -> str:
    """A count."""
    return units.digits(value)


def _pairs(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[str, float]]:
    return [(str(row["layer"]), float(row[name])) for row in rows]


def _latencies(result: Mapping[str, Any]) -> list[Html]:
    values = [(name, float(result[name]["value"])) for name in LATENCIES]
    high = max(float(result[name]["high"]) for name in LATENCIES)
    out = _bars("seconds of an input, 90 % intervals", values, svg.BLUE, units.seconds, top=high)
    slot = (WIDTH - LEFT - RIGHT) / len(values)
    for i, name in enumerate(LATENCIES):
        x = LEFT + slot * (i + 0.5)
        ends = [_y(float(result[name][end]), high * ROOM) for end in ("low", "high")]
        out.append(svg.line(x, x, ends[0], ends[1], svg.INK))
    return out


def _bars(
    title: str,
    values: Sequence[tuple[str, float]],
    colour: str,
    shown: Any,
    *,
    top: float | None = None,
) -> list[Html]:
    """Bars with their names below; every so many names where there is no room."""
    high = (top or max((value for _, value in values), default=1.0)) * ROOM or 1.0
    out = [svg.text(LEFT, 20, title, anchor="start", weight=600)]
    for share in (0.0, 0.5, 1.0):
        y = _y(share * high / ROOM, high)
        out += svg.tick(LEFT, WIDTH - RIGHT, y, shown(share * high / ROOM))
    slot = (WIDTH - LEFT - RIGHT) / max(len(values), 1)
    every = -(-len(values) // 16)
    for i, (name, value) in enumerate(values):
        x, y = LEFT + slot * i, _y(value, high)
        words = f"{name}: {shown(value)}"
        out.append(svg.bar(x + slot * 0.1, y, slot * 0.8, HEIGHT - BOTTOM, colour, words))
        if i % every == 0:
            out.append(svg.text(x + slot / 2, HEIGHT - BOTTOM + 18, name))
    return out


def _y(value: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - min(value / high, 1.0))
