"""The class that most exits so far name answers; of equal ones the lower number.

Sun et al., Early Exiting with Ensemble Internal Classifiers, 2021.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exits.base import F64, Aggregator
from search_spaces.parts import Exits

_NO_VOTE = 1e-6  # in place of 0 votes, so that logarithms are finite


def count_votes(votes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Votes for each class that was named at all, up to each exit: [..., K] -> [..., K, C']."""
    classes = int(votes.max(initial=0)) + 1
    named = votes[..., None] == np.arange(classes)
    counted: NDArray[np.int64] = np.cumsum(named, axis=-2)
    return counted


def combine(logits: F64, layers: NDArray[Any], depth: int, exits: Exits) -> F64:
    """Ln of the votes up to each exit, [N, K, C]: their softmax is the share of votes."""
    counted = count_votes(logits.argmax(axis=-1))
    shares = np.full(logits.shape, _NO_VOTE)
    shares[..., : counted.shape[-1]] = np.maximum(counted, _NO_VOTE)
    logs: F64 = np.log(shares)
    return logs


AGGREGATOR = Aggregator(kind="vote", combine=combine)
