"""Tokens that receive the most attention stay (PoWER-BERT's significance score)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.skims.base import SkimScore


def importance(attention: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.float64]:
    """Mean attention that each token receives from its sample's own tokens, over all heads.

    Args:
        attention: Probabilities [B, heads, query, key], padded keys at 0.
        lengths: Unpadded token counts [B].

    Returns:
        [B, key]; padded queries count for nothing.
    """
    n = attention.shape[-1]
    lengths = np.asarray(lengths)
    own = np.arange(n) < lengths[:, None]  # [B, query]
    summed = np.einsum("bhqk,bq->bk", np.asarray(attention, dtype=np.float64), own)
    result: NDArray[np.float64] = summed / (lengths[:, None] * attention.shape[1])
    return result


def keep(
    scores: NDArray[Any], lengths: NDArray[Any], counts: NDArray[Any], protected: int = 1
) -> NDArray[np.bool_]:
    """Which positions stay: the protected first ones, then the best, up to the count.

    The order of those kept is that of the input. Equal scores keep the earlier position.

    Args:
        scores: Importance [B, n].
        lengths: Unpadded token counts [B]; positions from there on are padding, never kept.
        counts: Tokens to keep [B], protected ones included (`candidate.keep_counts`).
        protected: Positions 0 .. protected - 1 are always kept.

    Returns:
        Mask [B, n] with exactly min(counts, lengths) true values a row.
    """
    n = scores.shape[-1]
    position = np.arange(n)
    ranked = np.asarray(scores, dtype=np.float64).copy()
    ranked[:, :protected] = np.inf
    ranked[position >= np.asarray(lengths)[:, None]] = -np.inf
    rank = np.argsort(np.argsort(-ranked, axis=-1, kind="stable"), axis=-1, kind="stable")
    stays: NDArray[np.bool_] = rank < np.minimum(counts, lengths)[:, None]
    return stays


SKIM = SkimScore(kind="attention_received", importance=importance, keep=keep)
