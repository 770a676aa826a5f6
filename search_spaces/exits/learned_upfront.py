"""The layer that a predictor chose before the first one ran.

Depth-adaptive transformer (Elbayad et al., ICLR 2020, sequence-specific depth) and Faster
depth-adaptive transformers (Liu et al., AAAI 2021). Threshold 0 obeys the predictor, 1 leaves a
layer later.
"""

from __future__ import annotations

from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.parts import Exits


def trail(exits: Exits, seen: Evidence) -> F64:
    """L - n(x), layers past the planned one n(x) = arg max q(n | x), [N, X]."""
    return seen.layers - seen.array("planned_layer")


CRITERION = ExitCriterion(
    kind="learned_upfront", trail=trail, aux=("planned_layer",), needs_classes=False
)
