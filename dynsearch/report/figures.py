"""Fronts as SVG files for papers: one a device, white, drawn without a browser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dynsearch.export.files import safe_name, write_atomic
from dynsearch.export.front import read_front
from dynsearch.export.records import Front, FrontPoint
from dynsearch.report import svg
from dynsearch.report.markup import Html, tag
from dynsearch.report.units import quantity

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 36, 84
COLOURS = {  # the report's
    "full": "#1d2024",
    "truncated": "#7a7f87",
    "exit": "#2166c9",
    "skim": "#0b8a7b",
    "experts": "#c27508",
    "exit+skim": "#7a3fc4",
    "exit+experts": "#c7357e",
    "skim+experts": "#5c8a12",
    "exit+skim+experts": "#c93a1e",
}
Scale = Callable[[float], float]


def write_figures(run_dir: Path) -> list[Path]:
    """`figures/front-DEVICE.svg` in the run folder, for every device that has points.

    Raises:
        InputError: the run has no front yet, or it is damaged.
    """
    front = read_front(run_dir)
    folder = run_dir / "figures"
    made = []
    for device in front.devices:
        if any(p.device == device for p in front.front):
            folder.mkdir(exist_ok=True)
            path = folder / f"front-{safe_name(device)}.svg"
            made.append(write_atomic(path, front_figure(front, device)))
    return made


def front_figure(front: Front, device: str) -> str:
    """Error against predicted mean latency of one device; confirmed errors where all are known."""
    points = [p for p in front.front if p.device == device]
    confirmed = all(p.confirmed is not None for p in points)
    errors = [p.confirmed.error if confirmed and p.confirmed else p.selected.error for p in points]
    times = [p.predicted.latency_mean_s for p in points]
    limit = front.budgets.get(device, {}).get("latency_mean_s")
    shown = [limit] if limit is not None and min(times) / 3 < limit < max(times) * 3 else []
    low, high = min([*times, *shown]) / 1.06, max([*times, *shown]) * 1.06
    margin = max(0.004, 0.07 * (max(errors) - min(errors)))
    bottom, top = max(0.0, min(errors) - margin), max(errors) + margin

    def x(time: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(time / low) / math.log(high / low)

    def y(error: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (error - bottom) / (top - bottom)

    words = "confirmed" if confirmed else "selected"
    parts = [
        svg.text(LEFT, 20, f"{front.job}: {device}", anchor="start", weight=600),
        _axes((low, high), (bottom, top), x, y, f"error, % of rows, {words}"),
        [_budget(x(value), value) for value in shown],
        [_mark(p, x(t), y(e)) for p, t, e in zip(points, times, errors, strict=True)],
        _legend([f for f in COLOURS if any(p.family == f for p in points)]),
    ]
    return svg.image(f"{front.job}: front on {device}", WIDTH, HEIGHT, parts)


def _axes(
    times: tuple[float, float], errors: tuple[float, float], x: Scale, y: Scale, label: str
) -> list[Any]:
    out: list[Any] = []
    for tick in _log_ticks(*times):
        out.append(svg.line(x(tick), x(tick), TOP, HEIGHT - BOTTOM))
        out.append(svg.text(x(tick), HEIGHT - BOTTOM + 16, quantity("_s", tick)))
    step = _step(errors[1] - errors[0])
    for k in range(math.ceil(errors[0] / step), math.floor(errors[1] / step) + 1):
        out.append(svg.line(LEFT, WIDTH - RIGHT, y(k * step), y(k * step)))
        out.append(svg.text(LEFT - 6, y(k * step) + 4, f"{100 * k * step:.4g}", anchor="end"))
    out.append(svg.line(LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, HEIGHT - BOTTOM, svg.INK))
    out.append(svg.text((LEFT + WIDTH) / 2, HEIGHT - BOTTOM + 34, "predicted mean latency"))
    out.append(svg.text(LEFT, TOP - 3, label, anchor="start"))
    return out


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**k for k in powers for m in (1, 2, 5) if low <= m * 10.0**k <= high]


def _step(span: float) -> float:
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= span / 5 * 0.9999)


def _mark(p: FrontPoint, x: float, y: float) -> Html:
    colour = COLOURS.get(p.family, COLOURS["exit"])
    return tag(
        "circle",
        tag("title", f"{p.id}: {p.family}, {p.dtype}"),
        cx=f"{x:.1f}",
        cy=f"{y:.1f}",
        r=6 if p.named else 4,
        fill="#ffffff" if p.dominated else colour,
        stroke="#1d2024" if p.named else colour,
        stroke_width=1.5,
    )


def _budget(x: float, value: float) -> list[Html]:
    right = x > WIDTH / 2
    place = x - 5 if right else x + 5
    return [
        svg.line(x, x, TOP, HEIGHT - BOTTOM, "#b3261e"),
        svg.text(
            place, TOP + 12, f"budget {quantity('_s', value)}", anchor="end" if right else "start"
        ),
    ]


def _legend(families: Sequence[str]) -> list[Html]:
    out: list[Html] = []
    x = float(LEFT)
    for family in families:
        out.append(tag("circle", cx=x + 5, cy=HEIGHT - 32, r=4, fill=COLOURS[family]))
        out.append(svg.text(x + 13, HEIGHT - 28, family, anchor="start"))
        x += 24 + 6.4 * len(family)
    words = "hollow: dominated after confirmation; ringed: named for an allowed loss"
    return [*out, svg.text(LEFT, HEIGHT - 10, words, anchor="start")]
