"""The layer that a hash gives to each token.

HashEE (Sun et al., Findings of ACL 2022). A sample leaves at the layer of its deepest token;
tokens, where they leave one by one, at their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.hashing import hash_buckets, ranked_buckets
from search_spaces.parts import Exits


def random_layers(
    tokens: NDArray[Any], layers: NDArray[Any] | tuple[int, ...], salt: int = 0
) -> NDArray[np.int64]:
    """Layer of each token id, drawn evenly and fixed by the salt. Any shape; one of `layers`."""
    sites = np.asarray(layers, dtype=np.int64)
    return sites[hash_buckets(tokens, sites.size, salt)]


def ranked_layers(
    values: NDArray[Any], layers: NDArray[Any] | tuple[int, ...]
) -> NDArray[np.int64]:
    """Layer of each word of a vocabulary [V], in equal buckets: larger values leave earlier.

    Args:
        values: Frequency (or information about the label, negated) of each word [V].
        layers: Layers to give out, ascending.
    """
    sites = np.asarray(layers, dtype=np.int64)
    return sites[ranked_buckets(-np.asarray(values, dtype=np.float64), sites.size)]


def sample_layers(token_layers: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Layer at which each sample leaves [N]: the deepest of its own tokens [N, n], no padding."""
    own = np.arange(token_layers.shape[-1]) < np.asarray(lengths)[:, None]
    deepest: NDArray[np.int64] = np.where(own, token_layers, 0).max(axis=-1)
    return deepest


def trail(exits: Exits, seen: Evidence) -> F64:
    """L - H(x), layers past the hashed one, [N, X]; leaves where it reaches 0."""
    return seen.layers - seen.array("hash_layer")


CRITERION = ExitCriterion(
    kind="hash",
    trail=trail,
    aux=("hash_layer",),
    has_thresholds=False,
    needs_classes=False,
    fixed=True,
    fields={"hash_kind": "random", "hash_salt": 0},
)
