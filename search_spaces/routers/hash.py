"""The expert of a token is a fixed hash of its id (Roller et al., NeurIPS 2021).

Nothing is learned or computed; loads follow the frequencies of the tokens, which are far from even
in text, unless a table spreads them ("balanced": the next most frequent token goes to the least
loaded expert; frequency, information and clusters are tables of the user's).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.hashing import hash_words
from search_spaces.routers.base import F64, I64, Assignment, Router, Routing, limit


def balanced_table(frequencies: NDArray[Any], num_experts: int) -> I64:
    """Expert of each token id [V], by ascending load; ties go to the lower number."""
    weights = np.asarray(frequencies, dtype=np.float64)
    loads = np.zeros(num_experts)
    table = np.zeros(weights.size, dtype=np.int64)
    for token in np.argsort(-weights, kind="stable"):
        expert = int(loads.argmin())
        table[token] = expert
        loads[expert] += weights[token]
    return table


def hashed_ranking(ids: I64, num_experts: int, salt: int, table: I64 | None) -> I64:
    """All experts in an order that each id fixes [..., E]; its entry of the table comes first."""
    pairs = ids[..., None] * num_experts + np.arange(num_experts)
    order = hash_words(pairs, salt).astype(np.float64)
    if table is not None:
        first = table[ids][..., None] == np.arange(num_experts)
        order = np.where(first, -1.0, order)
    return np.argsort(order, axis=-1, kind="stable")


def hashed_expert(ids: I64, num_experts: int, salt: int) -> I64:
    """The first of `hashed_ranking` without a table [...]."""
    pairs = ids[..., None] * num_experts + np.arange(num_experts)
    first: I64 = hash_words(pairs, salt).astype(np.float64).argmin(axis=-1)
    return first


def even_gates(shape: tuple[int, ...], top_k: int) -> F64:
    """1 / k for every expert: nothing tells them apart."""
    return np.full(shape, 1.0 / top_k)


def assign(routing: Routing) -> Assignment:
    """The first k experts of the order that a token's id fixes, equally weighted."""
    order = hashed_ranking(
        routing.tokens, routing.num_experts, routing.moe.hash_salt, routing.table
    )
    choices = order if routing.moe.overflow == "reroute" else order[..., : routing.top_k]
    return limit(choices, even_gates(routing.scores.shape, routing.top_k), routing)


ROUTER = Router(kind="hash", assign=assign, reads=("tokens", "table"))
