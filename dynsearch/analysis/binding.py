"""What binds a search: which budgets turn candidates away, and what a little more would buy.

Rejection tells how many candidates a budget costs, slack how near the front lies to it, and the
gain of a relaxation what it is worth: exit policies are searched again on the recorded passes
with one budget raised. A pass recorded the layers that the budgets of the search reach, so what
deeper layers would add under a wider budget is not among the gains: they are lower bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dynsearch.analysis.recorded import Limits, RecordedRun, value_of
from dynsearch.export.records import FrontPoint
from dynsearch.rejection import Rejected
from dynsearch.search.fronts import objective_points
from dynsearch.search.inner import InnerFront
from dynsearch.search.pareto import hypervolume
from dynsearch.search.types import F64


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One budget on one device."""

    device: str
    budget: str
    limit: float
    rejected: Rejected  # of exit policies drawn uniformly on the recorded passes
    slack_least: float | None  # of points within all budgets, as a share of it; None: no point
    slack_median: float | None
    gain: float  # hypervolume that a relaxation adds, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """How a device stands in the search."""

    device: str
    hypervolume: float  # of the front of all recorded passes
    passes_within: float  # share of passes of which some exit policy keeps every budget
    points: int  # of the front that left


def relaxed(limits: Limits, budget: str, share: float) -> Limits:
    """Limits with one budget raised by a share on every device that has it."""
    return {
        device: {n: v * (1.0 + share) if n == budget else v for n, v in mine.items()}
        for device, mine in limits.items()
    }


def points_of(fronts: Sequence[InnerFront], objectives: Sequence[str]) -> dict[str, F64]:
    """Points [K, M] of one inner search by device."""
    return {f.device: objective_points(f.error_bound, f.costs, objectives) for f in fronts}


def gain(base: F64, more: F64, reference: Sequence[float]) -> float:
    """Hypervolume that points [K, M] add to others [J, M], as a share of the reference box."""
    both = np.concatenate([base, more])
    return hypervolume(both, reference) - hypervolume(base, reference)


def slack(point: FrontPoint, limits: Mapping[str, float]) -> dict[str, float]:
    """Distance of a point to each budget, as a share of it; negative beyond it."""
    return {name: 1.0 - value_of(point, name) / limit for name, limit in limits.items()}


def base_points(recorded: RecordedRun) -> dict[str, F64]:
    """Points [K, M] that the passes of the run found, by device."""
    found: dict[str, list[F64]] = {}
    for part in recorded.parts:
        found.setdefault(part.device, []).append(part.points(recorded.front.objectives))
    return {device: np.concatenate(parts) for device, parts in found.items()}


def device_states(recorded: RecordedRun, base: Mapping[str, F64]) -> list[DeviceState]:
    """How every device of the search stands."""
    states = []
    for device in recorded.devices:
        lengths = [len(part) for part in recorded.parts if part.device == device]
        mine = [p for p in recorded.front.front if p.device == device]
        states.append(
            DeviceState(
                device=device,
                hypervolume=hypervolume(base[device], recorded.reference_point(device)),
                passes_within=float(np.mean(np.array(lengths) > 0)),
                points=len(mine),
            )
        )
    return states
