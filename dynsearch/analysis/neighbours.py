"""Configurations one step of one knob away from another one.

An exit policy's neighbours: a layer more or less, an exit more or less, one threshold moved by
`RATE_STEP` of the rows in its exit rate, the next patience or temperature, another criterion at
the same exit rates, another way of batching. An outer setting's: the next value of one knob, each
other value where values have no order. What the space does not allow is no neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dynsearch.search.policies import PATIENCE, PolicyMaker
from dynsearch.search.types import F64, Params
from search_spaces.candidate import CRITERIA, EXIT_BATCHING, PolicyBatch
from search_spaces.inner import InnerSpace
from search_spaces.space import SearchSpace

RATE_STEP = 0.05  # of all rows
MIDDLE_RATE = 0.5  # exit rate of an exit where a policy has none to take a rate from


@dataclass(frozen=True, slots=True)
class Move:
    """One knob changed by one step."""

    knob: str
    before: str
    after: str


Moved = tuple[Move, PolicyBatch]  # one policy


def policy_moves(policy: PolicyBatch, space: InnerSpace, maker: PolicyMaker) -> list[Moved]:
    """Neighbours of one policy.

    Args:
        policy: One policy.
        space: Legal policies, none deeper than the trace.
        maker: Of the trace: thresholds by exit rate.
    """
    moves = [*_depths(policy, space), *_exits(policy, space, maker), *_thresholds(policy, maker)]
    moves += [*_patience(policy, space), *_criteria(policy, maker), *_batching(policy, maker)]
    return [(move, _settled(made)) for move, made in moves if _legal(made, space)]


def setting_moves(params: Params, space: SearchSpace, depth: int) -> list[tuple[Move, Params]]:
    """Neighbours of an outer setting whose first `depth` layers are seen; each network once."""
    here = space.cut(params, depth)
    found: dict[str, tuple[Move, Params]] = {}
    for name, domain in space.outer_domains().items():
        for value in _steps(tuple(getattr(domain, "values", ())), params[name]):
            made = space.cut({**params, name: value}, depth)
            if made != here:
                move = Move(name, str(params[name]), str(made[name]))
                found.setdefault(repr(made), (move, made))
    return list(found.values())


def _steps(values: tuple[Any, ...], now: Any) -> list[Any]:
    """The values next to one; all others where they are no numbers."""
    if not all(isinstance(v, int | float) for v in values):
        return [v for v in values if v != now]
    order = sorted(values)
    at = order.index(now)
    return [order[i] for i in (at - 1, at + 1) if 0 <= i < len(order)]


def _depths(policy: PolicyBatch, space: InnerSpace) -> Iterator[Moved]:
    depth = int(policy.depth[0])
    for other in (depth - 1, depth + 1):
        if space.min_depth <= other <= space.max_depth:
            below = np.arange(1, policy.exit_on.shape[1] + 1) < other
            made = _exits_at(policy, policy.exit_on[0] & below, policy.thresholds[0])
            yield (
                Move("depth", str(depth), str(other)),
                replace(made, depth=np.array([other], dtype=np.int64)),
            )


def _exits(policy: PolicyBatch, space: InnerSpace, maker: PolicyMaker) -> Iterator[Moved]:
    for site in (s for s in space.exit_layers if s < policy.depth[0]):
        on, knob = policy.exit_on[0].copy(), f"exit {site}"
        on[site - 1] ^= True
        if not on[site - 1]:
            yield Move(knob, "on", "off"), _exits_at(policy, on, policy.thresholds[0])
            continue
        made = policy if policy.exit_on[0].any() else _first_exit(policy, maker)
        if made is None:
            continue
        thresholds = made.thresholds[0].copy()
        key = int(made.criterion[0]), float(made.temperature[0])
        if key in maker.find:
            cuts = maker.find[key].cuts
            rate = MIDDLE_RATE
            near = np.flatnonzero(policy.exit_on[0])
            if near.size:
                other = int(near[np.abs(near - (site - 1)).argmin()])
                rate = float(cuts[other].rate_of(thresholds[other]))
            thresholds[site - 1] = float(cuts[site - 1].at(rate))
        elif key[0] != PATIENCE:
            continue
        yield Move(knob, "off", "on"), _exits_at(made, on, thresholds)


def _first_exit(policy: PolicyBatch, maker: PolicyMaker) -> PolicyBatch | None:
    """A policy without exits, with the first criterion that has thresholds."""
    if not maker.scorers:
        return None
    first = maker.scorers[0]
    return replace(
        policy,
        criterion=np.array([first.criterion], dtype=np.int64),
        temperature=np.array([first.temperature]),
    )


def _thresholds(policy: PolicyBatch, maker: PolicyMaker) -> Iterator[Moved]:
    key = int(policy.criterion[0]), float(policy.temperature[0])
    if key not in maker.find:
        return
    made = maker.moved(policy, (-RATE_STEP, RATE_STEP))
    for i in range(len(made)):
        column = int(np.flatnonzero(made.thresholds[i] != policy.thresholds[0])[0])
        before, after = policy.thresholds[0, column], made.thresholds[i, column]
        cuts = maker.find[key].cuts[column]
        if cuts.rate_of(before) == cuts.rate_of(after):
            continue  # beyond the last score: no row decides otherwise
        move = Move(f"threshold {column + 1}", f"{before:.4g}", f"{after:.4g}")
        yield move, made.take(np.array([i]))


def _patience(policy: PolicyBatch, space: InnerSpace) -> Iterator[Moved]:
    if policy.criterion[0] != PATIENCE:
        return
    now = int(policy.patience[0])
    for other in _steps(space.patience, now) if now in space.patience else ():
        made = replace(policy, patience=np.array([other], dtype=np.int64))
        yield Move("patience", str(now), str(other)), made


def _criteria(policy: PolicyBatch, maker: PolicyMaker) -> Iterator[Moved]:
    """Every other criterion and temperature, at the same exit rates."""
    now = int(policy.criterion[0]), float(policy.temperature[0])
    on = policy.exit_on[0]
    if now not in maker.find or not on.any():
        return
    rates = [c.rate_of(t) for c, t in zip(maker.find[now].cuts, policy.thresholds[0], strict=True)]
    for other, scorer in maker.find.items():
        if other == now or (other[0] != now[0] and other[1] != now[1]):
            continue
        cut: F64 = np.array([float(c.at(r)) for c, r in zip(scorer.cuts, rates, strict=True)])
        knob, k = ("temperature", 1) if other[0] == now[0] else ("criterion", 0)
        names = [CRITERIA[key[0]] if k == 0 else f"{key[1]:g}" for key in (now, other)]
        made = replace(
            _exits_at(policy, on, cut),
            criterion=np.array([other[0]], dtype=np.int64),
            temperature=np.array([other[1]]),
        )
        yield Move(knob, *names), made


def _batching(policy: PolicyBatch, maker: PolicyMaker) -> Iterator[Moved]:
    now = int(policy.exit_batching[0])
    for mode in (int(m) for m in maker.modes if m != now and policy.exit_on[0].any()):
        made = replace(policy, exit_batching=np.array([mode], dtype=np.int64))
        yield Move("exit_batching", EXIT_BATCHING[now], EXIT_BATCHING[mode]), made


def _exits_at(policy: PolicyBatch, on: Any, thresholds: F64) -> PolicyBatch:
    kept = np.where(on & (policy.criterion[0] != PATIENCE), thresholds, np.inf)
    return replace(policy, exit_on=on[None], thresholds=kept[None])


def _legal(policy: PolicyBatch, space: InnerSpace) -> bool:
    size = int(policy.exit_on[0].sum())
    most = len(space.exit_layers) if space.max_exits is None else space.max_exits
    waits = policy.criterion[0] == PATIENCE and 0 < size <= policy.patience[0]
    return size <= most and not waits


def _settled(policy: PolicyBatch) -> PolicyBatch:
    """Without exits, criterion, patience and temperature have no effect."""
    if policy.exit_on[0].any():
        return policy
    none = np.zeros(1, dtype=np.int64)
    return replace(policy, criterion=none, patience=none, temperature=np.ones(1))
