"""Distance between the two largest class probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exits.base import F64, ExitCriterion, softmax


def score(logits: NDArray[Any], temperature: float = 1.0) -> F64:
    """p_(1) - p_(2) in [0, 1], shape [...] for logits [..., C], C >= 2."""
    top_two = np.partition(softmax(logits, temperature), -2, axis=-1)[..., -2:]
    gap: F64 = top_two[..., 1] - top_two[..., 0]
    return gap


CRITERION = ExitCriterion(
    kind="margin", score=score, always_exits_at=lambda num_classes: 0.0, highest=1.0
)
