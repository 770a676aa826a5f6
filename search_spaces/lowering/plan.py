"""Tokens of one sequence through each layer of a candidate, in expectation under stated shares.

A skim sets who enters (`skimmed`). An exit of samples sets how
often a layer is run, an exit of single tokens sets how many of them go through it; those that left
are still attended to by the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from search_spaces.activity import Assumed
from search_spaces.candidate import Candidate, Skim, stack_depth, stacks_of
from search_spaces.errors import InputError
from search_spaces.lowering.skimmed import Work, chooses, ranks, skimmed, stated_counts, whole

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One sequence in the layers of a stack. All arrays [L]."""

    reach: F64  # executions of the layer
    alive: F64  # of them and of those that a gate sends past it
    entering: I64  # tokens that have keys and values made
    queries: I64  # tokens that its attention answers; 0: the layer does not run
    only_keys: I64  # of those that enter, who ask nothing: they left or passed by
    ffn: I64  # tokens that enter its feed-forward network
    ranks: Bool  # attention received decides who goes on
    gated: I64  # tokens that a learned gate scores, or whose state is looked up; 0: none
    owed: F64  # tokens per execution, of those that skip the layer, whose keys are still made


def plan_layers(
    candidate: Candidate, assumed: Assumed, *, stack: str, tokens: int, step: bool = False
) -> LayerPlan:
    """What happens in each layer of a stack.

    Args:
        candidate: A legal one.
        assumed: Shares of exits.
        stack: "encoder" or "decoder".
        tokens: That enter the first layer, of one sequence.
        step: A decoding step: shares of tokens are then how often a layer is run.
    """
    depth = stack_depth(candidate, stack)
    work, plan = whole(np.array([tokens]), depth), _empty(depth)
    for skim in candidate.skim:
        if stack in stacks_of(candidate.backbone, skim.stack, default="encoder"):
            work = _skim(plan, skim, work, step)
    plan = replace(
        plan,
        entering=work.entering[0],
        queries=work.asking[0].copy(),
        only_keys=np.where(plan.ranks, 0, work.entering[0] - work.asking[0]),
        ffn=work.ffn[0].copy(),
    )
    exits = candidate.exits
    if exits is not None and stack in stacks_of(
        candidate.backbone, exits.stack, default="decoder"
    ):
        _leave(plan, candidate, assumed, tokens, step, stack)
    return plan


def leaving(candidate: Candidate, assumed: Assumed) -> F64:
    """Share of inputs (or tokens) that leave at each exit [X].

    Raises:
        InputError: the exits need shares and there is not one of each.
    """
    exits = candidate.exits
    assert exits is not None
    if exits.criterion == "static":
        return np.ones(1)
    if exits.criterion == "position_schedule":
        # Stretches of text are equally long; one that is not cut short leaves at the depth.
        found = [np.mean([x == layer for x in exits.schedule]) for layer in exits.layers]
        return np.asarray(found, dtype=np.float64)
    if len(assumed.exit_share) != len(exits.layers):
        text = f"needs one share per exit: {len(exits.layers)}"
        raise InputError.one("arguments", "exit_share", assumed.exit_share, text)
    return np.asarray(assumed.exit_share, dtype=np.float64)


def _empty(depth: int) -> LayerPlan:
    zero = np.zeros(depth, dtype=np.int64)
    return LayerPlan(
        reach=np.ones(depth),
        alive=np.ones(depth),
        entering=zero,
        queries=zero,
        only_keys=zero,
        ffn=zero,
        ranks=np.zeros(depth, dtype=bool),
        gated=zero.copy(),
        owed=np.zeros(depth),
    )


def _skim(plan: LayerPlan, skim: Skim, work: Work, step: bool) -> Work:
    """Work under one more skim; notes who decides, and while decoding how often a layer runs."""
    depth = plan.reach.size
    if not step or skim.mechanism == "lookup":
        work = skimmed(work, skim, stated_counts(skim, work.alive[:, 0]))
    for i, layer in enumerate(skim.layers):
        at = layer - 1
        if at >= depth:
            continue
        if chooses(skim) or skim.mechanism == "lookup":
            plan.gated[at] = work.alive[0, at]
        if step and skim.keep_rate:
            plan.reach[at] *= skim.keep_rate[i]
        plan.ranks[at] |= ranks(skim) and skim.point == "after_attn" and not step
    return work


def _leave(
    plan: LayerPlan, candidate: Candidate, assumed: Assumed, tokens: int, step: bool, stack: str
) -> None:
    exits = candidate.exits
    assert exits is not None
    if exits.kv_policy == "self_speculative":
        return
    stays = 1.0 - np.cumsum(leaving(candidate, assumed))
    alive = np.ones(plan.reach.size)
    for layer, share in zip(exits.layers, stays, strict=True):
        alive[layer:] = max(share, 0.0)
    if exits.granularity == "sample" or step:
        plan.reach[:] *= alive
        plan.alive[:] = alive
    elif stack == "encoder":
        live = np.ceil(plan.queries * alive - 1e-9).astype(np.int64)
        plan.only_keys[:] += plan.queries - live
        plan.queries[:] = live
        plan.ffn[:] = np.minimum(plan.ffn, live)
    if step and exits.kv_policy == "copy_state":
        plan.owed[:] = 1.0 - alive
