"""Cosine between the states before and after a layer: one that no longer changes is settled.

Schuster et al., Confident Adaptive Language Modeling (CALM), NeurIPS 2022.
"""

from __future__ import annotations

from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.parts import Exits


def trail(exits: Exits, seen: Evidence) -> F64:
    """cos(h_l, h_{l-1}) in [-1, 1], [N, X], as recorded."""
    return seen.array("cosine_previous")


CRITERION = ExitCriterion(
    kind="state_similarity",
    trail=trail,
    aux=("cosine_previous",),
    always_exits_at=lambda num_classes: -1.0,
    highest=1.0,
    needs_classes=False,
)
