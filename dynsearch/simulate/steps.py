"""Costs of the steps that write, by what is done about keys that early exits leave out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.decode_steps import (
    DecodeCost,
    entering,
    expected_copy_state,
    expected_full,
    expected_monotone,
    expected_pipeline,
    expected_recompute,
    expected_sync,
    running_minimum,
    simulate_copy_state,
    simulate_monotone,
    simulate_pending,
    simulate_pipeline,
)
from dynsearch.sim.self_speculative import cycle_s, draw_generations
from dynsearch.simulate.decode_costs import StepCost
from dynsearch.simulate.leaving import Leaving
from dynsearch.simulate.ledger import QUANTITIES, SECONDS
from search_spaces.activity import tokens_per_cycle
from search_spaces.exits.position_schedule import budgets
from search_spaces.parts import Exits

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

DEFAULT_CAP = 8  # tokens that wait for a pass through the network where nothing is stated


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps of one generation."""

    count: int  # S
    first: int  # position of the first one
    acceptance: float  # of drafted tokens
    sample: bool  # whether a whole text, not each token, has a depth of its own


def cap_of(exits: Exits) -> int:
    """Tokens of a row that may wait."""
    return exits.kv_cap or DEFAULT_CAP


def tokens_at_once(exits: Exits | None, batch: int, new_tokens: int) -> int:
    """Most tokens that a step takes along."""
    if exits is None:
        return batch
    if exits.kv_policy in ("recompute", "sync_parallel"):
        return batch * (cap_of(exits) + 1)
    if exits.kv_policy == "self_speculative":
        return batch * ((exits.draft_tokens or 1) + 1)
    return batch


def expected_steps(
    cost: StepCost, leaving: Leaving, exits: Exits | None, steps: Steps, batch: int, *, wait: bool
) -> F64:
    """Mean costs of all steps of a batch [4].

    Args:
        cost: Of a step.
        leaving: Where tokens leave.
        exits: The policy; None: the whole network.
        steps: How many.
        batch: Rows B.
        wait: Whether rows that have left wait for the deepest one.
    """
    if steps.count == 0:
        return np.zeros(QUANTITIES)
    begin = cost.always[:, batch - 1] * steps.count
    parts, law, on = cost.parts, leaving.law, leaving.on
    policy = None if exits is None else exits.kv_policy
    if exits is None or not on.any():
        return begin + expected_full(parts, batch) * steps.count
    if policy == "self_speculative":
        return _speculative(cost, exits, steps, batch)
    if exits.schedule or policy == "monotone":
        reach, checks = _reach(exits, leaving, steps)
        total: F64 = begin + expected_monotone(parts, reach, checks, batch).sum(axis=1)
        return total
    if policy == "recompute":
        each = expected_recompute(parts, law, on, batch, cap_of(exits))
    elif policy == "sync_parallel":
        exit_layer = int(np.flatnonzero(on)[0])
        each = expected_sync(parts, law, exit_layer, batch, cap_of(exits))
    elif policy == "pipeline":
        each = _pipelined(parts, leaving, batch)
    else:
        each = expected_copy_state(parts, law, on, batch, wait=wait)
    return begin + each * steps.count


def ideal_steps(cost: StepCost, leaving: Leaving, exits: Exits | None, steps: Steps) -> F64:
    """What the method says that all steps of one row cost [4], whatever they cost in a batch.

    Every token counts alone; where tokens wait for a pass that takes them along, each layer counts
    once a token.
    """
    policy = None if exits is None else exits.kv_policy
    if exits is None or not leaving.on.any() or steps.count == 0:
        return expected_steps(cost, leaving, exits, steps, 1, wait=False)
    if policy == "self_speculative":
        return _speculative(cost, exits, steps, 1, alone=True)
    if policy not in ("recompute", "sync_parallel"):
        return expected_steps(cost, leaving, exits, steps, 1, wait=False)
    parts, enters = cost.parts, entering(leaving.law)
    each = parts.layer[:, :, 0].sum(axis=1) + parts.check[:, :, 0] @ (leaving.on * enters)
    total: F64 = (cost.always[:, 0] + each + enters[-1] * parts.head[:, 0]) * steps.count
    return total


