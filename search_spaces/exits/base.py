"""What every exit criterion declares, and the softmax that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitCriterion:
    """One exit criterion. A sample leaves where `score >= threshold`; larger = surer.

    Attributes:
        kind: Name in files.
        score: logits [..., C], temperature -> float64 [...]; None: the criterion has no score
            and works on the agreement of the arg max.
        always_exits_at: C -> the score that every sample reaches: a threshold at or below it
            leaves at the first exit. None where there is no score.
        highest: The score of a certain prediction; a threshold above it never leaves. None
            where there is no score.
        aux: Names of trace arrays that it needs besides the logits.
    """

    kind: str
    score: Callable[[NDArray[Any], float], F64] | None
    always_exits_at: Callable[[int], float] | None
    highest: float | None
    aux: tuple[str, ...] = ()

    def legal_range(self, num_classes: int) -> tuple[float, float] | None:
        """Thresholds (low, high] that decide anything, None where there is no threshold."""
        if self.always_exits_at is None or self.highest is None:
            return None
        return self.always_exits_at(num_classes), self.highest


def log_softmax(logits: NDArray[Any], temperature: float) -> F64:
    """Stable log-probabilities in float64.

    Args:
        logits: [..., C], any float type.
        temperature: Divides the logits; above 0.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    log_sum: F64 = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    result: F64 = shifted - log_sum
    return result


def softmax(logits: NDArray[Any], temperature: float) -> F64:
    """Stable probabilities in float64, shapes as `log_softmax`."""
    return np.exp(log_softmax(logits, temperature))


def entropy_nats(logits: NDArray[Any], temperature: float) -> F64:
    """H = -sum p ln p in nats [...], 0 ln 0 = 0."""
    logs = log_softmax(logits, temperature)
    entropy: F64 = -(np.exp(logs) * logs).sum(axis=-1)
    return entropy
