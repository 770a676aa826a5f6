"""How many tokens a skim leaves, per sample and layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]

SCORER_WIDTH = 32  # hidden units of what ranks tokens before the first layer


def keep_counts(lengths: NDArray[Any], keep_rate: NDArray[Any], protected: int = 1) -> I64:
    """Tokens alive after a skim: min(n, max(protected + 1, ceil(keep_rate * n - 1e-9))).

    Args:
        lengths: Unpadded token counts, [CLS] and [SEP] included. Any shape.
        keep_rate: Absolute share to keep, in (0, 1]. Broadcasts against `lengths`.
        protected: Positions that are never dropped.

    Returns:
        Integer counts, shape of the broadcast. Never depends on batch mates.
    """
    n = np.asarray(lengths, dtype=np.float64)
    wanted = np.ceil(np.asarray(keep_rate, dtype=np.float64) * n - 1e-9)
    return np.minimum(n, np.maximum(protected + 1, wanted)).astype(np.int64)


def tokens_per_layer(
    lengths: NDArray[Any], keep_rate: NDArray[Any], keep_before: NDArray[Any] | None = None
) -> tuple[I64, I64]:
    """Tokens that enter each layer and that enter its feed-forward network.

    Args:
        lengths: Unpadded token counts [N].
        keep_rate: Absolute share alive after each layer [L].
        keep_before: Absolute share that enters each layer [L]; None: what the one below left.

    Returns:
        `(entering_layer, entering_ffn)`, each [N, L].
    """
    rows = np.asarray(lengths)[:, None]
    left = np.asarray(keep_rate, dtype=np.float64)
    entering = np.concatenate([[1.0], left[:-1]]) if keep_before is None else keep_before
    return keep_counts(rows, np.asarray(entering)), keep_counts(rows, left)
