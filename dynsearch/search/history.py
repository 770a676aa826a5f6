"""The trials of a study as arrays; whatever a sampler knows is rebuilt from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dynsearch.search.columns import Columns
from dynsearch.search.free import FreeChecks
from dynsearch.search.types import F64

ReadFronts = Callable[[FrozenTrial], Sequence[F64] | None]  # [K, M] per device
_FINISHED = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a study holds. n evaluated trials, P pending ones, M objectives, C constraints."""

    features: F64  # [n, F] inputs of models
    rows: F64  # [n, G] canonical
    values: F64  # [n, M], minimised
    constraints: F64  # [n, C] of those that no free check answers; kept where <= 0
    feasible: NDArray[np.bool_]  # [n]
    fronts: tuple[Sequence[F64], ...]  # [n], empty where evaluations yield points
    pending: F64  # [P, G]
    known: set[bytes]  # rows of all trials
    finished: int  # trials that ended, without those given up when their process died


@dataclass(slots=True)
class _Read:
    """What was read of finished trials, in the order in which they were seen to finish."""

    features: F64  # [n, F]
    rows: F64  # [n, G]
    values: F64  # [n, M]
    constraints: list[dict[str, float]] = field(default_factory=list)
    fronts: list[Sequence[F64] | None] = field(default_factory=list)
    known: set[bytes] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)  # numbers of trials


@dataclass(slots=True)
class Reader:
    """Reads a study; each finished trial once, they never change."""

    columns: Columns
    checks: FreeChecks
    describe: Callable[[F64], F64]  # inputs of models [B, F] of canonical rows [B, G]
    free_constraints: frozenset[str]  # constraints that a free check answers
    read_fronts: ReadFronts | None = None
    _read: _Read | None = None

    def read(self, study: Study) -> History:
        """The present state of a study."""
        trials = study.get_trials(deepcopy=False)
        ended = [t for t in trials if t.state in _FINISHED]
        running = [t for t in trials if t.state is TrialState.RUNNING and self._fits(t)]
        pending = self._matrix(running)
        read = self._add([t for t in ended if not self._seen(t)], study)
        names = {name for limits in read.constraints for name in limits} - self.free_constraints
        limits = [[c.get(name, 0.0) for name in sorted(names)] for c in read.constraints]
        feasible = [all(v <= 0.0 for v in c.values()) for c in read.constraints]
        history = History(
            features=read.features,
            rows=read.rows,
            values=read.values,
            constraints=np.array(limits).reshape(len(limits), len(names)),
            feasible=np.array(feasible, dtype=bool),
            fronts=tuple(front for front in read.fronts if front is not None),
            pending=pending,
            known=read.known | {row.tobytes() for row in pending},
            finished=sum(not t.user_attrs.get("stale") for t in ended),
        )
        if 0 < len(history.fronts) < len(read.fronts):
            return _only(history, np.array([front is not None for front in read.fronts]))
        return history

    def _seen(self, trial: FrozenTrial) -> bool:
        return self._read is not None and trial.number in self._read.seen

    def _add(self, trials: list[FrozenTrial], study: Study) -> _Read:
        """Take in trials that finished since the last time."""
        if self._read is None:
            none = np.empty((0, self.columns.num))
            self._read = _Read(self.describe(none), none, np.empty((0, len(study.directions))))
        read = self._read
        read.seen |= {t.number for t in trials}
        fitting = [t for t in trials if self._fits(t)]
        if not fitting:
            return read
        rows = self._matrix(fitting)
        read.known |= {row.tobytes() for row in rows}
        done = [t.state is TrialState.COMPLETE and np.isfinite(t.values).all() for t in fitting]
        used = [t for t, ok in zip(fitting, done, strict=True) if ok]
        if used:
            flip = [-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
            values = np.array([t.values for t in used]) * flip
            read.features = np.concatenate([read.features, self.describe(rows[done])])
            read.rows = np.concatenate([read.rows, rows[done]])
            read.values = np.concatenate([read.values, values])
            read.constraints += [dict(t.constraints) for t in used]
            read.fronts += [self.read_fronts(t) if self.read_fronts else None for t in used]
        return read

    def _fits(self, trial: FrozenTrial) -> bool:
        """Whether a trial has a parameter for every knob, within its distribution."""
        return all(
            name in trial.params and dist._contains(dist.to_internal_repr(trial.params[name]))
            for name, dist in self.columns.distributions.items()
        )

    def _matrix(self, trials: list[FrozenTrial]) -> F64:
        if not trials:
            return np.empty((0, self.columns.num))
        rows = np.stack([self.columns.rows(trial.params) for trial in trials])
        return self.checks.canonicalise(self.columns, rows)


def _only(history: History, rows: NDArray[np.bool_]) -> History:
    """The history with some of its evaluations."""
    return replace(
        history,
        features=history.features[rows],
        rows=history.rows[rows],
        values=history.values[rows],
        constraints=history.constraints[rows],
        feasible=history.feasible[rows],
    )
