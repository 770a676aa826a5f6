"""Probability to have halted by now.

PonderNet (Banino et al. 2021); PALBERT (Balagansky and Gavrilov, NeurIPS 2022) exits where it
reaches q = 0.5.
"""

from __future__ import annotations

from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.parts import Exits


def trail(exits: Exits, seen: Evidence) -> F64:
    """1 - prod_{j <= l} (1 - lambda_j) in [0, 1], [N, X]; lambda_j = P(halt at j | not before)."""
    goes_on: F64 = 1.0 - seen.array("halting")
    stays: F64 = goes_on.cumprod(axis=-1)
    return 1.0 - stays


CRITERION = ExitCriterion(
    kind="halting_cdf",
    trail=trail,
    aux=("halting",),
    always_exits_at=lambda num_classes: 0.0,
    highest=1.0,
    needs_classes=False,
)
