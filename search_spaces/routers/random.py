"""Experts are drawn at random for each token (THOR, Zuo et al., ICLR 2022)."""

from __future__ import annotations

import numpy as np

from search_spaces.routers.base import Assignment, Router, Routing, limit
from search_spaces.routers.hash import even_gates, hashed_ranking


def assign(routing: Routing) -> Assignment:
    """K different experts, each equally likely, fixed by the seed and the token's position."""
    shape = routing.scores.shape[:-1]
    place = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    order = hashed_ranking(place, routing.num_experts, routing.seed, None)
    choices = order if routing.moe.overflow == "reroute" else order[..., : routing.top_k]
    return limit(choices, even_gates(routing.scores.shape, routing.top_k), routing)


ROUTER = Router(kind="random", assign=assign, reads=("seed",))
