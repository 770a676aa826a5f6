"""What a call of `optimize` returns, read back from its study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from dynsearch.search.pareto import non_dominated


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One setting and what it yielded; `evaluation[name]` finds a value in any of its parts."""

    number: int  # of the trial
    knobs: dict[str, Any]  # of a point of a ragged front its inner knobs, too
    objectives: dict[str, float] = field(default_factory=dict)  # empty where it failed
    budgeted: dict[str, float] = field(default_factory=dict)  # what budgets limit
    feasible: bool = False  # within every budget
    reason: str = ""  # why it failed

    def __getitem__(self, name: str) -> Any:
        for part in (self.objectives, self.budgeted, self.knobs):
            if name in part:
                return part[name]
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeResult:
    """What a search leaves."""

    front: tuple[Evaluation, ...]  # non-dominated and feasible, by the first objective
    evaluations: tuple[Evaluation, ...]  # all, in order; failed ones with their reason
    study: Study
    stopped: str  # trials, exhausted or failures


def read_result(study: Study, objectives: Sequence[str], stopped: str) -> OptimizeResult:
    """Evaluations and front of a study that `optimize` filled."""
    ended = (TrialState.COMPLETE, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=ended)
    trials = [t for t in trials if not t.user_attrs.get("stale")]
    evaluations = tuple(_evaluation(trial, objectives) for trial in trials)
    points = [p for t, e in zip(trials, evaluations, strict=True) for p in _points(t, e)]
    table = np.array([list(p.objectives.values()) for p in points]).reshape(-1, len(objectives))
    front = [points[i] for i in np.flatnonzero(non_dominated(table))]
    front.sort(key=lambda e: tuple(e.objectives.values()))
    return OptimizeResult(
        front=tuple(front), evaluations=evaluations, study=study, stopped=stopped
    )


def _evaluation(trial: FrozenTrial, objectives: Sequence[str]) -> Evaluation:
    attrs = trial.user_attrs
    knobs = dict(attrs.get("setting", {})) | attrs.get("inner", {})
    if trial.state is TrialState.FAIL:
        return Evaluation(number=trial.number, knobs=knobs, reason=attrs.get("reason", ""))
    return Evaluation(
        number=trial.number,
        knobs=knobs,
        objectives=dict(zip(objectives, trial.values, strict=True)),
        budgeted=dict(attrs["budgeted"]),
        feasible=all(value <= 0.0 for value in trial.constraints.values()),
    )


def _points(trial: FrozenTrial, evaluation: Evaluation) -> list[Evaluation]:
    """The feasible points of an evaluation: itself, or its ragged front."""
    if not evaluation.feasible:
        return []
    front = trial.user_attrs.get("front")
    if front is None:
        return [evaluation]
    return [
        Evaluation(
            number=trial.number,
            knobs=evaluation.knobs | {name: v[k] for name, v in front["inner"].items()},
            objectives=dict(zip(evaluation.objectives, point, strict=True)),
            feasible=True,
        )
        for k, point in enumerate(front["points"])
    ]
