"""The inner search: the best exit policies of one trace, for every device at once.

Policies are replayed, never run. All exit sets, criteria and exit rates of a grid are tried
(beyond 8 exits: from coarse to fine). Then the thresholds of single exits are moved, starting
from the front, as long as that improves it: a heuristic, and its points say so. Policies that
break a budget are dropped; what is left of the rest is the least violation.

Fronts are non-dominated in (`error_bound`, first cost objective) and have at most 64 points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.search.pareto import non_dominated, thin_front
from dynsearch.search.policies import ExitSets, PolicyMaker, exit_sets
from dynsearch.sim.pricing import QUANTITIES
from dynsearch.sim.replay import Replayed, Replayer
from search_spaces.candidate import PolicyBatch
from search_spaces.errors import InputError, Problem
from search_spaces.inner import InnerSpace

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
PeakBytes = Callable[[PolicyBatch], F64]

MAX_POINTS = 64  # of a front
ENUMERATED_SITES = 8  # up to this many allowed exits all sets are tried
RATES, COARSE_RATES = 24, 8
MAX_GRID = 24_000  # policies of the grid; more sets mean fewer rates
COARSE_DEPTHS = 6  # depths that coarse to fine starts from
FINE_ROUNDS, FINE_SETS = 4, 12  # of coarse to fine: rounds, and exit sets that each starts from
STEPS = ((0.1, 0.03), (0.05, 0.015), (0.02, 0.005))  # of exit rates when thresholds are moved
MAX_STARTS = 32  # policies per device that a round of moves starts from
PERCENTILES = {"latency_p95_s": 95.0, "latency_p99_s": 99.0}
PERCENTILE_BLOCK = 64  # policies whose latencies per sample are held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerProblem:
    """What the inner search minimises, and within what."""

    space: InnerSpace
    cost: str = "latency_mean_s"  # the job's first cost objective
    budgets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    # limit by device and cost name, SI units; what is not named is free
    also: tuple[str, ...] = ()  # further costs that the front must show
    peak_bytes: PeakBytes | None = None  # P policies -> bytes [P]
    refine: bool = True  # move single thresholds after the grid


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerFront:
    """The front of one device. K policies, ascending in the first cost."""

    device: str
    policies: PolicyBatch  # K
    error: F64  # [K] plain estimate
    error_bound: F64  # [K] what ranks: `Replayed.error_bound`
    costs: dict[str, F64]  # [K] by cost name
    heuristic: Bool  # [K] found by moving single thresholds, not by enumeration
    violation: float  # least sum of max(0, value / budget - 1) over all policies tried
    budget_values: dict[str, float]  # of the policy that has it, by budget
    tried: int  # policies replayed, the same for all devices

    def anchor_values(self, cost: str, anchors: Sequence[float], majority_error: float) -> F64:
        """Lowest `error_bound` at cost <= each anchor, `majority_error` where there is none.

        Args:
            cost: Name of the cost.
            anchors: Limits a_j, in its unit.
            majority_error: Error of always answering the most frequent class.
        """
        within = self.costs[cost][:, None] <= np.asarray(anchors, dtype=np.float64)
        bounds = np.where(within, self.error_bound[:, None], np.inf)
        best = bounds.min(axis=0, initial=np.inf)
        return np.where(np.isfinite(best), best, majority_error)


def search_inner(replayer: Replayer, problem: InnerProblem) -> tuple[InnerFront, ...]:
    """Fronts of one trace, one per device of the first workload's costs.

    Args:
        replayer: The trace with its prices; budgets and costs refer to its first workload.
        problem: Space of policies, budgets, costs.

    Returns:
        One front per device, in their order. The same input gives the same fronts.

    Raises:
        InputError: a cost or budget that cannot be had here, or a depth beyond the trace.
    """
    archive = _Archive(replayer, problem)
    maker = PolicyMaker.of(replayer, problem.space)
    if len(problem.space.exit_layers) <= ENUMERATED_SITES:
        _try_every_set(archive, maker, problem.space)
    else:
        _coarse_to_fine(archive, maker, problem.space)
    for steps in STEPS if problem.refine else ():
        moves = maker.moved(archive.starts(MAX_STARTS), [*steps, *(-s for s in steps)])
        archive.try_all(moves, heuristic=True)
    return tuple(archive.front(d) for d in range(len(archive.devices)))


def _try_every_set(archive: _Archive, maker: PolicyMaker, space: InnerSpace) -> None:
    depths = range(space.min_depth, space.max_depth + 1)
    sets = exit_sets(space.exit_layers, depths, maker.num_layers, _most_exits(space))
    per_rate = 2 * len(sets) * max(len(maker.scorers), 1) * maker.modes.size
    archive.try_all(maker.grid(sets, max(4, min(RATES, MAX_GRID // per_rate))))


def _coarse_to_fine(archive: _Archive, maker: PolicyMaker, space: InnerSpace) -> None:
    """Pairs of a few exits at a few depths, then neighbours of the sets on the fronts."""
    L, depths = maker.num_layers, list(range(space.min_depth, space.max_depth + 1))
    coarse = _spread(space.exit_layers, ENUMERATED_SITES)
    sets = exit_sets(coarse, _spread(depths, COARSE_DEPTHS), L, min(2, _most_exits(space)))
    bare = exit_sets((), depths, L, 0)
    sets = ExitSets(
        depth=np.concatenate([bare.depth, sets.depth]), on=np.concatenate([bare.on, sets.on])
    )
    seen: set[tuple[int, bytes]] = set()
    for _ in range(FINE_ROUNDS):
        fresh = {k: i for i, k in enumerate(sets.keys()) if k not in seen}  # each once
        if not fresh:
            break
        seen |= fresh.keys()
        archive.try_all(maker.grid(sets.take(np.array(list(fresh.values()))), COARSE_RATES))
        sets = _neighbours(archive.starts(FINE_SETS), space)
    found = _neighbours(archive.starts(FINE_SETS), None)
    first = {k: i for i, k in enumerate(found.keys())}
    archive.try_all(maker.grid(found.take(np.array(list(first.values()), dtype=np.int64)), RATES))


def _neighbours(policies: PolicyBatch, space: InnerSpace | None) -> ExitSets:
    """Exit sets of policies with one exit more or less, or one layer more or less; or as is."""
    depth, on = list(policies.depth), list(policies.exit_on)
    for d, row in zip(policies.depth, policies.exit_on, strict=True) if space else ():
        assert space is not None
        for site in space.exit_layers:
            changed = row.copy()
            changed[site - 1] ^= True
            if site < d and changed.sum() <= _most_exits(space):
                depth.append(d)
                on.append(changed)
        for other in (d - 1, d + 1):
            if space.min_depth <= other <= space.max_depth:
                depth.append(other)
                on.append(row & (np.arange(1, row.size + 1) < other))
    return ExitSets(
        depth=np.array(depth, dtype=np.int64),
        on=np.array(on, dtype=bool).reshape(-1, policies.exit_on.shape[1]),
    )


def _most_exits(space: InnerSpace) -> int:
    return len(space.exit_layers) if space.max_exits is None else space.max_exits


def _spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of the values, evenly spread, ends included."""
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[i] for i in np.unique(places)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Points:
    """Policies with what they reach. P policies, D devices."""

    policies: PolicyBatch
    error: F64  # [P]
    error_bound: F64  # [P]
    costs: dict[str, F64]  # [D, P] by name
    heuristic: Bool  # [P]

    def take(self, rows: NDArray[Any]) -> _Points:
        return _Points(
            policies=self.policies.take(rows),
            error=self.error[rows],
            error_bound=self.error_bound[rows],
            costs={name: cost[:, rows] for name, cost in self.costs.items()},
            heuristic=self.heuristic[rows],
        )

    def joined(self, more: _Points) -> _Points:
        return _Points(
            policies=PolicyBatch.concat([self.policies, more.policies]),
            error=np.concatenate([self.error, more.error]),
            error_bound=np.concatenate([self.error_bound, more.error_bound]),
            costs={
                name: np.concatenate([cost, more.costs[name]], axis=1)
                for name, cost in self.costs.items()
            },
            heuristic=np.concatenate([self.heuristic, more.heuristic]),
        )


