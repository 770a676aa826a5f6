"""Each token (or sequence) takes the k experts that score highest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.routers.base import Router


def select(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """The k best experts, best first; equal scores go to the lower number.

    Args:
        scores: [..., E].
        k: Experts per row, 1 <= k <= E.

    Returns:
        Expert numbers [..., k].
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float64), axis=-1, kind="stable")
    return order[..., :k]


ROUTER = Router(kind="token_choice", select=select)
