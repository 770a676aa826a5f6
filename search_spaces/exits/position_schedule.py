"""A layer budget by position in the text: later tokens get no more than earlier ones.

SkipDecode (Del Corro et al. 2023); so keys and values of earlier tokens are always there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.parts import Exits


def budgets(position: NDArray[Any], schedule: tuple[int, ...], length: int) -> NDArray[np.int64]:
    """Layers that tokens at these positions get: schedule[min(floor(t S / length), S - 1)].

    Args:
        position: 0-based t, any shape.
        schedule: S budgets at evenly long stretches of `length` positions.
        length: Positions that the schedule covers; the last budget holds from there on.
    """
    stretch = np.floor(np.asarray(position, dtype=np.float64) * len(schedule) / length)
    at = np.clip(stretch, 0, len(schedule) - 1).astype(np.int64)
    return np.asarray(schedule, dtype=np.int64)[at]


def trail(exits: Exits, seen: Evidence) -> F64:
    """L - budget(t), layers past the budget, [N, X]; leaves where it reaches 0."""
    length = exits.schedule_length or len(exits.schedule)
    past: F64 = (seen.layers - budgets(seen.array("position"), exits.schedule, length)).astype(
        np.float64
    )
    return past


CRITERION = ExitCriterion(
    kind="position_schedule",
    trail=trail,
    aux=("position",),
    has_thresholds=False,
    needs_classes=False,
    fixed=True,
    fields={"schedule": (1,), "schedule_length": 1},
)
