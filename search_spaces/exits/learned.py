"""A small head predicts whether the exit is right.

BERxiT (Xin et al., EACL 2021) and the early classifier of CALM (Schuster et al., NeurIPS 2022).
BERxiT exits where P(wrong) < t, so the score here is 1 - P(wrong).
"""

from __future__ import annotations

from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.parts import Exits


def trail(exits: Exits, seen: Evidence) -> F64:
    """P(right) = sigmoid(w . h_l + b) in [0, 1], [N, X], as recorded."""
    return seen.array("learned")


CRITERION = ExitCriterion(
    kind="learned",
    trail=trail,
    aux=("learned",),
    always_exits_at=lambda num_classes: 0.0,
    highest=1.0,
    needs_classes=False,
)
