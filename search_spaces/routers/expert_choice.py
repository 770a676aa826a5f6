"""Each expert takes the tokens that score highest for it (Zhou et al., NeurIPS 2022).

Loads are equal by construction; a token is seen by any number of experts, or none. Looking at all
tokens of a step, it is not causal.
"""

from __future__ import annotations

import numpy as np

from search_spaces.routers.base import Assignment, Router, Routing, capacity, gate_values


def assign(routing: Routing) -> Assignment:
    """The C = ceil(c k T / E) best tokens of every expert by softmax over experts, per group.

    Equal scores go to the earlier token.
    """
    scores = routing.scores
    T, E = scores.shape[-2:]
    size = routing.moe.routing_group_size or T
    factor = 1.0 if routing.capacity_factor is None else routing.capacity_factor
    every = np.broadcast_to(np.arange(E), scores.shape)
    affinity = gate_values(scores, every, "softmax_all")
    sent = np.zeros(scores.shape, dtype=bool)
    for start in range(0, T, size):
        part = affinity[..., start : start + size, :]
        slots = capacity(part.shape[-2], E, routing.top_k, factor)
        order = np.argsort(-part, axis=-2, kind="stable")
        rank = np.argsort(order, axis=-2, kind="stable")
        sent[..., start : start + size, :] = rank < slots
    return Assignment(
        sent=sent,
        kept=sent,
        gates=np.where(sent, affinity, 0.0),
        capacity=int(capacity(min(size, T), E, routing.top_k, factor)),
    )


ROUTER = Router(kind="expert_choice", assign=assign, alone=False, exact_k=False)
