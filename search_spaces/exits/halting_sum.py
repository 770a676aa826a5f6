"""Sum of halting probabilities so far.

ACT (Graves 2016) and Universal Transformer (Dehghani et al., ICLR 2019) halt at
min{t: sum_{j <= t} p_j >= 1 - eps}: the threshold is 1 - eps.
"""

from __future__ import annotations

import numpy as np

from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.parts import Exits


def trail(exits: Exits, seen: Evidence) -> F64:
    """sum_{j <= l} p_j over the active exits, not below 0, [N, X]; p_j as recorded."""
    total: F64 = np.cumsum(seen.array("halting"), axis=-1)
    return total


CRITERION = ExitCriterion(
    kind="halting_sum",
    trail=trail,
    aux=("halting",),
    always_exits_at=lambda num_classes: 0.0,
    needs_classes=False,
)
