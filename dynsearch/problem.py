"""What a job's search minimises within what, in SI units: budgets and anchors of each device."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.errors import InputError
from dynsearch.evaluate import Costs, Scene, inner_spec, static_costs
from dynsearch.job import Job
from dynsearch.opened import Opened
from dynsearch.search.study import anchor_costs
from dynsearch.search.types import SearchProblem
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_hash
from search_spaces.space import SearchSpace

ANCHOR_SETTINGS = 12  # outer settings whose shallowest cost bounds the anchors from below
SHOWN = ("latency_mean_s", "latency_worst_s", "peak_bytes", "time_per_sample_s")


def make_problem(
    job: Job, scene: Scene, space: SearchSpace, lengths: NDArray[np.int64]
) -> tuple[SearchProblem, dict[str, Costs]]:
    """Budgets and anchors in SI units, from what the full network costs on each device.

    Args:
        job: The job.
        scene: Its devices and workload.
        space: Its space.
        lengths: Tokens of the search rows [N].

    Raises:
        InputError: a budget that no candidate of the space meets, with the smallest that is met.
    """
    exit_batching = space.inner.exit_batching[0]
    objectives = tuple(job.objectives)
    wanted = tuple(dict.fromkeys([*objectives[1:], *job.budgets, *SHOWN]))
    costs = tuple(n for n in dict.fromkeys([job.cost_objective, *wanted]) if n != "error")

    def price(outer: Candidate, depth: int) -> Costs:
        return static_costs(scene, outer, depth, lengths, costs=costs, exit_batching=exit_batching)

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
    shallow = [price(outer, space.inner.min_depth) for outer in _cheap_settings(space)]
    _check_budgets(job, budgets, shallow)
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
        metric=scene.metric,
        inner_spec=spec,
    )
    return problem, by_dtype


def problem_of(opened: Opened) -> tuple[SearchProblem, dict[str, Costs]]:
    """`make_problem` of an opened run."""
    return make_problem(opened.job, opened.scene, opened.material.space, opened.search_lengths)


def _cheap_settings(space: SearchSpace) -> list[Candidate]:
    """Outer settings among which the cheapest one lies: plain, cut as far as allowed, and drawn.

    Cutting does not always pay (a drop of tokens costs an explicit softmax), hence all three.
    """
    plain = [{**space.full_params(), "dtype": d} for d in space.table.dtype]
    settings = list(plain)
    names, skim, experts = list(space.outer_domains()), space.table.skim, space.table.experts
    if skim is not None:
        kept = {n: min(skim.keep) for n in names if n.startswith("keep_after_")}
        settings += [one | kept for one in plain]
    if experts is not None:
        shares = {n: min(experts.active) for n in names if n.startswith("active_")}
        whole = list(settings)
        for kind, count in itertools.product(experts.granularity, experts.counts):
            split = {n: count for n in names if n.startswith("experts_")}
            settings += [one | shares | split | {"granularity": kind} for one in whole]
    settings += space.sample_outer(np.random.default_rng(0), ANCHOR_SETTINGS)
    distinct = {candidate_hash(c): c for c in map(space.decode, map(space.normalise, settings))}
    return list(distinct.values())


def _check_budgets(
    job: Job, budgets: Mapping[str, Mapping[str, float]], shallow: list[Costs]
) -> None:
    """Refuse budgets that no candidate meets together on any device, naming the one that binds."""
    nearest: list[tuple[float, str, float, float, str]] = []
    for device, limits in budgets.items():
        if not limits:
            return
        excess = [
            max(
                (found[device][n] / limit, n, limit, found[device][n])
                for n, limit in limits.items()
            )
            for found in shallow
        ]
        if min(excess)[0] <= 1.0:
            return
        nearest.append((*min(excess), device))
    _, name, limit, needed, device = min(nearest)
    raise InputError.one(
        job.source,
        f"budgets.{name}",
        f"{limit:.4g}",
        f"impossible on {device}: the candidate that comes nearest needs {needed:.4g}; "
        f"allow at least {needed * 1.02:.4g}, or a smaller space.exits.min_depth",
    )
