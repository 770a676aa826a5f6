"""Fixed pseudo-random and ranked buckets, the same on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15


def hash_words(ids: NDArray[Any], salt: int = 0) -> NDArray[np.uint64]:
    """64 well-mixed bits for each id (any shape), by the finaliser of SplitMix64.

    Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """
    step = np.uint64((salt + 1) * _GOLDEN % 2**64)
    words = np.asarray(ids).astype(np.uint64) * np.uint64(_GOLDEN) + step
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixed


def hash_buckets(ids: NDArray[Any], buckets: int, salt: int = 0) -> NDArray[np.int64]:
    """Bucket 0 .. buckets - 1 of each id, evenly drawn and fixed by the salt. Any shape."""
    return (hash_words(ids, salt) % np.uint64(buckets)).astype(np.int64)


def ranked_buckets(values: NDArray[Any], buckets: int) -> NDArray[np.int64]:
    """Bucket of each entry [V] by ascending value, all buckets equally full; ties by position."""
    rank = np.argsort(np.argsort(np.asarray(values), kind="stable"), kind="stable")
    return (rank * buckets // rank.size).astype(np.int64)
