"""What a job's search minimises within what, in SI units: budgets and anchors of each device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dynsearch.errors import InputError
from dynsearch.evaluate import Costs, inner_spec, static_costs
from dynsearch.opened import Opened
from dynsearch.search.study import anchor_costs
from dynsearch.search.types import SearchProblem
from search_spaces.candidate import Candidate

ANCHOR_SETTINGS = 12  # outer settings whose shallowest cost bounds the anchors from below
SHOWN = ("latency_mean_s", "latency_worst_s", "peak_bytes", "time_per_sample_s")


def make_problem(opened: Opened) -> tuple[SearchProblem, dict[str, Costs]]:
    """Budgets and anchors in SI units, from what the full network costs on each device."""
    job, scene, space = opened.job, opened.scene, opened.material.space
    lengths = opened.quality.splits["search"].tokens.lengths
    objectives = tuple(job.objectives)
    wanted = tuple(dict.fromkeys([*objectives[1:], *job.budgets, *SHOWN]))
    costs = tuple(n for n in dict.fromkeys([job.cost_objective, *wanted]) if n != "error")

    def price(outer: Candidate, depth: int) -> Costs:
        return static_costs(
            scene, outer, depth, lengths, costs=costs, exit_batching=opened.exit_batching
        )

    full = space.full()
    dtypes = space.table.dtype
    by_dtype = {d: price(replace(full, dtype=d), full.backbone.num_layers) for d in dtypes}
    reference = by_dtype[full.dtype]
    budgets = {
        device.name: {
            name: float(limit)
            if isinstance(limit, float | int)
            else limit.of_full_network * reference[device.name][name]
            for name, limit in job.budgets.items()
        }
        for device in scene.devices
    }
    rng = np.random.default_rng(0)
    tried = [replace(full, dtype=d) for d in dtypes]
    tried += [space.decode(p) for p in space.sample_outer(rng, ANCHOR_SETTINGS)]
    shallow = [price(outer, space.inner.min_depth) for outer in tried]
    _check_budgets(opened, budgets, shallow)
    anchors = {}
    for device in scene.devices:
        name, cost = device.name, job.cost_objective
        low = min(found[name][cost] for found in shallow)
        high = budgets[name].get(cost, reference[name][cost])
        anchors[name] = anchor_costs(low * 0.999, high)
    spec = inner_spec(
        scene, inner_space=space.inner, objectives=objectives, budgets=budgets, anchors=anchors
    )
    problem = SearchProblem(
        devices=tuple(d.name for d in scene.devices),
        objectives=objectives,
        budgets=budgets,
        anchors=anchors,
        full_cost={
            name: {c: values[c] for c in objectives if c != "error"}
            for name, values in reference.items()
        },
        inner_spec=spec,
    )
    return problem, by_dtype


def _check_budgets(
    opened: Opened, budgets: Mapping[str, Mapping[str, float]], shallow: list[Costs]
) -> None:
    """Refuse budgets that no candidate can be within on any device, naming the one that binds."""
    worst: tuple[float, str, float, float, str] | None = None
    for device, limits in budgets.items():
        gaps = []
        for name, limit in limits.items():
            best = min(found[device][name] for found in shallow)
            gaps.append((best / limit, name, limit, best, device))
        if not gaps or max(gaps)[0] <= 1.0:
            return
        if worst is None or max(gaps) < worst:
            worst = max(gaps)
    if worst is not None:
        _, name, limit, best, device = worst
        raise InputError.one(
            opened.job.source,
            f"budgets.{name}",
            f"{limit:.4g}",
            f"impossible on {device}: the cheapest candidate needs {best:.4g}; "
            f"allow at least {best * 1.02:.4g}, or a smaller space.exits.min_depth",
        )
