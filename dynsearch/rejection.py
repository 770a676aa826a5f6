"""How much each budget rejects that the others admit: what a budget is good for in a job."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
        broken = {name: values[name] > limit for name, limit in limits.items()}
        out[device.name] = {}
        for name in limits:
            others = np.ones(draws, dtype=bool)
            for other in limits:
                if other != name:
                    others &= ~broken[other]
            admitted = int(others.sum())
            share = float((broken[name] & others).sum()) / admitted if admitted else 0.0
            out[device.name][name] = share
    return out
