"""Training gives every expert equally many tokens; answering, each token takes its best expert.

BASE layers (Lewis et al., ICML 2021): a linear assignment in training, greedy top 1 when it
answers, where loads are as uneven as the scores make them.
"""

from __future__ import annotations

import math

import numpy as np

from search_spaces.routers.base import F64, I64, Assignment, Router, Routing, limit, ranked

_STEP = 1e-3  # least raise of a bid, of the spread of scores: the sum is off by at most T times it


def balanced(scores: F64) -> I64:
    """Expert of each token [T] by an auction (Bertsekas 1992) with ceil(T / E) places per expert.

    Every token without a place bids for the expert whose score less price is highest, as much as
    it gains over the second best; an expert keeps its highest bids, and its price is the lowest of
    them once it is full.

    Args:
        scores: [T, E], finite.
    """
    T, E = scores.shape
    places = math.ceil(T / E)
    if E == 1:
        return np.zeros(T, dtype=np.int64)
    step = _STEP * max(float(np.ptp(scores)), 1e-12)
    taken = np.full(T, -1, dtype=np.int64)
    offers = np.full(T, -np.inf)
    prices = np.zeros(E)
    while (waiting := np.flatnonzero(taken < 0)).size:
        value = scores[waiting] - prices
        best = value.argmax(axis=1)
        top = np.partition(value, -2, axis=1)[:, -2:]
        taken[waiting] = best
        offers[waiting] = prices[best] + top[:, 1] - top[:, 0] + step
        for expert in np.unique(best):
            here = np.flatnonzero(taken == expert)
            order = here[np.argsort(-offers[here], kind="stable")]
            taken[order[places:]] = -1
            if order.size >= places:
                prices[expert] = offers[order[places - 1]]
    return taken


def assign(routing: Routing) -> Assignment:
    """Balanced in training, the best expert else; weight sigmoid of the score.

    y = x + sigmoid(x . w_e) E_e(x).
    """
    scores = routing.scores
    if routing.training:
        steps = scores.reshape(-1, *scores.shape[-2:])
        choices = np.stack([balanced(step) for step in steps]).reshape(scores.shape[:-1])
        choices = choices[..., None]
    else:
        choices = ranked(scores)
        choices = choices if routing.moe.overflow == "reroute" else choices[..., :1]
    return limit(choices, 1.0 / (1.0 + np.exp(-scores)), routing)


ROUTER = Router(kind="balanced_assignment", assign=assign)