def policy_costs(
    replayer: Replayer,
    policies: PolicyBatch,
    replayed: Replayed,
    names: Iterable[str],
    peak: PeakBytes | None = None,
) -> dict[str, F64]:
    """Costs of P policies on D devices, by name, each [D, P].

    Args:
        replayer: Of the trace; its first workload counts.
        policies: The policies.
        replayed: What they do on it, with the quantities among `names`.
        names: Any of the quantities of a replay, percentiles, worst case and peak memory.
        peak: Prices peak memory; without it that name is left out.
    """
    load, shape = replayer.workloads[0], (len(replayer.costs[0].devices), len(policies))
    out: dict[str, F64] = {}
    for name in names:
        if name in replayed.costs[0]:
            out[name] = replayed.cost(name)
        elif name == "latency_worst_s":
            cost = replayer.costs[0]
            out[name] = cost.worst_s(policies, batch=load.batch, max_len=load.max_len)
        elif name in PERCENTILES:
            out[name] = _percentile(replayer, policies, PERCENTILES[name])
        elif peak is not None:
            out[name] = np.broadcast_to(peak(policies), shape)
    return out


def _percentile(replayer: Replayer, policies: PolicyBatch, share: float) -> F64:
    """Percentile of the latencies [D, P]; slow, policy by policy."""
    parts = [np.zeros((len(replayer.costs[0].devices), 0))]
    for start in range(0, len(policies), PERCENTILE_BLOCK):
        rows = np.arange(start, min(start + PERCENTILE_BLOCK, len(policies)))
        latencies = replayer.latencies(policies.take(rows))
        parts.append(np.percentile(latencies, share, axis=-1))
    return np.concatenate(parts, axis=1)


