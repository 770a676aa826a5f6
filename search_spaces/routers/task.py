"""All tokens of a task go to the same experts.

Task-MoE (Kudugunta et al., Findings of EMNLP 2021); DEMix (Gururangan et al., NAACL 2022), by
domain. So one task's experts can be cut out and served as a dense network, without any exchange.
"""

from __future__ import annotations

from search_spaces.routers.base import Assignment, Router, Routing, limit
from search_spaces.routers.hash import even_gates, hashed_ranking


def assign(routing: Routing) -> Assignment:
    """The first k experts of the order that the task fixes (the table's first), equal weights."""
    order = hashed_ranking(routing.tasks, routing.num_experts, 0, routing.table)
    choices = order if routing.moe.overflow == "reroute" else order[..., : routing.top_k]
    return limit(choices, even_gates(routing.scores.shape, routing.top_k), routing)


ROUTER = Router(kind="task", assign=assign, reads=("tasks", "table"))
