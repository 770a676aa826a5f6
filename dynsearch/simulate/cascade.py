"""Cascades: each model simulated on its own, then tried one after another until one is sure.

A model that is not first sees the rows that those before it handed on, with their lengths. How
likely each is to be right is read off the stated model of exits by how deep it is beside the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.errors import InputError
from dynsearch.sim.batched_exits import expected_batches
from dynsearch.sim.cascades import model_stages
from dynsearch.simulate.assumptions import Assumptions
from dynsearch.simulate.batches import in_closed_form, simulated
from dynsearch.simulate.classify import open_scene
from dynsearch.simulate.leaving import Leaving, assumed
from dynsearch.simulate.ledger import EXECUTED, IDEAL, JOULES, SECONDS
from dynsearch.simulate.outcome import Outcome
from dynsearch.simulate.setting import Setting
from dynsearch.simulate.subject import load_stage
from search_spaces.candidate import Candidate
from search_spaces.parts import Exits
from search_spaces.validity import require_valid

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Run = Callable[[Setting], Outcome]

_CLASSES = 12  # lengths that models are told apart by


@dataclass(frozen=True, slots=True)
class _Model:
    """One stage: what it costs, and what is left of its own simulation."""

    name: str
    outcome: Outcome
    costs: F64  # [4, B, C] of a whole batch by its longest text
    candidate: Candidate


def cascade(setting: Setting, run: Run) -> Outcome:
    """Costs of an input that goes from model to model.

    Args:
        setting: Its candidate has a cascade.
        run: Simulates a model of it.

    Raises:
        InputError: a stage that is unknown, faulty or itself a cascade.
    """
    plan = setting.candidate.cascade
    assert plan is not None
    lengths = setting.drawn_lengths()
    index = _length_class(lengths)
    models = [_model(setting, name, index, run) for name in plan.stages]
    M, serving = len(models), setting.serving
    leaving = _leaving(setting, models)
    table = model_stages(np.stack([m.costs for m in models], axis=1))
    K = int(index.max()) + 1
    law = leaving.law[:, None] * (np.bincount(index, minlength=K) / index.size)
    means = in_closed_form(table, law, leaving.on, serving)
    drawn = simulated(table, leaving.where, index, lengths, leaving.on, serving)
    outcomes = [m.outcome for m in models]
    last = outcomes[-1]
    return replace(
        last,
        latencies=drawn.latencies,
        mean_s=means.mean_s,
        worst_s=float(sum(o.worst_s for o in outcomes)),
        energy_j=means.energy_j,
        flops_ideal=means.flops_ideal,
        flops_executed=means.flops_executed,
        peak_bytes=float(sum(o.peak_bytes for o in outcomes)),
        log_sd=max(o.log_sd for o in outcomes),
        activity="parametric",
        exits=leaving.law,
        early=tuple(range(1, M)),
        tokens=np.tile([lengths.mean(), (lengths.astype(np.float64) ** 2).mean()], (M, 1)),
        experts={},
        accuracy=leaving.accuracy,
        notes=(f"layers are whole models: {', '.join(plan.stages)}",),
        warnings=tuple(dict.fromkeys(w for o in outcomes for w in o.warnings)),
        more={},
    )


def _length_class(lengths: I64) -> I64:
    """Lengths in at most `_CLASSES` classes of equal size, ascending [N]."""
    rank = np.searchsorted(np.sort(lengths), lengths, side="right") - 1
    group = rank * _CLASSES // lengths.size
    return np.asarray(np.unique(group, return_inverse=True)[1]).ravel()


def _model(setting: Setting, name: str, index: I64, run: Run) -> _Model:
    file, candidate = setting.file, setting.stages.get(name)
    if candidate is None:
        found = load_stage(name, file)
        file, candidate = found.file, found.candidate
    if candidate.cascade is not None:
        text = "is a cascade itself; name its stages one after another"
        raise InputError.one(setting.file, "cascade.stages", name, text)
    alone = candidate.exit_batching == "serial"
    if alone and setting.workload.batch > 1:
        candidate = replace(candidate, exit_batching="compact")
    mine = replace(setting, candidate=candidate, file=file)
    require_valid(candidate, workload=mine.workload, num_classes=mine.num_classes, file=file)
    if candidate.backbone.type == "encoder":
        return _Model(name, run(mine), _by_class(mine, index), candidate)
    ends = [run(replace(mine, workload=replace(mine.workload, batch=b))) for b in (1, 2)]
    return _Model(name, ends[0], _affine(ends, setting.serving.batch, index), candidate)


def _by_class(setting: Setting, index: I64) -> F64:
    """Costs of a batch that an encoder's own exits may shorten [4, B, C]."""
    scene = open_scene(setting)
    t, on, law = scene.cost.table, scene.leaving.on, scene.law
    share = law.sum(axis=0)
    used = np.flatnonzero(share > 0)
    each = np.zeros((used.size, *law.shape))
    each[np.arange(used.size), :, used] = (law[:, used] / share[used]).T
    same = np.repeat(on[None], used.size, axis=0)
    mine = np.searchsorted(used, scene.texts.index)
    C = int(index.max()) + 1
    weight = np.zeros((C, used.size))
    np.add.at(weight, (index[: mine.size], mine), 1.0)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1.0)
    parts = [
        expected_batches(t, each, same, b, wait=setting.serving.waits).batch_s @ weight.T
        for b in range(1, setting.serving.batch + 1)
    ]
    return np.stack(parts, axis=1)


def _affine(ends: list[Outcome], batch: int, index: I64) -> F64:
    """Costs of a batch from those of one and of two inputs, alike for all lengths."""
    values = np.empty((4, 2))
    for column, (size, outcome) in enumerate(zip((1, 2), ends, strict=True)):
        values[SECONDS, column] = outcome.mean_s
        values[JOULES, column] = outcome.energy_j * size
        values[IDEAL, column] = outcome.flops_ideal * size
        values[EXECUTED, column] = outcome.flops_executed * size
    live = np.arange(batch)
    costs = values[:, :1] + (values[:, 1:] - values[:, :1]) * live
    return np.repeat(costs[:, :, None], int(index.max()) + 1, axis=2)


def _leaving(setting: Setting, models: list[_Model]) -> Leaving:
    plan = setting.candidate.cascade
    assert plan is not None
    exits = Exits(
        layers=tuple(range(1, len(models))), criterion=plan.criterion, thresholds=plan.thresholds
    )
    return assumed(
        setting.rng(2),
        exits,
        len(models),
        setting.samples,
        classes=setting.num_classes,
        assumptions=_accuracies(setting.assumptions, models),
    )


def _accuracies(assumptions: Assumptions, models: list[_Model]) -> Assumptions:
    """Accuracy of each model: as stated, one value each, else by its depth beside the last."""
    if len(assumptions.accuracy) == len(models):
        return assumptions
    deepest = models[-1].candidate.depth
    stated = np.linspace(0.0, 1.0, len(assumptions.accuracy))
    here = [min(1.0, m.candidate.depth / deepest) for m in models]
    values: tuple[Any, ...] = tuple(
        float(np.interp(x, stated, assumptions.accuracy)) for x in here
    )
    return replace(assumptions, accuracy=values)
