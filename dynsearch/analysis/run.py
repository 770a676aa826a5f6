"""`dynsearch analyse`: what a finished search tells, from the run folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dynsearch.analysis.binding import (
    Binding,
    base_points,
    device_states,
    gain,
    points_of,
    relaxed,
    slack,
)
from dynsearch.analysis.importances import importances, open_study
from dynsearch.analysis.recorded import RecordedRun, open_recorded
from dynsearch.analysis.sensitivity import Sweep, plan, subjects_of
from dynsearch.errors import InputError
from dynsearch.export.files import write_atomic
from dynsearch.export.records import Front, FrontPoint
from dynsearch.rejection import rejected
from dynsearch.search.inner import policy_costs, search_inner
from dynsearch.search.types import F64
from dynsearch.sim.pricing import QUANTITIES
from dynsearch.sim.replay import Replayer
from search_spaces.candidate import Candidate

ANALYSIS_FILE = "analysis.json"
SCHEMA_VERSION = 1
RELAXED_BY = 0.10
DRAWN = 256  # exit policies of each pass that rejection is told of


def analyse(
    run_dir: Path,
    ids: Sequence[str] = (),
    *,
    relax: float = RELAXED_BY,
    on_progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Progress, importances, what binds, and sensitivity of a run's configurations.

    Written to `analysis.json` of the run, too. Costs one inner search per recorded pass and
    budget, no forward pass.

    Args:
        run_dir: Run folder with a front.
        ids: Configurations whose sensitivity is told; none: all of the front.
        relax: How much of a budget is added when it is asked what more would buy, as a share.
        on_progress: Called with the share of passes that are done.

    Returns:
        `hypervolume`, `importances`, `devices`, `binds`, `slack` and `sensitivity`.

    Raises:
        InputError: no such run or configuration, or files that are missing or damaged.
    """
    recorded = open_recorded(run_dir)
    points = _chosen(recorded, ids)
    sweep = plan(recorded, subjects_of(recorded, points))
    tally = _Tally(recorded, relax)
    for i, (trial, outer) in enumerate(recorded.outers.items()):
        trace = recorded.trace(trial)
        replayer = recorded.replayer(outer, trace)
        tally.visit(trial, outer, trace.depth, replayer)
        sweep.visit(trial, outer, trace, replayer)
        on_progress((i + 1) / len(recorded.outers))
    result = _result(recorded, points, sweep, tally)
    text = json.dumps({"schema_version": SCHEMA_VERSION, **result}, indent=1, allow_nan=False)
    write_atomic(recorded.run.path / ANALYSIS_FILE, text + "\n")
    return {"run": str(recorded.run.path), **result}


class _Tally:
    """Policies drawn on every pass, and points under every relaxed budget."""

    def __init__(self, recorded: RecordedRun, relax: float) -> None:
        self._recorded, self.relax = recorded, relax
        self._drawn: dict[str, list[F64]] = {name: [] for name in recorded.budgets}  # [D, P]
        self._more: dict[tuple[str, str], list[F64]] = {}  # by budget and device

    def visit(self, trial: int, outer: Candidate, depth: int, replayer: Replayer) -> None:
        """Draw policies of a trace, and search it within wider budgets."""
        recorded = self._recorded
        if not recorded.budgets:
            return
        problem = recorded.problem(outer, depth, recorded.limits)
        drawn = problem.space.sample(
            np.random.default_rng(trial),
            DRAWN,
            num_layers=replayer.trace.num_layers,
            num_classes=recorded.scene.num_classes,
        )
        priced = [name for name in recorded.budgets if name in QUANTITIES]
        replayed = replayer.run(drawn, priced or QUANTITIES[:1])
        costs = policy_costs(replayer, drawn, replayed, recorded.budgets, problem.peak_bytes)
        for name, values in costs.items():
            self._drawn[name].append(values)
        for budget in recorded.budgets:
            wider = recorded.problem(outer, depth, relaxed(recorded.limits, budget, self.relax))
            found = points_of(search_inner(replayer, wider), recorded.front.objectives)
            for device, points in found.items():
                self._more.setdefault((budget, device), []).append(points)

    def bindings(self, base: Mapping[str, F64]) -> list[Binding]:
        """Every budget on every device, what would gain most first."""
        recorded, out = self._recorded, []
        for d, device in enumerate(recorded.devices):
            limits = recorded.limits[device]
            costs = {n: np.concatenate([x[d] for x in self._drawn[n]]) for n in limits}
            shares = rejected(costs, limits)
            every = [slack(p, limits) for p in recorded.front.front if p.device == device]
            mine = [one for one in every if min(one.values()) >= 0.0]  # references may lie outside
            reference = recorded.reference_point(device)
            for name, limit in limits.items():
                left = [one[name] for one in mine]
                more = np.concatenate(self._more[name, device])
                out.append(
                    Binding(
                        device=device,
                        budget=name,
                        limit=limit,
                        rejected=shares[name],
                        slack_least=min(left, default=None),
                        slack_median=float(np.median(left)) if left else None,
                        gain=gain(base[device], more, reference),
                    )
                )
        return sorted(out, key=lambda one: -one.gain)


def _result(
    recorded: RecordedRun, points: Sequence[FrontPoint], sweep: Sweep, tally: _Tally
) -> dict[str, Any]:
    front, base = recorded.front, base_points(recorded)
    study = open_study(recorded.run)
    shares, why_not = ({}, study) if isinstance(study, str) else importances(study)
    limits = recorded.limits
    known = {subject.id for subject in sweep.subjects}
    lost = sorted({p.id for p in points if p.device in limits} - known)
    warnings = [f"no recorded pass fits {id_}: its sensitivity is not told" for id_ in lost]
    return {
        "passes": len(recorded.outers),
        "hypervolume": _history(front),
        "importances": shares,
        "no_importances": why_not,
        "devices": [asdict(state) for state in device_states(recorded, base)],
        "relaxed_by": tally.relax,
        "binds": [asdict(one) for one in tally.bindings(base)],
        "slack": [
            {"id": p.id, "device": p.device, "slack": slack(p, limits[p.device])}
            for p in points
            if p.device in limits
        ],
        "sensitivity": [
            {"id": subject.id, "steps": [asdict(step) for step in sweep.steps(subject)]}
            for subject in sweep.subjects
        ],
        "warnings": warnings,
    }


def _history(front: Front) -> list[dict[str, Any]]:
    """Hypervolume by pass, and what each added."""
    before, out = 0.0, []
    for step in front.hypervolume:
        out.append({**asdict(step), "added": step.mean - before})
        before = step.mean
    return out


def _chosen(recorded: RecordedRun, ids: Sequence[str]) -> list[FrontPoint]:
    known = {p.id for p in recorded.front.front}
    for id_ in ids:
        if id_ not in known:
            text = f"no such configuration; `dynsearch front {recorded.run.path}` lists them"
            raise InputError.one(recorded.run.path, "id", id_, text)
    return [p for p in recorded.front.front if not ids or p.id in ids]
