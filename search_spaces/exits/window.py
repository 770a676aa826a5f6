"""One exit that is sure, or a window of exits that lean the same way.

ELBERT (Xie et al. 2021; the rule "bias" of its code): the confidence 1 - H / ln C reaches the
threshold, or the last w exits name the same class with a probability of at least a floor each
(the paper's 0.5 + margin, for two classes).
"""

from __future__ import annotations

import numpy as np

from search_spaces.exits.base import F64, Evidence, ExitCriterion, run_lengths, softmax
from search_spaces.exits.entropy_normalized import score
from search_spaces.parts import Exits


def trail(exits: Exits, seen: Evidence) -> F64:
    """1 where the window of w exits agrees above the floor, else 1 - H / ln C, [N, X]."""
    probability = softmax(seen.logits, 1.0).max(axis=-1)
    leans = probability >= (exits.window_floor or 0.0)
    same = np.ones(leans.shape, dtype=bool)
    same[..., 1:] = seen.votes[..., 1:] == seen.votes[..., :-1]
    # a run of w - 1 agreements among exits above the floor, begun by one above the floor
    agreed = run_lengths(same & leans, restart=leans)
    return np.where(agreed >= (exits.window or 1), 1.0, score(seen.logits))


CRITERION = ExitCriterion(
    kind="window",
    trail=trail,
    always_exits_at=lambda num_classes: 0.0,
    highest=1.0,
    fields={"window": 2, "window_floor": 0.5},
)
