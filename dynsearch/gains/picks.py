"""Which points stand for a family: named on search rows, confirmed on report rows afterwards.

For each loss level, number format and batch size one point is named, the fastest whose
`error_bound` allows the level, before a report row is read. Its confirmed loss is the figure; no
other point may take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models.price import Z90
from dynsearch.evaluate import Scene
from dynsearch.export.records import LOSS_LEVELS, Confirmed, family_of
from dynsearch.front_points import FullNetwork, confirmed_figures
from dynsearch.front_quality import length_edges
from dynsearch.gains.families import OBJECTIVES, Searched
from dynsearch.quality.metrics import (
    error_bound,
    paired_interval,
    paired_table,
)
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.trace import Trace
from dynsearch.search.fronts import MergedFront, merge
from dynsearch.search.pareto import hypervolume, thin_front
from dynsearch.sim.row_losses import exit_losses
from dynsearch.threads import one_core_each
from search_spaces.candidate import Candidate, PolicyBatch, apply_policy
from search_spaces.codec import candidate_hash
from search_spaces.workload import Workload

COMBINED = "joint, combined"  # joint without points that a single family could hold
SHOWN_POINTS = 6  # of a front, named ones not counted: they are confirmed, too
WORST_LOSS = 0.10  # hypervolume's reference point lies so much above the full network's error


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A configuration that stands for a family in one number format at one batch size."""

    family: str
    dtype: str
    batch: int
    levels: tuple[float, ...]  # loss levels that name it; empty: a point of the front only
    candidate: Candidate
    outer: Candidate
    policy: PolicyBatch  # one
    selected_error: float
    selected_loss: float
    error_bound: float
    predicted_s: float  # time per sample
    predicted_high_s: float  # upper end of its 90 % interval

    @property
    def id(self) -> str:
        """The id that the front gives it."""
        return candidate_hash(self.candidate)[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFront:
    """A family's front in one number format at one batch size."""

    family: str
    dtype: str
    batch: int
    passes: int  # of this format
    hypervolume: float
    full_s: float  # predicted time per sample of the full network in this format at this batch
    picks: tuple[Pick, ...]


def family_fronts(
    searched: Searched,
    parts: Sequence[MergedFront],
    full: FullNetwork,
    *,
    workload: Workload,
    full_s: Mapping[str, float],
) -> list[FamilyFront]:
    """Picks and hypervolume of one family at one workload, by number format.

    The joint family comes twice: whole, and without points of a single family.

    Args:
        searched: The family's passes.
        parts: Their fronts at this batch size.
        full: The full network.
        workload: Batch size, sorting, threads.
        full_s: The full network's predicted time per sample, by number format.
    """
    out = []
    for dtype in full.outer:
        mine = [p for p in parts if len(p) and _dtype(searched, p) == dtype]
        if not mine:
            continue
        fronts = {searched.family: merge(mine, OBJECTIVES)}
        if searched.family == "joint":
            fronts[COMBINED] = merge([_combined(searched, part) for part in mine], OBJECTIVES)
        for family, union in fronts.items():
            reference = np.array([full.error + WORST_LOSS, full_s[dtype]])
            out.append(
                FamilyFront(
                    family=family,
                    dtype=dtype,
                    batch=workload.batch,
                    passes=sum(outer.dtype == dtype for outer in searched.settings.values()),
                    hypervolume=hypervolume(union.points(OBJECTIVES), reference),
                    full_s=full_s[dtype],
                    picks=_picks(family, searched, union, full, workload),
                )
            )
    return out


def _dtype(searched: Searched, part: MergedFront) -> str:
    return searched.settings[int(part.trial[0])].dtype


def _combined(searched: Searched, part: MergedFront) -> MergedFront:
    """The points that more than one idea makes."""
    keep = [
        "+" in family_of(apply_policy(searched.settings[int(part.trial[i])], part.policies, i))
        for i in range(len(part))
    ]
    return part.take(np.array(keep, dtype=bool))


def _picks(
    family: str, searched: Searched, union: MergedFront, full: FullNetwork, workload: Workload
) -> tuple[Pick, ...]:
    """Named points of a front, and a few more of it."""
    cost = union.costs[OBJECTIVES[1]]
    levels: dict[int, list[float]] = {}
    for level in LOSS_LEVELS:
        allowed = np.flatnonzero(union.error_bound <= full.error + level + 1e-12)
        if allowed.size:
            levels.setdefault(int(allowed[np.argmin(cost[allowed])]), []).append(level)
    plane = np.stack([union.error_bound, cost], axis=1)
    shown = thin_front(plane, SHOWN_POINTS).tolist() if len(union) else []
    picks = []
    for i in sorted({*levels, *shown}):
        outer = searched.settings[int(union.trial[i])]
        picks.append(
            Pick(
                family=family,
                dtype=outer.dtype,
                batch=workload.batch,
                levels=tuple(levels.get(i, ())),
                candidate=apply_policy(outer, union.policies, i),
                outer=outer,
                policy=union.policies.take(np.array([i])),
                selected_error=float(union.error[i]),
                selected_loss=float(union.error[i]) - full.error,
                error_bound=float(union.error_bound[i]),
                predicted_s=float(cost[i]),
                predicted_high_s=float(cost[i]) * _spread(searched, outer, workload),
            )
        )
    return tuple(picks)


def _spread(searched: Searched, outer: Candidate, workload: Workload) -> float:
    """Upper end of the 90 % interval of a predicted time over the time itself."""
    costs = replace(searched.opened.scene, workload=workload).layer_cost(outer)
    return float(np.exp(Z90 * costs.log_sd[0]))


def confirm_picks(
    picks: Sequence[Pick],
    *,
    scene: Scene,
    full: FullNetwork,
    full_report: Trace,
    quality: SupernetQuality,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Confirmed]:
    """Error and paired loss of each pick on the report rows, by id. Selects nothing.

    Args:
        picks: Named and shown points.
        scene: This machine and the classes; what things cost is not used.
        full: The full network on the search rows.
        full_report: Its trace of the report rows.
        quality: Runs the settings on the report rows.
        on_progress: Gets the share that is done.
    """
    edges = length_edges(full.trace.lengths)
    groups: dict[str, list[Pick]] = {}
    for pick in {p.id: p for p in picks}.values():
        groups.setdefault(candidate_hash(pick.outer), []).append(pick)

    def trace_of(group: list[Pick]) -> Trace:
        depth = max(int(p.policy.depth[0]) for p in group)
        return quality.record(replace(group[0].outer, depth=depth), "report")

    found: dict[str, Confirmed] = {}
    recorded = one_core_each(trace_of, groups.values())
    for i, (group, trace) in enumerate(zip(groups.values(), recorded, strict=True)):
        policies = PolicyBatch.concat([p.policy for p in group])
        outer = group[0].outer
        told = confirmed_figures(scene, outer, policies, trace, full_report, edges)
        for pick, (figures, _) in zip(group, told, strict=True):
            found[pick.id] = figures
        if on_progress is not None:
            on_progress((i + 1) / len(groups))
    return found


def same_rows_s(
    picks: Sequence[Pick],
    *,
    scene: Scene,
    quality: SupernetQuality,
    rows: NDArray[np.int64],
) -> dict[tuple[str, int], float]:
    """Predicted time per sample of named picks with the activity of the timed rows themselves.

    Beside `predicted_s`, which knows the search rows alone, it tells what of its error is owed to
    the rows.

    Args:
        picks: Points, confirmed: their settings were run on the report rows.
        scene: This machine.
        quality: Gives the traces of the report rows.
        rows: Report rows that are timed.

    Returns:
        Seconds by id and batch size.
    """
    groups: dict[tuple[str, int], list[Pick]] = {}
    for pick in picks:
        if pick.levels and family_of(pick.candidate) != "full":
            groups.setdefault((candidate_hash(pick.outer), pick.batch), []).append(pick)
    found: dict[tuple[str, int], float] = {}
    for (_, batch), group in groups.items():
        outer = group[0].outer
        depth = max(int(p.policy.depth[0]) for p in group)
        trace = quality.record(replace(outer, depth=depth), "report").take(rows)
        own = replace(scene, workload=scene.workload.at_batch(batch))
        policies = PolicyBatch.concat([p.policy for p in group])
        seconds = own.replayer(outer, trace, None).run(policies, [OBJECTIVES[1]])
        costs = seconds.cost(OBJECTIVES[1])[0]
        found |= {(p.id, batch): float(costs[i]) for i, p in enumerate(group)}
    return found


def confirm_static(trace: Trace, full_correct: NDArray[np.bool_]) -> Confirmed:
    """Error and paired loss of a network without exits, from its own trace."""
    right = trace.logits[:, -1].argmax(axis=-1) == trace.labels
    table = paired_table(right, full_correct)
    low, high = paired_interval(table)
    return Confirmed(
        error=float(1.0 - right.mean()),
        loss=float((table.lost - table.gained) / table.n),
        low=float(low),
        high=float(high),
        n=int(table.n),
    )


def bound_of(trace: Trace, full: FullNetwork) -> tuple[float, float]:
    """Plain error and `error_bound` of a network without exits on the search rows."""
    logits = trace.logits[:, -1]
    losses = exit_losses(logits, full.trace)
    bound = error_bound(full.error, losses.mean(), losses.std() / np.sqrt(losses.size))
    return float(np.mean(logits.argmax(axis=-1) != trace.labels)), float(bound)
