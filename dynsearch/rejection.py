"""How much each budget rejects that the others admit: what a budget is good for in a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models.candidates import cost_candidates
from dynsearch.evaluate import Scene
from search_spaces.space import SearchSpace

DRAWS = 10_000
KNOWN = ("latency_worst_s", "peak_bytes")  # costs that need no activity


def budget_rejection(
    space: SearchSpace,
    scene: Scene,
    budgets: Mapping[str, Mapping[str, float]],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, dict[str, float]]:
    """Share of the candidates admitted by all other budgets that each budget rejects.

    All knobs, outer and inner, are drawn uniformly. Budgets on costs that depend on activity
    (mean latency, percentiles) are left out: they cannot be told without a pass.

    Args:
        space: Where candidates are drawn from.
        scene: Devices, workload, classes.
        budgets: Limits by device and cost, SI units.
        seed: Of the draw.
        draws: Candidates.

    Returns:
        device -> cost -> share in 0..1; 0 where the others admit nothing.
    """
    drawn = space.sample(np.random.default_rng(seed), draws, num_classes=scene.num_classes)
    costs = cost_candidates(
        drawn, devices=scene.devices, workload=scene.workload, num_classes=scene.num_classes
    )
    out: dict[str, dict[str, float]] = {}
    for d, device in enumerate(scene.devices):
        values = {"latency_worst_s": costs.latency_worst_s[d], "peak_bytes": costs.peak_bytes}
        limits = {n: v for n, v in budgets.get(device.name, {}).items() if n in KNOWN}
        found = rejected({name: values[name] for name in limits}, limits)
        out[device.name] = {name: one.alone for name, one in found.items()}
    return out


@dataclass(frozen=True, slots=True)
class Rejected:
    """What a budget turns away of some candidates, as shares in 0..1."""

    all: float  # of all candidates
    alone: float  # of those that all other budgets admit; 0 where these admit nothing


def rejected(
    costs: Mapping[str, NDArray[np.float64]], limits: Mapping[str, float]
) -> dict[str, Rejected]:
    """What each budget rejects of B candidates.

    Args:
        costs: [B] by budget.
        limits: By budget.
    """
    broken = {name: np.asarray(costs[name]) > limit for name, limit in limits.items()}
    out = {}
    for name, mine in broken.items():
        others = np.ones(mine.shape, dtype=bool)
        for other, theirs in broken.items():
            if other != name:
                others &= ~theirs
        admitted = int(others.sum())
        share = float((mine & others).sum()) / admitted if admitted else 0.0
        out[name] = Rejected(float(mine.mean()) if mine.size else 0.0, share)
    return out
