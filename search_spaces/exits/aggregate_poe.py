"""Product of the exits so far.

Product anytime (Jazbec et al., NeurIPS 2023, as for the cache): p_l ~ prod_{j <= l}
max(z_j, t)^{w_j} with w_j = j / L. A class whose logit falls to t = 0 once has no probability from
then on: the set of possible answers only shrinks.
"""

from __future__ import annotations

import numpy as np

from search_spaces.exits.base import F64, Aggregator
from search_spaces.parts import Exits

_TINY = 1e-150  # in place of 0: its logarithm is finite and outweighs every other factor


def combine(logits: F64, layers: np.ndarray, depth: int, exits: Exits) -> F64:
    """Ln of the product up to each exit, [N, K, C], finite; j counts layers, L = depth."""
    floor = max(exits.poe_floor or 0.0, _TINY)
    weights = np.asarray(layers, dtype=np.float64) / depth
    logs = np.log(np.maximum(logits, floor)) * weights[:, None]
    product: F64 = np.cumsum(logs, axis=-2)
    return product


AGGREGATOR = Aggregator(kind="poe", combine=combine)
