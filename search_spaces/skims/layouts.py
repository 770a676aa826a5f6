"""What a batch of uneven rows costs: tokens and pairs of tokens that are really computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.records import require_known
from search_spaces.vocabulary import LAYOUTS

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """Work of one layer on a batch."""

    tokens: I64  # [...] rows of the matrices
    pairs: I64  # [...] sum of n^2 that attention computes
    calls: I64  # [...] separate kernel calls of each operator


def executed(layout: str, counts: NDArray[Any]) -> Executed:
    """Work on batches whose rows hold `counts` tokens.

    pad_to_max: B max n tokens and B (max n)^2 pairs, in one call. packed: sum n and sum n^2, in
    one call that knows where rows begin. per_sequence: the same work in as many calls as rows.
    Rows without tokens are not there.

    Args:
        layout: Name in `LAYOUTS`.
        counts: Live tokens of each row [..., B].

    Raises:
        InputError: unknown layout.
    """
    n = np.asarray(counts, dtype=np.int64)
    rows = (n > 0).sum(axis=-1)
    if layout == "pad_to_max":
        longest = n.max(axis=-1)
        calls = (rows > 0).astype(np.int64)
        return Executed(tokens=rows * longest, pairs=rows * longest**2, calls=calls)
    require_known(layout, LAYOUTS, "skim.layout", "layout")
    calls = rows if layout == "per_sequence" else (rows > 0).astype(np.int64)
    return Executed(tokens=n.sum(axis=-1), pairs=(n**2).sum(axis=-1), calls=calls)
