"""An outcome as one SVG: costs, where inputs leave, tokens by layer, load of experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynsearch.report import units
from dynsearch.report.markup import Html, tag

WIDTH, HEIGHT = 430, 210  # of a panel
LEFT, BOTTOM, TOP, RIGHT, TITLE = 60, 38, 34, 14, 40
FONT = "system-ui, sans-serif"
INK, SOFT, LINE = "#1d2024", "#565c64", "#e2dfd8"
BLUE, GREEN, ORANGE = "#2166c9", "#0b8a7b", "#c27508"
LATENCIES = ("mean", "p50", "p95", "p99", "worst")


def figure(result: Mapping[str, Any]) -> str:
    """An SVG image of what `simulate.run.simulate` gives."""
    panels = [_latencies(result)]
    if len(result["exits"]) > 1 or result["exits"][0]["early"]:
        panels.append(_bars("leave after layer", _pairs(result["exits"], "share"), BLUE, percent))
    panels.append(_bars("tokens entering layer", _pairs(result["tokens"], "mean"), GREEN, number))
    if result["experts"]:
        busy = _pairs(result["experts"], "max_over_mean")
        panels.append(_bars("most loaded expert, in mean loads", busy, ORANGE, number))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    width, height = columns * WIDTH, lines * HEIGHT + TITLE
    title = f"{result['subject']} on {result['device']}, batch {result['workload']['batch']}"
    placed = [
        tag(
            "g",
            panel,
            transform=f"translate({(i % columns) * WIDTH},{(i // columns) * HEIGHT + TITLE})",
        )
        for i, panel in enumerate(panels)
    ]
    return tag(
        "svg",
        tag("title", title),
        tag("rect", width=width, height=height, fill="#ffffff"),
        _text(LEFT, 26, title, anchor="start", weight=600),
        placed,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        font_family=FONT,
        font_size=12,
        role="img",
    )


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
    out = _bars("seconds of an input", values, BLUE, units.seconds, top=high)
    slot = (WIDTH - LEFT - RIGHT) / len(values)
    for i, name in enumerate(LATENCIES):
        x = LEFT + slot * (i + 0.5)
        ends = [_y(float(result[name][end]), high) for end in ("low", "high")]
        out.append(tag("line", x1=x, x2=x, y1=ends[0], y2=ends[1], stroke=INK))
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
    high = (top or max((value for _, value in values), default=1.0)) * 1.08 or 1.0
    out = [_text(LEFT, 20, title, anchor="start", weight=600)]
    for share in (0.0, 0.5, 1.0):
        y = _y(share * high / 1.08, high)
        out.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, stroke=LINE))
        out.append(_text(LEFT - 6, y + 4, shown(share * high / 1.08), anchor="end", soft=True))
    slot = (WIDTH - LEFT - RIGHT) / max(len(values), 1)
    every = -(-len(values) // 16)
    for i, (name, value) in enumerate(values):
        x, y = LEFT + slot * i, _y(value, high)
        out.append(
            tag(
                "rect",
                tag("title", f"{name}: {shown(value)}"),
                x=f"{x + slot * 0.1:.1f}",
                y=f"{y:.1f}",
                width=f"{slot * 0.8:.1f}",
                height=f"{max(HEIGHT - BOTTOM - y, 0.0):.1f}",
                fill=colour,
            )
        )
        if i % every == 0:
            out.append(_text(x + slot / 2, HEIGHT - BOTTOM + 18, name))
    return out


def _y(value: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - min(value / high, 1.0))


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "middle",
    soft: bool = False,
    weight: int | None = None,
) -> Html:
    return tag(
        "text",
        text,
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        text_anchor=anchor,
        fill=SOFT if soft else INK,
        font_weight=weight,
    )
