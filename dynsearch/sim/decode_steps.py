"""Time of a decoding step when tokens leave early, by what happens to the keys they lack.

A token that leaves after layer l has no keys and values above it, which later tokens attend to.

- copy_state: its last state is projected to keys and values in every layer above (Elbayad et al.
  2020, "Depth-Adaptive Transformer"; Schuster et al. 2022, "Confident Adaptive Language
  Modeling").
- recompute: a pass takes along all tokens since the last pass through the whole network; when
  `cap` of them wait, a whole pass is forced (Chen et al. 2024, "EE-LLM").
- sync_parallel: one early exit; tokens that left there are stacked and go through the layers above
  with the next token that does (Bae et al. 2023, "Fast and Robust Early-Exiting Framework").
- pipeline: stages on devices of their own; the next token starts when this one has left, while
  its own keys are made behind it (Chen et al. 2024).
- monotone: depth never grows with the position, so no key is ever missing (Del Corro et al. 2023,
  "SkipDecode").

Rows of a batch decode in lock-step: a step ends when its deepest row has left. In closed forms
depths of tokens are independent draws; `where` of a simulation may come from a trace. L is the
depth of the policy: the last of the L layers answers whoever is left. Costs are those at one
context length; as they are affine in it, the mean length gives the mean time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from search_spaces.errors import InputError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCost:
    """Seconds of the parts of a step on D devices; index m - 1 holds m tokens at once."""

    layer: F64  # [D, L, M] one layer
    keys: F64  # [D, L, M] keys and values of one layer alone
    check: F64  # [D, L, M] early exit after each layer
    head: F64  # [D, M] the last head, which always answers

    def require(self, tokens: int) -> None:
        """Ask for so many tokens at once.

        Raises:
            InputError: no costs of so many are there.
        """
        known = self.layer.shape[2]
        if tokens > known:
            text = f"a step may take along more tokens than the {known} that costs are given for"
            raise InputError.one("arguments", "cost", tokens, text)


def entering(law: F64) -> F64:
    """Share of tokens that enter each layer [..., L] from the shares that leave after it."""
    share: F64 = np.clip(law.sum(axis=-1, keepdims=True) - np.cumsum(law, axis=-1) + law, 0, 1)
    return share


def step_enters(law: F64, batch: int) -> F64:
    """P(some row of a step enters each layer) [..., L], rows independent."""
    runs: F64 = 1.0 - (1.0 - entering(law)) ** batch
    return runs


def expected_full(cost: DecodeCost, batch: int) -> F64:
    """Seconds of a step without early exits [D]."""
    return _pass(cost, np.ones(cost.layer.shape[1]), batch) + cost.head[:, batch - 1]


def expected_copy_state(
    cost: DecodeCost, law: F64, on: Bool, batch: int, *, wait: bool = True
) -> F64:
    """Mean seconds of a step [D].

    Args:
        cost: Of 1 to `batch` tokens at once.
        law: Share of tokens that leave after each layer [L].
        on: Early exits [L].
        batch: Rows B.
        wait: All rows run until the deepest has left, then the layers above make keys for all;
            else rows that have left only get keys.
    """
    cost.require(batch)
    if wait:
        runs = step_enters(law, batch)
        at_end = runs[-1] * cost.head[:, batch - 1]
        keys = cost.keys[:, :, batch - 1] @ (1.0 - runs)
        total: F64 = _pass(cost, runs, batch) + _checks(cost, runs, on, batch) + keys + at_end
        return total
    live = np.arange(batch + 1)
    chance = binom.pmf(live, batch, entering(law)[:, None])  # [L, B + 1]
    full = cost.layer[..., :batch] + on[:, None] * cost.check[..., :batch]
    total = np.einsum("dlb,lb->d", full, chance[:, 1:])
    total += np.einsum("dlb,lb->d", cost.keys[..., :batch][..., ::-1], chance[:, :batch])
    total += cost.head[:, :batch] @ chance[-1, 1:]
    return total


def simulate_copy_state(cost: DecodeCost, where: I64, on: Bool, *, wait: bool = True) -> F64:
    """Seconds of each step [D, S].

    Args:
        cost: As in `expected_copy_state`.
        where: 0-based layer after which each row's token leaves [S, B].
        on: Early exits [L].
        wait: As there.
    """
    batch = where.shape[1]
    cost.require(batch)
    live = (where[:, None] >= np.arange(on.size)[:, None]).sum(axis=2)  # [S, L]
    live = np.where(live > 0, batch, 0) if wait else live
    full, keys = _padded(cost.layer + on[:, None] * cost.check), _padded(cost.keys)
    layers = np.arange(on.size)
    total = (full[:, layers, live] + keys[:, layers, batch - live]).sum(axis=2)
    seconds: F64 = total + _padded(cost.head)[:, live[:, -1]]
    return seconds


def pending_law(whole: float, cap: int) -> F64:
    """Long-run share of steps at which m tokens wait for a pass through the network [cap + 1].

    A step goes through the whole network with probability `whole`, and for certain at m = cap;
    then m is 0 again. The chain's stationary law is a geometric one, cut at the cap.
    """
    chance = (1.0 - whole) ** np.arange(cap + 1)
    return np.asarray(chance / chance.sum())


def expected_recompute(cost: DecodeCost, law: F64, on: Bool, batch: int, cap: int) -> F64:
    """Mean seconds of a step [D].

    Args:
        cost: Of up to `batch * (cap + 1)` tokens at once.
        law: Share of tokens that leave after each layer [L].
        on: Early exits [L]; the head is asked about the newest tokens alone.
        batch: Rows B.
        cap: Tokens of a row that may wait.
    """
    cost.require(batch * (cap + 1))
    runs = step_enters(law, batch)
    pending = pending_law(float(runs[-1]), cap)
    head = cost.head[:, batch - 1]
    free = _checks(cost, runs, on, batch) + runs[-1] * head
    total = np.zeros(len(cost.layer))
    for m, share in enumerate(pending):
        whole = m == cap
        reach = np.ones(on.size) if whole else runs
        total += share * (_pass(cost, reach, batch * (m + 1)) + (head if whole else free))
    return total


def expected_sync(cost: DecodeCost, law: F64, exit_layer: int, batch: int, cap: int) -> F64:
    """Mean seconds of a step [D] with one early exit.

    Args:
        cost: Of up to `batch * (cap + 1)` tokens at once.
        law: Share of tokens that leave after each layer [L]: at the exit or at the end.
        exit_layer: 0-based layer of the exit.
        batch: Rows B.
        cap: Tokens of a row that may be stacked.
    """
    cost.require(batch * (cap + 1))
    deep = float(step_enters(law, batch)[exit_layer + 1])
    layers = np.arange(law.size)
    low, high = (part.astype(np.float64) for part in (layers <= exit_layer, layers > exit_layer))
    total = _pass(cost, low, batch) + cost.check[:, exit_layer, batch - 1]
    for m, share in enumerate(pending_law(deep, cap)):
        chance = share * (1.0 if m == cap else deep)
        total += chance * (_pass(cost, high, batch * (m + 1)) + cost.head[:, batch - 1])
    return total


def simulate_pending(
    cost: DecodeCost, where: I64, on: Bool, cap: int, *, first_deep: int = 0
) -> F64:
    """Seconds of each step [D, S] of recompute or, with `first_deep` above 0, sync_parallel.

    Args:
        cost: Of up to `B * (cap + 1)` tokens at once.
        where: 0-based layer after which each row's token would leave [S, B]; L - 1: none.
        on: Early exits [L].
        cap: Tokens of a row that may wait.
        first_deep: Waiting tokens start at this 0-based layer, and a whole pass checks what lies
            below it; 0: they start at the first, and a whole pass checks nothing if forced.
    """
    batch, L = where.shape[1], on.size
    cost.require(batch * (cap + 1))
    deepest = where.max(axis=1)
    waiting = _waiting(deepest == L - 1, cap)
    forced = waiting == cap
    depth = np.where(forced, L - 1, deepest)[:, None]
    layers = np.arange(L)
    run = layers <= depth  # [S, L]
    tokens = np.where(layers >= first_deep, batch * (waiting[:, None] + 1), batch)
    checked = on & run & ((layers < first_deep) | ~forced[:, None])
    total: F64 = (cost.layer[:, layers, tokens - 1] * run).sum(axis=2)
    total += cost.check[:, :, batch - 1] @ checked.T
    total += cost.head[:, batch - 1 : batch] * run[:, -1]
    return total


def _waiting(whole: Bool, cap: int) -> I64:
    """Tokens that wait before each step [S], from whether it would run the whole network."""
    waiting, found = 0, np.zeros(whole.size, dtype=np.int64)
    for step, deep in enumerate(whole.tolist()):
        found[step] = waiting
        waiting = 0 if deep or waiting == cap else waiting + 1
    return found


def expected_pipeline(stage_s: F64, law: F64) -> F64:
    """Mean seconds from token to token [D]: the stages up to the exit, or the slowest stage.

    Exact where stages take equal time. Else a lower bound of the long run, as tokens can catch up
    with the one before them (`simulate_pipeline`); every token passes the slowest stage, though
    only those that answer behind it wait for it.

    Args:
        stage_s: Seconds of each stage with its exit [D, G].
        law: Share of tokens that leave after each stage [G].
    """
    mean: F64 = np.maximum(stage_s @ entering(law), stage_s.max(axis=1))
    return mean


def simulate_pipeline(stage_s: F64, where: I64) -> F64:
    """Seconds from each token to the next [D, S].

    Args:
        stage_s: Seconds of each stage [D, G].
        where: 0-based stage after which each token leaves [S].
    """
    D, G = stage_s.shape
    free = np.zeros((D, G))  # when each stage has finished the token before
    answers = np.zeros((D, where.size + 1))
    for token, leaves in enumerate(where):
        clock = answers[:, token]
        for g in range(G):
            clock = np.maximum(clock, free[:, g]) + stage_s[:, g]
            free[:, g] = clock
            if g == leaves:
                answers[:, token + 1] = clock
    return np.diff(answers, axis=1)


def expected_monotone(cost: DecodeCost, reach: F64, on: Bool, batch: int) -> F64:
    """Mean seconds of the step at each position [D, S].

    Args:
        cost: Of `batch` tokens at once.
        reach: P(a row runs layer l at position t) [S, L]: 0 or 1 for a schedule; for depths that
            are cut to the smallest so far, see `running_minimum`.
        on: Early exits [L]; none for a schedule, whose steps all end with the last head.
        batch: Rows, independent.
    """
    cost.require(batch)
    runs = 1.0 - (1.0 - reach) ** batch
    step = cost.layer[:, :, batch - 1] + on * cost.check[:, :, batch - 1]
    ends = -np.diff(runs, axis=1, append=0.0)  # P(the deepest row leaves after each layer)
    return step @ runs.T + cost.head[:, batch - 1 : batch] * (ends @ ~on)


def simulate_monotone(cost: DecodeCost, where: I64, on: Bool) -> F64:
    """Seconds of the step at each position [D, S].

    Args:
        cost: Of B tokens at once.
        where: 0-based layer after which each row's token would leave [S, B], in order of
            position; no token goes deeper than one before it in its row.
        on: As in `expected_monotone`.
    """
    batch = where.shape[1]
    cost.require(batch)
    deepest = np.minimum.accumulate(where, axis=0).max(axis=1)
    step = cost.layer[:, :, batch - 1] + on * cost.check[:, :, batch - 1]
    upto = np.cumsum(step, axis=1)[:, deepest]
    seconds: F64 = upto + cost.head[:, batch - 1 : batch] * ~on[deepest]
    return seconds


def running_minimum(law: F64, positions: int) -> F64:
    """P(a token still runs each layer) [S, L] when depth may not grow with the position.

    Depths asked for are independent with law [L]; the smallest of t + 1 draws reaches layer l
    with probability S_l^(t + 1).
    """
    share: F64 = entering(law) ** np.arange(1, positions + 1)[:, None]
    return share


def linear_schedule(positions: int, shallowest: int, deepest: int) -> I64:
    """Layers run at each position [S], falling from `deepest` to `shallowest` (SkipDecode)."""
    return np.rint(np.linspace(deepest, shallowest, positions)).astype(np.int64)


def _pass(cost: DecodeCost, runs: F64, tokens: int) -> F64:
    seconds: F64 = cost.layer[:, :, tokens - 1] @ runs
    return seconds


def _checks(cost: DecodeCost, runs: F64, on: Bool, batch: int) -> F64:
    seconds: F64 = cost.check[:, :, batch - 1] @ (runs * on)
    return seconds


def _padded(table: F64) -> F64:
    """With a 0 in front, for no tokens."""
    return np.concatenate([np.zeros_like(table[..., :1]), table], axis=-1)