class _Archive:
    """Everything tried so far, reduced to what stands on some device's front."""

    def __init__(self, replayer: Replayer, problem: InnerProblem) -> None:
        self.devices = replayer.costs[0].devices
        self._replayer, self._problem = replayer, problem
        budgeted = dict.fromkeys(name for limits in problem.budgets.values() for name in limits)
        self._limits = {
            name: np.array([problem.budgets.get(d, {}).get(name, np.inf) for d in self.devices])
            for name in budgeted
        }  # [D] by cost name
        self._names = tuple(dict.fromkeys([problem.cost, *budgeted]))
        self._check()
        self._tried = 0
        self._least: list[tuple[float, float, dict[str, float]]] = [
            (np.inf, np.inf, {}) for _ in self.devices
        ]  # [D] violation, sum of value / budget, values by budget
        none = np.zeros(0, dtype=np.int64)
        self._points = self._score(_no_policy(replayer.trace.num_layers), none.astype(bool))

    def try_all(self, policies: PolicyBatch, *, heuristic: bool = False) -> None:
        """Replay policies, note the least violation, and keep what is on a front."""
        if len(policies) == 0:
            return
        points = self._score(policies, np.full(len(policies), heuristic))
        self._tried += len(policies)
        feasible = self._judge(points)
        fresh = points.take(np.flatnonzero(feasible.any(axis=0)))
        self._points = self._points.joined(fresh)
        fronts = [self._front_rows(d) for d in range(len(self.devices))]
        self._points = self._points.take(np.unique(np.concatenate(fronts)))

    def starts(self, limit: int) -> PolicyBatch:
        """Policies on the fronts of all devices, each front thinned, each policy once."""
        rows = []
        for d in range(len(self.devices)):
            front = self._front_rows(d)
            rows.append(front[thin_front(self._plane(d)[front], limit)])
        return self._points.policies.take(np.unique(np.concatenate(rows)))

    def front(self, d: int) -> InnerFront:
        """The thinned front of device d with all costs; energy where the device states power."""
        rows = self._front_rows(d)
        rows = rows[thin_front(self._plane(d)[rows], MAX_POINTS)]
        points = self._points.take(rows)
        replayed = self._replayer.run(points.policies)
        names = [*replayed.costs[0], "latency_worst_s", *self._names, *self._problem.also]
        if self._problem.peak_bytes is not None:
            names.append("peak_bytes")
        costs = self._costs(points.policies, replayed, dict.fromkeys(names))
        violation, _, values = self._least[d]
        return InnerFront(
            device=self.devices[d],
            policies=points.policies,
            error=points.error,
            error_bound=points.error_bound,
            costs={
                name: cost[d]
                for name, cost in costs.items()
                if name != "energy_j" or not self._silent[d]
            },
            heuristic=points.heuristic,
            violation=violation,
            budget_values=values,
            tried=self._tried,
        )

    def _score(self, policies: PolicyBatch, heuristic: Bool) -> _Points:
        priced = [n for n in self._names if n in QUANTITIES]
        replayed = self._replayer.run(policies, priced or QUANTITIES[:1])
        return _Points(
            policies=policies,
            error=replayed.error,
            error_bound=replayed.error_bound,
            costs=self._costs(policies, replayed, self._names),
            heuristic=heuristic,
        )

    def _costs(
        self, policies: PolicyBatch, replayed: Replayed, names: Iterable[str]
    ) -> dict[str, F64]:
        """[D, P] by name."""
        peak = self._problem.peak_bytes
        return policy_costs(self._replayer, policies, replayed, names, peak)

    def _judge(self, points: _Points) -> Bool:
        """Which policies are within all budgets [D, P]; notes the least violation."""
        shape = (len(self.devices), len(points.error))
        violation, load = np.zeros(shape), np.zeros(shape)
        for name, limits in self._limits.items():
            share = points.costs[name] / limits[:, None]
            violation += np.maximum(share - 1.0, 0.0)
            load += share
        for d in range(len(self.devices)):
            best = int(np.lexsort((load[d], violation[d]))[0])
            found = float(violation[d, best]), float(load[d, best])
            if found < self._least[d][:2]:
                values = {name: float(points.costs[name][d, best]) for name in self._limits}
                self._least[d] = (*found, values)
        feasible: Bool = violation == 0.0
        return feasible

    def _plane(self, d: int) -> F64:
        points = self._points
        return np.stack([points.error_bound, points.costs[self._problem.cost][d]], axis=1)

    def _front_rows(self, d: int) -> NDArray[np.int64]:
        """Rows of the archive that are within budgets and non-dominated on device d."""
        points, inside = self._points, np.ones(len(self._points.error), dtype=bool)
        for name, limits in self._limits.items():
            inside &= points.costs[name][d] <= limits[d]
        rows = np.flatnonzero(inside)
        return rows[non_dominated(self._plane(d)[rows])]

    @property
    def _silent(self) -> Bool:
        """Devices [D] whose energy is not known."""
        joules = self._replayer.costs[0].joules.embed
        return np.asarray(np.isnan(joules).any(axis=(1, 2)))

    def _check(self) -> None:
        problem, problems = self._problem, []
        L, known = self._replayer.trace.num_layers, set(self._replayer.quantities)
        known |= {"latency_worst_s", *PERCENTILES}
        known |= {"peak_bytes"} if problem.peak_bytes is not None else set()
        for name in (*self._names, *problem.also):
            if name not in known:
                text = f"cannot be had for this trace; use one of {', '.join(sorted(known))}"
                problems.append(Problem("arguments", "cost or budget", name, text))
        if "energy_j" in known & {*self._names, *problem.also}:
            for device in np.array(self.devices)[self._silent]:
                text = "has no energy model; leave out energy_j or this device"
                problems.append(Problem("arguments", "devices", str(device), text))
        for device in problem.budgets.keys() - set(self.devices):
            text = f"no such device here; use one of {', '.join(self.devices)}"
            problems.append(Problem("arguments", "budgets", device, text))
        if problem.space.max_depth > L:
            text = f"the trace has {L} layers; lower max_depth"
            problems.append(Problem("arguments", "max_depth", str(problem.space.max_depth), text))
        if problems:
            raise InputError(problems)


def _no_policy(num_layers: int) -> PolicyBatch:
    return PolicyBatch(
        depth=np.zeros(0, dtype=np.int64),
        exit_on=np.zeros((0, num_layers), dtype=bool),
        criterion=np.zeros(0, dtype=np.int64),
        thresholds=np.zeros((0, num_layers)),
        patience=np.zeros(0, dtype=np.int64),
        temperature=np.zeros(0),
        exit_batching=np.zeros(0, dtype=np.int64),
    )
