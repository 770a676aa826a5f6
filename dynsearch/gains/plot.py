"""Measured speed-ups as one SVG: a panel each batch size and number format, bars by family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from dynsearch.export.records import LOSS_LEVELS
from dynsearch.gains.cells import speed_cells
from dynsearch.report import svg
from dynsearch.report.markup import Html, tag
from search_spaces.candidate import DTYPES

COLOURS = {  # the report's colours of the same ideas
    "static": svg.GREY,
    "exit-only": svg.BLUE,
    "skim-only": svg.GREEN,
    "experts-only": svg.ORANGE,
    "joint": svg.RED,
}
WIDTH, HEIGHT = 430, 250  # of a panel
LEFT, BOTTOM, TOP, RIGHT = 44, 44, 34, 12
LEGEND = 34


def figure(results: Sequence[Mapping[str, Any]]) -> str:
    """An SVG image; `results` are one job's `result.json` contents, one a seed.

    A bar is the mean over seeds that have such a point, with their number where not all have one.
    It is hollow where the confirmed loss of one of them is above the level.
    """
    cells = [c for c in speed_cells(results) if c["family"] in COLOURS and "speed_up" in c]
    groups = sorted(
        {(c["batch"], c["dtype"]) for c in cells}, key=lambda g: (g[0], DTYPES.index(g[1]))
    )
    shown = {name: c for name, c in COLOURS.items() if any(x["family"] == name for x in cells)}
    top = max((c["speed_up"] for c in cells), default=1.0) * 1.12
    seeds = len(results)
    drawn = [_panel(cells, batch, dtype, top, shown, seeds) for batch, dtype in groups]
    width, height = svg.panels_size(len(drawn), WIDTH, HEIGHT, LEGEND)
    title = f"{results[0]['job']}: measured speed-up by allowed loss"
    return svg.image(
        title, width, height, _legend(shown, seeds), svg.panels(drawn, WIDTH, HEIGHT, LEGEND)
    )


def _legend(shown: Mapping[str, str], seeds: int) -> list[Html]:
    out, x = [], LEFT
    for family, colour in shown.items():
        out.append(tag("rect", x=x, y=12, width=12, height=12, fill=colour, rx=2))
        out.append(svg.text(x + 17, 22, family, anchor="start"))
        x += 17 + 8 * len(family) + 12
    words = "hollow: confirmed loss above the level"
    if seeds > 1:
        words = f"hollow: missed in a seed; number: of {seeds} seeds"
    out.append(svg.text(x, 22, words, anchor="start", soft=True))
    return out


def _panel(
    cells: Sequence[Mapping[str, Any]],
    batch: int,
    dtype: str,
    top: float,
    shown: Mapping[str, str],
    seeds: int,
) -> list[Html]:
    plot_w, plot_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    order = "" if batch == 1 else ", sorted by length"
    out = [svg.text(LEFT, 20, f"{dtype}, batch {batch}{order}", anchor="start", weight=600)]
    for tick in _ticks(top):
        y = TOP + plot_h * (1 - tick / top)
        colour = "#8a8f97" if tick == 1 else svg.LINE
        out += svg.tick(LEFT, WIDTH - RIGHT, y, f"{tick:g}x", colour)
    slot = plot_w / len(LOSS_LEVELS)
    bar = slot * 0.8 / len(shown)
    for i, level in enumerate(LOSS_LEVELS):
        middle = LEFT + slot * (i + 0.5)
        label = "no loss" if level == 0 else f"{100 * level:g} point{'s' * (level != 0.01)}"
        out.append(svg.text(middle, HEIGHT - BOTTOM + 18, label))
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
            missed = max(c["confirmed_loss"] for c in mine) > level + 1e-12
            high = plot_h * speed / top
            x = middle + bar * (k - len(shown) / 2)
            words = f"{family}: {speed:.2f}x"
            bottom = TOP + plot_h
            out.append(
                svg.bar(x + 1, bottom - high, bar - 2, bottom, colour, words, hollow=missed)
            )
            if len(mine) < seeds:
                number = svg.text(x + bar / 2, bottom - high - 4, str(len(mine)), soft=True)
                out.append(number)
    out.append(svg.text(LEFT + plot_w / 2, HEIGHT - 8, "allowed loss", soft=True))
    return out


def _ticks(top: float) -> list[float]:
    step = next(s for s in (0.5, 1.0, 2.0, 5.0, 10.0, 1e9) if top / s <= 6)
    return [step * i for i in range(int(top / step) + 1)]
