"""Votes of the exits so far.

Sun et al., Early Exiting with Ensemble Internal Classifiers, 2021. Pair it with aggregator "vote",
which answers what won.
"""

from __future__ import annotations

import numpy as np

from search_spaces.exits.aggregate_vote import count_votes
from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.parts import Exits


def trail(exits: Exits, seen: Evidence) -> F64:
    """max_c votes_c / x^alpha at the x-th exit, [N, X]; the first exit always scores 1.

    With alpha = 1 a score is the share of votes; below 1 it can grow above 1, so that a threshold
    above 1 asks for agreement of several exits.
    """
    most = count_votes(seen.votes).max(axis=-1)
    number = np.arange(1, most.shape[-1] + 1, dtype=np.float64)
    share: F64 = most / number ** (exits.vote_power or 0.0)
    return share


CRITERION = ExitCriterion(
    kind="vote",
    trail=trail,
    always_exits_at=lambda num_classes: 0.0,
    first_scores=1.0,
    fields={"vote_power": 0.5},
)
