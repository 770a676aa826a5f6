"""Measured speed-ups as one SVG: a panel each batch size and number format, bars by family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from dynsearch.export.records import LOSS_LEVELS
from dynsearch.gains.cells import speed_cells
from dynsearch.report.markup import Html, tag
from search_spaces.candidate import DTYPES

COLOURS = {  # the report's colours of the same ideas
    "static": "#7a7f87",
    "exit-only": "#2166c9",
    "skim-only": "#0b8a7b",
    "experts-only": "#c27508",
    "joint": "#c93a1e",
}
WIDTH, HEIGHT = 430, 250  # of a panel
LEFT, BOTTOM, TOP, RIGHT = 44, 44, 34, 12
FONT = "system-ui, sans-serif"
LEGEND = 34


def figure(results: Sequence[Mapping[str, Any]]) -> str:
    """An SVG image; `results` are one job's `result.json` contents, one a seed.

    A bar is the mean over seeds. It is hollow where the mean confirmed loss is above the level.
    """
    cells = [c for c in speed_cells(results) if c["family"] in COLOURS and "speed_up" in c]
    groups = sorted(
        {(c["batch"], c["dtype"]) for c in cells}, key=lambda g: (g[0], DTYPES.index(g[1]))
    )
    shown = {name: c for name, c in COLOURS.items() if any(x["family"] == name for x in cells)}
    columns = min(2, max(1, len(groups)))
    lines = -(-len(groups) // columns)
    top = max((c["speed_up"] for c in cells), default=1.0) * 1.12
    panels = [
        tag(
            "g",
            _panel(cells, batch, dtype, top, shown),
            transform=f"translate({(i % columns) * WIDTH},{(i // columns) * HEIGHT + LEGEND})",
        )
        for i, (batch, dtype) in enumerate(groups)
    ]
    width, height = columns * WIDTH, lines * HEIGHT + LEGEND
    title = f"{results[0]['job']}: measured speed-up by allowed loss"
    return tag(
        "svg",
        tag("title", title),
        tag("rect", width=width, height=height, fill="#ffffff"),
        _legend(shown),
        panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        font_family=FONT,
        font_size=12,
        role="img",
    )


def _legend(shown: Mapping[str, str]) -> list[Html]:
    out, x = [], LEFT
    for family, colour in shown.items():
        out.append(tag("rect", x=x, y=12, width=12, height=12, fill=colour, rx=2))
        out.append(_text(x + 17, 22, family, anchor="start"))
        x += 17 + 8 * len(family) + 12
    out.append(_text(x, 22, "hollow: confirmed loss above the level", anchor="start", soft=True))
    return out


def _panel(
    cells: Sequence[Mapping[str, Any]],
    batch: int,
    dtype: str,
    top: float,
    shown: Mapping[str, str],
) -> list[Html]:
    plot_w, plot_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    order = "" if batch == 1 else ", sorted by length"
    out = [_text(LEFT, 20, f"{dtype}, batch {batch}{order}", anchor="start", weight=600)]
    for tick in _ticks(top):
        y = TOP + plot_h * (1 - tick / top)
        colour = "#8a8f97" if tick == 1 else "#e2dfd8"
        out.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, stroke=colour))
        out.append(_text(LEFT - 6, y + 4, f"{tick:g}x", anchor="end", soft=True))
    slot = plot_w / len(LOSS_LEVELS)
    bar = slot * 0.8 / len(shown)
    for i, level in enumerate(LOSS_LEVELS):
        middle = LEFT + slot * (i + 0.5)
        label = "no loss" if level == 0 else f"{100 * level:g} points"
        out.append(_text(middle, HEIGHT - BOTTOM + 18, label))
        for k, (family, colour) in enumerate(shown.items()):
            mine = [
                c
                for c in cells
                if (c["batch"], c["dtype"], c["family"], c["level"])
                == (batch, dtype, family, level)
            ]
            if not mine:
                continue
            speed = mean(c["speed_up"] for c in mine)
            missed = mean(c["confirmed_loss"] for c in mine) > level + 1e-12
            high = plot_h * speed / top
            x = middle + bar * (k - len(shown) / 2)
            out.append(
                tag(
                    "rect",
                    tag("title", f"{family}: {speed:.2f}x"),
                    x=f"{x + 1:.1f}",
                    y=f"{TOP + plot_h - high:.1f}",
                    width=f"{bar - 2:.1f}",
                    height=f"{high:.1f}",
                    fill="#ffffff" if missed else colour,
                    stroke=colour,
                    stroke_width=1.5,
                )
            )
    out.append(_text(LEFT + plot_w / 2, HEIGHT - 8, "allowed loss", soft=True))
    return out


def _ticks(top: float) -> list[float]:
    step = next(s for s in (0.5, 1.0, 2.0, 5.0, 10.0, 1e9) if top / s <= 6)
    return [step * i for i in range(int(top / step) + 1)]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "middle",
    soft: bool = False,
    weight: int | None = None,
) -> Html:
    colour = "#565c64" if soft else "#1d2024"
    return tag(
        "text",
        text,
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        text_anchor=anchor,
        fill=colour,
        font_weight=weight,
    )
