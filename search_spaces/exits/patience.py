"""Exits in a row whose prediction agrees with the one before.

PABEE (Zhou et al., NeurIPS 2020). It has no threshold: a sample leaves when the count of
agreements reaches the patience.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exits.base import F64, Evidence, ExitCriterion, run_lengths
from search_spaces.parts import Exits


def agreements(predictions: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each exit agrees with the one before [..., X]; the first has nothing to agree with.

    Args:
        predictions: Arg max of the logits at the active exits, in order [..., X].
    """
    agrees = np.zeros(predictions.shape, dtype=bool)
    agrees[..., 1:] = predictions[..., 1:] == predictions[..., :-1]
    return agrees


def agreement_counts(predictions: NDArray[Any]) -> NDArray[np.int64]:
    """Length of the run of agreements that ends at each exit [..., X].

    A sample leaves at the first exit whose count reaches the patience P; exit P + 1 is the
    earliest.
    """
    return run_lengths(agreements(predictions))


def trail(exits: Exits, seen: Evidence) -> F64:
    """0 where the exit agrees with the one before, else -1, [N, X]; 0 counts."""
    return agreements(seen.logits.argmax(axis=-1)).astype(np.float64) - 1.0


CRITERION = ExitCriterion(
    kind="patience", trail=trail, has_thresholds=False, counts=True, compares=True
)
