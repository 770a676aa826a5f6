"""Which tokens reach which layer and which expert: arrays between simulation and lowering."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Activity of B candidates over L layers and E experts."""

    reach: F64  # [B, L] share of samples that enter a layer
    tokens: F64  # [B, L, 2] E[n], E[n^2] of tokens entering layer l, given that it is reached
    expert_load: F64  # [B, L, E] share of routed tokens, sums to 1 over E
