"""The surest exit so far answers: its probability never falls from exit to exit.

Caching predictor of Jazbec et al., Towards Anytime Classification in Early-Exit Architectures by
Enforcing Conditional Monotonicity, NeurIPS 2023.
"""

from __future__ import annotations

import numpy as np

from search_spaces.exits.base import F64, Aggregator, softmax
from search_spaces.parts import Exits


def combine(logits: F64, layers: np.ndarray, depth: int, exits: Exits) -> F64:
    """Logits of the exit with the highest max_c p_c among the first ones, [N, K, C]."""
    sure = softmax(logits, 1.0).max(axis=-1)  # [N, K]
    best = np.maximum.accumulate(sure, axis=-1)
    number = np.arange(sure.shape[-1])
    # exits that raise the maximum; the first of equal ones is kept
    raised = np.ones(sure.shape, dtype=bool)
    raised[..., 1:] = sure[..., 1:] > best[..., :-1]
    kept = np.maximum.accumulate(np.where(raised, number, 0), axis=-1)
    taken: F64 = np.take_along_axis(logits, kept[..., None], axis=-2)
    return taken


AGGREGATOR = Aggregator(kind="cache", combine=combine)
