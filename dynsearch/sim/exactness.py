"""Whether a replayed trace says exactly what would run, and if not, why.

A trace is one pass without any decision. Decisions that do not change what is computed later or
for others can be replayed on it; the rest need a pass of their own, or stand as an estimate.
"""

from __future__ import annotations

_REASONS = {
    "token_exits": "tokens that leave early are attended to in another state than the trace has, "
    "which changes the scores of later tokens",
    "other_skim": "tokens that are dropped change the scores of all that stay: a trace serves the "
    "skim setting that it was recorded with",
    "capacity": "which tokens find a slot in an expert depends on the others of the batch",
    "other_experts": "another choice of experts changes the states that later layers see",
    "shared_scale": "the scale of quantised activations depends on the others of the batch",
}


def inexact_because(
    *,
    token_exits: bool = False,
    other_skim: bool = False,
    capacity: bool = False,
    other_experts: bool = False,
    shared_scale: bool = False,
) -> tuple[str, ...]:
    """Reasons for which a replay is an estimate; none: it is exact, near ties aside.

    Args:
        token_exits: Tokens of one text leave at different layers.
        other_skim: Tokens are dropped in other layers or by other thresholds than in the trace.
        capacity: Experts have a limited number of slots.
        other_experts: The trace was recorded with other experts or another count of them.
        shared_scale: Batches are quantised with one scale.
    """
    asked = {
        "token_exits": token_exits,
        "other_skim": other_skim,
        "capacity": capacity,
        "other_experts": other_experts,
        "shared_scale": shared_scale,
    }
    return tuple(_REASONS[name] for name, holds in asked.items() if holds)
