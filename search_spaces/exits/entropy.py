"""Entropy of the class probabilities (BranchyNet, DeeBERT), negated: larger = surer."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from search_spaces.exits.base import F64, ExitCriterion, entropy_nats


def score(logits: NDArray[Any], temperature: float = 1.0) -> F64:
    """-H in nats, in [-ln C, 0], shape [...] for logits [..., C]."""
    return -entropy_nats(logits, temperature)


CRITERION = ExitCriterion(
    kind="entropy",
    score=score,
    always_exits_at=lambda num_classes: -math.log(num_classes),
    highest=0.0,
)
