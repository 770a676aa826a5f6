"""Largest class probability (RightTool and most later work)."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from search_spaces.exits.base import F64, ExitCriterion, softmax


def score(logits: NDArray[Any], temperature: float = 1.0) -> F64:
    """max_c p_c in [1/C, 1], shape [...] for logits [..., C]."""
    probability: F64 = softmax(logits, temperature).max(axis=-1)
    return probability


CRITERION = ExitCriterion(
    kind="max_prob",
    score=score,
    always_exits_at=lambda num_classes: 1.0 / num_classes,
    highest=1.0,
)
