"""One minus the entropy over its maximum (FastBERT's speed, as a certainty)."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from search_spaces.exits.base import F64, ExitCriterion, entropy_nats


def score(logits: NDArray[Any], temperature: float = 1.0) -> F64:
    """1 - H / ln C in [0, 1], shape [...] for logits [..., C], C >= 2."""
    return 1.0 - entropy_nats(logits, temperature) / math.log(logits.shape[-1])


CRITERION = ExitCriterion(
    kind="entropy_normalized",
    score=score,
    always_exits_at=lambda num_classes: 0.0,
    highest=1.0,
)
