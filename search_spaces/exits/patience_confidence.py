"""Exits in a row that are sure.

PCEE-BERT (Zhang et al., Findings of NAACL 2022) counts where H / ln C < tau, so the score is
1 - H / ln C; a sample leaves when the count reaches the patience.
"""

from __future__ import annotations

from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.exits.entropy_normalized import score
from search_spaces.parts import Exits


def trail(exits: Exits, seen: Evidence) -> F64:
    """1 - H_l / ln C in [0, 1], [N, X]."""
    return score(seen.logits)


CRITERION = ExitCriterion(
    kind="patience_confidence",
    trail=trail,
    always_exits_at=lambda num_classes: 0.0,
    highest=1.0,
    counts=True,
)
