"""From finished passes to the front that leaves: chosen on search rows, confirmed on report rows.

The front is frozen here before a report row is read. Per device it holds the non-dominated
policies of each number format (so that a format's own named points are always there) and the
static truncations that every speed-up stands beside; points that another one dominates stay,
flagged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.evaluate import Scene
from dynsearch.export.records import (
    LOSS_LEVELS,
    Confirmed,
    FrontPoint,
    FullCost,
    Predicted,
    QualityFigures,
    Reference,
    Selected,
    family_of,
    mark_named,
)
from dynsearch.front_quality import length_edges, quality_figures
from dynsearch.quality.trace import Trace
from dynsearch.search.fronts import MergedFront, merge
from dynsearch.search.pareto import thin_front
from dynsearch.sim.ranking import error_of
from dynsearch.sim.replay import Replayed
from dynsearch.threads import one_core_each
from search_spaces.candidate import (
    Candidate,
    PolicyBatch,
    apply_policy,
    stack,
    static_policies,
)
from search_spaces.codec import candidate_hash, candidate_to_dict
from search_spaces.lowering.encoder import lower

MAX_POINTS = 16  # per number format, shared by the devices; named points not counted
MIN_POINTS = 8  # of one device
STATIC_LAYERS = (2, 3, 4)
Z90 = 1.645
MAX_FLOP_LENGTHS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A frozen configuration: an outer setting, one policy, and the devices it stands for."""

    trial: int
    outer: Candidate
    policies: PolicyBatch  # one
    devices: tuple[str, ...]

    @property
    def candidate(self) -> Candidate:
        """Outer setting and policy together."""
        return apply_policy(self.outer, self.policies, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FullNetwork:
    """The full network in every number format of the space."""

    trial: int
    outer: dict[str, Candidate]  # by dtype
    trace: Trace  # of the reference format, on the search rows
    exit_batching: str
    metric: str = "accuracy"  # what ranks

    @property
    def error(self) -> float:
        """Error on the search rows, by the metric that ranks."""
        return error_of(self.metric, self.trace)


def choose(
    parts: Sequence[MergedFront],
    outers: Mapping[int, Candidate],
    full: FullNetwork,
    objectives: Sequence[str],
) -> list[Chosen]:
    """Freeze the front: per device and number format, plus named points and truncations.

    Args:
        parts: Fronts of all passes, any device.
        outers: Outer setting by trial.
        full: The full network.
        objectives: "error" and costs; the first cost ranks named points.
    """
    cost = next(name for name in objectives if name != "error")
    found: dict[str, Chosen] = {}
    devices = tuple(dict.fromkeys(p.device for p in parts))
    limit = max(MIN_POINTS, MAX_POINTS // len(devices))
    for device in devices:
        for dtype in full.outer:
            mine = [
                p
                for p in parts
                if p.device == device and len(p) and outers[int(p.trial[0])].dtype == dtype
            ]
            if not mine:
                continue
            union = merge(mine, objectives)
            plane = np.stack([union.error_bound, union.costs[cost]], axis=1)
            rows = set(thin_front(plane, limit).tolist())
            for level in LOSS_LEVELS:
                allowed = np.flatnonzero(union.error_bound <= full.error + level + 1e-12)
                if allowed.size:
                    rows.add(int(allowed[np.argmin(union.costs[cost][allowed])]))
            for i in sorted(rows):
                trial = int(union.trial[i])
                _add(found, trial, outers[trial], union.policies.take(np.array([i])), device)
    layers = full.trace.num_layers
    for outer in full.outer.values():
        for depth in (*(k for k in STATIC_LAYERS if k < layers), layers):
            policy = static_policies([depth], num_layers=layers, exit_batching=full.exit_batching)
            for device in devices:
                _add(found, full.trial, outer, policy, device)
    return list(found.values())


def _add(
    found: dict[str, Chosen],
    trial: int,
    outer: Candidate,
    policies: PolicyBatch,
    device: str,
) -> None:
    key = candidate_hash(apply_policy(outer, policies, 0))
    have = found.get(key)
    devices = (*have.devices, device) if have and device not in have.devices else (device,)
    if have and device in have.devices:
        return  # a reference that a search found, too
    found[key] = Chosen(trial=trial, outer=outer, policies=policies, devices=devices)


def make_points(
    chosen: Sequence[Chosen],
    *,
    scene: Scene,
    full: FullNetwork,
    objectives: Sequence[str],
    budgets: Mapping[str, Mapping[str, float]],
    search_trace: Callable[[Chosen, int], Trace],
    on_progress: Callable[[float], None] | None = None,
) -> tuple[FrontPoint, ...]:
    """Points with selected and predicted figures, nothing confirmed yet.

    Only points within all budgets are named; the references may lie outside.
    """
    points: list[FrontPoint] = []
    edges = length_edges(full.trace.lengths)
    groups = _by_outer(chosen)
    traces = one_core_each(lambda group: search_trace(group[0], _deepest(group)), groups)
    for i, (group, trace) in enumerate(zip(groups, traces, strict=True)):
        replayer = scene.replayer(group[0].outer, trace, full.trace)
        policies = PolicyBatch.concat([c.policies for c in group])
        replayed = replayer.run(policies)
        figures = quality_figures(trace, policies, full.trace, edges)
        latencies = replayer.latencies(policies)  # [D, P, N]
        worst = replayer.costs[0].worst_s(
            policies, batch=scene.workload.batch, max_len=scene.workload.max_len
        )
        peak = scene.peak_bytes(group[0].outer, policies)
        log_sd = replayer.costs[0].log_sd
        names = [d.name for d in scene.devices]
        for p, one in enumerate(group):
            flops = mean_flops(one.candidate, replayed.reach[p], trace.lengths, scene.num_classes)
            for device in one.devices:
                d = names.index(device)
                predicted = _predicted(
                    replayed,
                    latencies[d, p],
                    d,
                    p,
                    float(log_sd[d]),
                    float(worst[d, p]),
                    float(peak[p]),
                    flops,
                )
                made = _point(one, device, predicted, replayed, p, objectives)
                points.append(replace(made, selected_quality=figures[p]))
        if on_progress is not None:
            on_progress((i + 1) / len(groups))
    inside = [p for p in points if _within(p, budgets.get(p.device, {}))]
    named = {(p.id, p.device): p for p in mark_named(inside, full.error)}
    return flag_dominated([named.get((p.id, p.device), p) for p in points])


def _within(p: FrontPoint, limits: Mapping[str, float]) -> bool:
    return all(float(getattr(p.predicted, name)) <= limit for name, limit in limits.items())


def _by_outer(chosen: Sequence[Chosen]) -> list[list[Chosen]]:
    groups: dict[str, list[Chosen]] = {}
    for c in chosen:
        groups.setdefault(candidate_hash(c.outer), []).append(c)
    return list(groups.values())


def _deepest(group: Sequence[Chosen]) -> int:
    return max(int(c.policies.depth[0]) for c in group)


def _predicted(
    replayed: Replayed,
    latency: NDArray[np.float64],
    d: int,
    p: int,
    log_sd: float,
    worst: float,
    peak: float,
    flops: tuple[float, float],
) -> Predicted:
    mean = float(replayed.cost("latency_mean_s")[d, p])
    energy = float(replayed.cost("energy_j")[d, p]) if "energy_j" in replayed.costs[0] else np.nan
    return Predicted(
        latency_mean_s=mean,
        low_s=mean * float(np.exp(-Z90 * log_sd)),
        high_s=mean * float(np.exp(Z90 * log_sd)),
        latency_worst_s=worst,
        peak_bytes=peak,
        flops_ideal=flops[0],
        flops_executed=flops[1],
        energy_j=energy if np.isfinite(energy) else None,
        time_per_sample_s=float(replayed.cost("time_per_sample_s")[d, p]),
        latency_p95_s=float(np.percentile(latency, 95)),
        latency_p99_s=float(np.percentile(latency, 99)),
    )


def _point(
    one: Chosen,
    device: str,
    predicted: Predicted,
    replayed: Replayed,
    p: int,
    objectives: Sequence[str],
) -> FrontPoint:
    candidate = one.candidate
    error = float(replayed.error[p])
    values = {"error": error} | {
        name: float(getattr(predicted, name)) for name in objectives if name != "error"
    }
    return FrontPoint(
        id=candidate_hash(candidate)[:8],
        device=device,
        family=family_of(candidate),
        objectives=values,
        selected=Selected(
            error=error,
            loss=float(replayed.loss[p]),
            se=float(replayed.loss_se[p]),
            n=replayed.num_samples,
        ),
        confirmed=None,
        error_bound=float(replayed.error_bound[p]),
        dominated=False,
        named=(),
        predicted=predicted,
        fidelity="replay",
        candidate=candidate_to_dict(candidate),
        reach=tuple(float(x) for x in replayed.reach[p]),
    )


def mean_flops(
    candidate: Candidate, reach: NDArray[np.float64], lengths: NDArray[np.int64], num_classes: int
) -> tuple[float, float]:
    """Mean FLOPs of one input at batch 1: what the method asks for, and what runs.

    Args:
        candidate: The candidate.
        reach: Share of inputs that enter each layer [L].
        lengths: Unpadded token counts of the inputs [N].
        num_classes: Classes of every head.
    """
    values, counts = np.unique(lengths, return_counts=True)
    if values.size > MAX_FLOP_LENGTHS:  # equal-sized groups, each by its mean length
        parts = np.array_split(np.sort(lengths), MAX_FLOP_LENGTHS)
        values = np.array([round(float(p.mean())) for p in parts])
        counts = np.array([p.size for p in parts])
    batch = stack([candidate])
    ideal = executed = 0.0
    for length, count in zip(values, counts / counts.sum(), strict=True):
        ops = lower(batch, lengths=np.array([length]), batch=1, num_classes=num_classes)
        weight = reach[ops.layer] * ops.count * count
        ideal += float((ops.flops * weight).sum())
        executed += float((ops.executed_flops * weight).sum())
    return ideal, executed


def full_costs(points: Sequence[FrontPoint]) -> tuple[FullCost, ...]:
    """Cost of the full network by device and format, from its own points."""
    return tuple(
        FullCost(device=p.device, dtype=p.dtype, predicted=p.predicted)
        for p in points
        if p.family == "full"
    )


def flag_dominated(points: Sequence[FrontPoint]) -> tuple[FrontPoint, ...]:
    """The same points; `dominated` where a rival is no worse and better once.

    Rivals are the points of the same device and number format.

    Compared are error (confirmed where it is known, else its bound) and the mean latency.
    """
    out = []
    for p in points:
        mine = _place(p)
        rivals = (_place(q) for q in points if (q.device, q.dtype) == (p.device, p.dtype))
        beaten = any(r[0] <= mine[0] and r[1] <= mine[1] and r != mine for r in rivals)
        out.append(replace(p, dominated=beaten))
    return tuple(out)


def _place(p: FrontPoint) -> tuple[float, float]:
    error = p.error_bound if p.confirmed is None else p.confirmed.error
    return error, p.predicted.latency_mean_s


def confirm(
    points: Sequence[FrontPoint],
    chosen: Sequence[Chosen],
    *,
    scene: Scene,
    full: FullNetwork,
    full_report: Trace,
    report_trace: Callable[[Chosen, int], Trace],
    on_progress: Callable[[float], None] | None = None,
) -> tuple[FrontPoint, ...]:
    """The points with `confirmed` figures from the report rows. Selects and removes nothing.

    Args:
        points: Frozen points.
        chosen: What they stand for.
        scene: Devices, workload, classes, the metric that ranks.
        full: The full network on the search rows, whose lengths give the buckets.
        full_report: The full network's trace of the report rows.
        report_trace: Trace of the report rows for an outer setting, down to a depth.
        on_progress: Gets the share that is done.
    """
    edges = length_edges(full.trace.lengths)
    found: dict[str, tuple[Confirmed, QualityFigures]] = {}
    groups = _by_outer(chosen)
    traces = one_core_each(lambda group: report_trace(group[0], _deepest(group)), groups)
    for i, (group, trace) in enumerate(zip(groups, traces, strict=True)):
        policies = PolicyBatch.concat([c.policies for c in group])
        told = confirmed_figures(scene, group[0].outer, policies, trace, full_report, edges)
        for one, figures in zip(group, told, strict=True):
            found[candidate_hash(one.candidate)[:8]] = figures
        if on_progress is not None:
            on_progress((i + 1) / len(groups))
    done = tuple(
        replace(
            p,
            confirmed=c,
            confirmed_quality=figures,
            fidelity="confirmed" if p.certificate is None else "certified",
        )
        for p in points
        for c, figures in [found[p.id]]
    )
    return flag_dominated(done)


def confirmed_figures(
    scene: Scene,
    outer: Candidate,
    policies: PolicyBatch,
    trace: Trace,
    full_report: Trace,
    edges: NDArray[np.int64],
) -> list[tuple[Confirmed, QualityFigures]]:
    """Figures of P policies of one outer setting on the report rows.

    Args:
        scene: The metric that ranks; what things cost is not used.
        outer: The setting.
        policies: P policies.
        trace: Its trace of the report rows.
        full_report: The full network's trace of the same rows.
        edges: Of the length buckets, from `length_edges` of the search rows.
    """
    replayed = scene.replayer(outer, trace, full_report).run(policies, ["latency_mean_s"])
    figures = quality_figures(trace, policies, full_report, edges)
    return [
        (
            Confirmed(
                error=float(replayed.error[p]),
                loss=float(replayed.loss[p]),
                low=figures[p].low[scene.metric],
                high=figures[p].high[scene.metric],
                n=replayed.num_samples,
            ),
            figures[p],
        )
        for p in range(len(policies))
    ]


def reference_of(
    points: Sequence[FrontPoint], full: FullNetwork, full_report: Trace | None
) -> Reference:
    """The full network's errors and costs."""
    confirmed = None
    if full_report is not None:
        confirmed = error_of(full.metric, full_report)
    return Reference(
        selected_error=full.error,
        selected_n=full.trace.num_samples,
        confirmed_error=confirmed,
        confirmed_n=None if full_report is None else full_report.num_samples,
        costs=full_costs(points),
    )