def simulated_steps(
    rng: np.random.Generator,
    cost: StepCost,
    leaving: Leaving,
    exits: Exits | None,
    steps: Steps,
    batch: int,
    draws: int,
    *,
    wait: bool,
) -> F64:
    """Seconds of all steps of each of so many batches [draws]; arguments as `expected_steps`."""
    S = steps.count
    if S == 0:
        return np.zeros(draws)
    begin = cost.always[SECONDS, batch - 1] * S
    parts, on = _seconds(cost.parts), leaving.on
    policy = None if exits is None else exits.kv_policy
    if exits is None or not on.any():
        return np.full(draws, begin + float(expected_full(parts, batch)[0]) * S)
    if policy == "self_speculative":
        drafted = exits.draft_tokens or 1
        cycles = draw_generations(rng, steps.acceptance, drafted, batch, S, draws)
        each: F64 = cycles * _cycle(cost, exits, batch)[SECONDS]
        return each
    if exits.schedule:
        reach, checks = _reach(exits, leaving, steps)
        total = expected_monotone(parts, reach, checks, batch).sum()
        return np.full(draws, begin + float(total))
    rows = (draws, 1, batch) if steps.sample else (draws, S, batch)
    where = np.broadcast_to(
        leaving.where[rng.integers(0, leaving.where.size, rows)], (draws, S, batch)
    )
    if policy == "monotone":
        sums = [float(simulate_monotone(parts, one, on)[0].sum()) for one in where]
        times: F64 = np.array(sums, dtype=np.float64) + begin
        return times
    flat = where.reshape(-1, batch)
    if policy in ("recompute", "sync_parallel"):
        deep = _first_deep(on, exits)
        found = simulate_pending(parts, flat, on, cap_of(exits), first_deep=deep)
    elif policy == "pipeline":
        stage, of_layer = _stages(parts, on, batch)
        found = simulate_pipeline(stage, of_layer[flat.max(axis=1)])
    else:
        found = simulate_copy_state(parts, flat, on, wait=wait)
    summed: F64 = begin + found[0].reshape(draws, S).sum(axis=1)
    return summed


def slowest_steps(
    cost: StepCost, leaving: Leaving, exits: Exits | None, steps: Steps, batch: int, *, wait: bool
) -> F64:
    """Costs where no token leaves early and no draft is accepted [4]; arguments as above.

    Where that is not the slowest case, as tokens that left are made up for, the slowest one.
    """
    if steps.count == 0:
        return np.zeros(QUANTITIES)
    if exits is not None and exits.kv_policy == "self_speculative":
        return _speculative(cost, exits, replace(steps, acceptance=0.0), batch)
    begin = cost.always[:, batch - 1] * steps.count
    checks = cost.parts.check[:, :, batch - 1] @ leaving.on
    full: F64 = (expected_full(cost.parts, batch) + checks) * steps.count
    if exits is not None and leaving.on.any():
        if exits.kv_policy in ("recompute", "sync_parallel"):
            full = np.maximum(full, _made_up_for(cost.parts, leaving.on, exits, steps, batch))
        elif exits.kv_policy == "copy_state" and not wait:
            full = np.maximum(full, _copied(cost.parts, leaving.on, batch) * steps.count)
    slowest: F64 = begin + full
    return slowest


def _made_up_for(
    parts: DecodeCost, on: NDArray[np.bool_], exits: Exits, steps: Steps, batch: int
) -> F64:
    """Costs of the slowest rhythm of m tokens that leave and one that does not, m up to the cap.

    The steps may begin with a pass over all that can wait.
    """
    cap, early = cap_of(exits), int(np.flatnonzero(on)[-1])
    deep = _first_deep(on, exits)
    each = []
    for waiting in range(cap + 1):
        where = np.full((waiting + 1, batch), early)
        where[-1] = on.size - 1
        each.append(simulate_pending(parts, where, on, cap, first_deep=deep))
    rate = np.max([costs.mean(axis=1) for costs in each], axis=0)
    once = np.max([costs[:, -1] for costs in each], axis=0) - each[0][:, -1]
    most: F64 = rate * steps.count + once
    return most


