"""Exits in a row whose prediction agrees with the one before (PABEE). It has no threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exits.base import ExitCriterion


def agreement_counts(predictions: NDArray[Any]) -> NDArray[np.int64]:
    """Length of the run of agreements that ends at each exit.

    A sample leaves at the first exit whose count reaches the patience P; the first exit has
    nothing to agree with (count 0), so exit P + 1 is the earliest (methods.md B, rule 1).

    Args:
        predictions: Arg max of the logits at the active exits, in order [..., X].

    Returns:
        Counts [..., X].
    """
    counts = np.zeros(predictions.shape, dtype=np.int64)
    for x in range(1, predictions.shape[-1]):
        agrees = predictions[..., x] == predictions[..., x - 1]
        counts[..., x] = np.where(agrees, counts[..., x - 1] + 1, 0)
    return counts


CRITERION = ExitCriterion(kind="patience", has_thresholds=False, counts=True, compares=True)
