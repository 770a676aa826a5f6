"""Thresholds that fall with the position of a token (CALM, Schuster et al., NeurIPS 2022)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exits.base import F64


def decayed(
    thresholds: NDArray[Any], position: NDArray[Any], *, rate: float, length: int, share: float
) -> F64:
    """lambda_t = clip((1 - share) lambda + share exp(-rate t / length), 0, 1); share 0.1 there.

    Args:
        thresholds: lambda, broadcast against `position`.
        position: t, 0-based.
        rate: tau of the paper.
        length: N of the paper, the longest text.
        share: Part of the threshold that decays.
    """
    fading = share * np.exp(-rate * np.asarray(position, dtype=np.float64) / length)
    return np.clip((1.0 - share) * np.asarray(thresholds) + fading, 0.0, 1.0)