def _copied(parts: DecodeCost, on: NDArray[np.bool_], batch: int) -> F64:
    """Costs of a step of which each layer has as many rows left as make it slowest."""
    full = parts.layer[..., :batch] + on[:, None] * parts.check[..., :batch]
    full[..., :-1] += parts.keys[..., :batch][..., -2::-1]
    slowest: F64 = full.max(axis=2).sum(axis=1) + parts.head[:, batch - 1]
    return slowest


def _first_deep(on: NDArray[np.bool_], exits: Exits) -> int:
    """0-based layer at which waiting tokens start."""
    return int(np.flatnonzero(on)[0]) + 1 if exits.kv_policy == "sync_parallel" else 0


def schedule_reach(exits: Exits, depth: int, first: int, count: int) -> F64:
    """Whether each step runs each layer under a schedule by position, 0 or 1 [S, L]."""
    places = first + np.arange(count)
    layers = budgets(places, exits.schedule, exits.schedule_length or len(exits.schedule))
    return (np.arange(depth) < layers[:, None]).astype(np.float64)


def _reach(exits: Exits, leaving: Leaving, steps: Steps) -> tuple[F64, NDArray[np.bool_]]:
    """Share of rows that run each layer by step [S, L], and where exits are checked [L]."""
    L = leaving.law.size
    if exits.schedule:
        reach = schedule_reach(exits, L, steps.first, steps.count)
        return reach, np.zeros(L, dtype=bool)
    return running_minimum(leaving.law, steps.count), leaving.on


def _seconds(parts: DecodeCost) -> DecodeCost:
    """The times alone, with an axis of length 1 for devices."""
    only = slice(SECONDS, SECONDS + 1)
    return replace(
        parts,
        layer=parts.layer[only],
        keys=parts.keys[only],
        check=parts.check[only],
        head=parts.head[only],
    )


def _cycle(cost: StepCost, exits: Exits, batch: int, *, alone: bool = False) -> F64:
    """Costs of a cycle: drafts by the lower layers with a head, then the upper ones over all.

    `alone`: the upper layers cost as much as if each token went through them by itself.
    """
    drafted = exits.draft_tokens or 1
    E, many = exits.layers[0], batch * (drafted + 1)
    draft = cost.parts.layer[:, :E, batch - 1].sum(axis=1) + cost.answer[:, batch - 1]
    draft = draft + cost.always[:, batch - 1]
    upper = cost.parts.layer[:, E:]
    verify = (upper[..., 0] * many if alone else upper[..., many - 1]).sum(axis=1)
    verify = verify + cost.answer[:, batch - 1] * (drafted + 1)
    cycle: F64 = cycle_s(draft, verify, drafted)
    return cycle


def _speculative(
    cost: StepCost, exits: Exits, steps: Steps, batch: int, *, alone: bool = False
) -> F64:
    mean = float(tokens_per_cycle(steps.acceptance, exits.draft_tokens or 1, batch))
    return np.asarray(_cycle(cost, exits, batch, alone=alone) * steps.count / mean)


def _stages(parts: DecodeCost, on: NDArray[np.bool_], batch: int) -> tuple[F64, I64]:
    """Costs of the stages between exits [D, G], and the stage of each layer [L]."""
    each = parts.layer[:, :, batch - 1] + on * parts.check[:, :, batch - 1]
    of_layer = np.concatenate([[0], np.cumsum(on)[:-1]]).astype(np.int64)
    stage = np.stack(
        [each[:, of_layer == g].sum(axis=1) for g in range(int(of_layer.max()) + 1)], axis=1
    )
    stage[:, -1] += parts.head[:, batch - 1]
    return stage, of_layer


def _pipelined(parts: DecodeCost, leaving: Leaving, batch: int) -> F64:
    """Time from token to token; all else is spent on the whole network, exit or not."""
    stage, of_layer = _stages(parts, leaving.on, batch)
    deepest = np.diff(np.cumsum(leaving.law) ** batch, prepend=0.0)
    law = np.bincount(of_layer, weights=deepest, minlength=stage.shape[1]).astype(np.float64)
    found: F64 = stage.sum(axis=1)
    found[SECONDS] = expected_pipeline(stage[SECONDS : SECONDS + 1], law)[0]
    return found
