"""A front as plain text: error against the logarithm of the predicted latency."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

Result = dict[str, Any]
WIDTH, HEIGHT = 64, 16  # characters of the plane
MARKS = {  # one letter a family; later ones are drawn over earlier ones
    "full": "F",
    "truncated": "t",
    "skim": "s",
    "experts": "m",
    "exit": "e",
    "exit+skim": "S",
    "exit+experts": "M",
    "skim+experts": "x",
    "exit+skim+experts": "A",
}
NAMED, BUDGET = "*", "|"


def front(result: Result, out: TextIO) -> None:
    """One plane for each device; what a letter means stands below."""
    points = result["front"]
    if not points:
        out.write("the front is empty: no configuration meets every budget on any device\n")
        return
    for device in dict.fromkeys(p["device"] for p in points):
        mine = [p for p in points if p["device"] == device]
        limit = result.get("budgets", {}).get(device, {}).get("latency_mean_s")
        out.write("\n".join(plane(device, mine, limit)) + "\n\n")
    used = [family for family in MARKS if any(p["family"] == family for p in points)]
    words = [f"{MARKS[family]} {family}" for family in used]
    words += [f"{NAMED} named for an allowed loss", f"{BUDGET} budget"]
    whole = "  ".join(word.replace(" ", "\0") for word in words)  # no break inside an entry
    out.write(textwrap.fill(whole, WIDTH + 8).replace("\0", " ") + "\n")


def plane(device: str, points: Sequence[Result], limit: float | None) -> list[str]:
    """Lines of one device's plane: errors by `error_bound`, what ranks; lower is better."""
    times = [float(p["predicted"]["latency_mean_s"]) for p in points]
    errors = [float(p["error_bound"]) for p in points]
    left, right = min(times), max(times)
    inside = limit is not None and left / 3 < limit < right * 3
    if limit is not None and inside:
        left, right = min(left, limit), max(right, limit)
    bottom, top = min(errors), max(errors)

    def column(time: float) -> int:
        span = math.log(right / left)
        return round((WIDTH - 1) * math.log(time / left) / span) if span else 0

    def row(error: float) -> int:
        return round((HEIGHT - 1) * (top - error) / (top - bottom)) if top > bottom else 0

    cells = [[" "] * WIDTH for _ in range(HEIGHT)]
    if limit is not None and inside:
        for line in cells:
            line[column(limit)] = BUDGET
    order = list(MARKS)
    rank = {family: place for place, family in enumerate(order)}
    placed = zip(points, times, errors, strict=True)
    for p, time, error in sorted(
        placed, key=lambda x: (bool(x[0]["named"]), rank.get(x[0]["family"], 0))
    ):
        mark = NAMED if p["named"] else MARKS.get(p["family"], "?")
        cells[row(error)][column(time)] = mark
    ticks = {0: top, HEIGHT // 2: top - (top - bottom) * (HEIGHT // 2) / (HEIGHT - 1)}
    ticks[HEIGHT - 1] = bottom
    lines = [f"{device}: error bound in % against predicted mean ms (log scale)"]
    for i, line in enumerate(cells):
        label = f"{100 * ticks[i]:6.2f}" if i in ticks else " " * 6
        lines.append(f"{label} +{''.join(line)}".rstrip())
    ends = f"{left * 1e3:.3g}", f"{right * 1e3:.3g}"
    lines.append(" " * 7 + "+" + "-" * WIDTH)
    lines.append(" " * 8 + ends[0] + ends[1].rjust(WIDTH - len(ends[0])))
    return lines
