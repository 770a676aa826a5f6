"""Thousands of candidates as arrays, ranked by what they are expected to add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dynsearch.search.acquisition import Acquisition
from dynsearch.search.columns import Columns
from dynsearch.search.free import FreeChecks
from dynsearch.search.history import History
from dynsearch.search.pareto import non_dominated
from dynsearch.search.surrogate import squared_distance
from dynsearch.search.types import F64

_DRAWN, _CHANGED, _CROSSED = 256, 256, 256  # candidates of the first round
_CLIMBS, _CLIMBERS, _OFFSPRING = 4, 12, 256  # rounds from the best candidates
_OFFERED = 64  # proposals, best first
_GRID = 2048  # spaces of at most so many rows are looked at whole
_COST_WEIGHT = 0.3  # standard deviation of a free quantity among the inputs of models
_MORE, _MORE_CLIMBING = 0.5, 0.3  # chance that yet another knob changes


@dataclass(slots=True)
class Proposer:
    """Proposes settings of one space. Made once; everything it keeps can be made again."""

    columns: Columns
    checks: FreeChecks
    seed: int
    _units: dict[str, _Unit] = field(default_factory=dict)
    _grid: F64 | None = None

    def __post_init__(self) -> None:
        sample = self.checks.draw(self.columns, np.random.default_rng([self.seed, 0]), 1024)
        costs = self.checks.costs(self.columns, sample)
        self._units = {name: _unit(values) for name, values in costs.items()}
        if self.columns.size <= _GRID:
            rows = self.checks.canonicalise(self.columns, self.columns.grid())
            self._grid = np.unique(rows, axis=0)

    def describe(self, X: F64, costs: Mapping[str, F64] | None = None) -> F64:
        """Inputs of models [B, F] of canonical rows [B, G]: knobs, then free quantities.

        Args:
            X: Rows.
            costs: Their free quantities where they are at hand.
        """
        if X.shape[0] == 0:
            return np.empty((0, self.columns.features(X).shape[1] + len(self._units)))
        if costs is None:
            costs = self.checks.costs(self.columns, X)
        knobs = self.columns.features(X)
        return np.column_stack([knobs, *(self._units[n].scale(v) for n, v in costs.items())])

    def first(self, history: History, rng: np.random.Generator) -> F64:
        """Proposals before there is a model [B, G]: those farthest from all that is known."""
        X, _ = self._fresh(self._drawn(rng), history.known, set())
        if X.shape[0] == 0:
            return X
        seen = np.concatenate([history.rows, history.pending])
        X = rng.permutation(X)
        if seen.shape[0] == 0:
            return X[:_OFFERED]
        gaps = squared_distance(self.describe(X), self.describe(seen)).min(axis=1)
        return X[np.argsort(-gaps, kind="stable")[:_OFFERED]]

    def halfway(self, history: History, base: F64) -> F64:
        """`base` [G] with a knob half-way of which only the ends were ever tried [B, G].

        Between two ends a smooth model draws a line and is sure of it.
        """
        tried = self.columns.inside(np.concatenate([history.rows, history.pending])).any(axis=0)
        rows = self.checks.canonicalise(self.columns, self.columns.middles(base))
        new = (self.columns.inside(rows) & ~tried).any(axis=1)
        return self._fresh(rows[new], history.known, set())[0]

    def ranked(self, history: History, score: Acquisition, rng: np.random.Generator) -> F64:
        """Proposals by falling score [B, G]: a first round, then climbing from its best."""
        best, scores = np.empty((0, self.columns.num)), np.empty(0)
        seen: set[bytes] = set()
        X = self._first_round(history, rng)
        for climb in range(_CLIMBS + 1):
            X, costs = self._fresh(X, history.known, seen)
            if X.shape[0]:
                gain = score(self.describe(X, costs), costs)
                order = np.argsort(-np.append(scores, gain), kind="stable")[:_OFFERED]
                best = np.concatenate([best, X])[order]
                scores = np.append(scores, gain)[order]
            if self._grid is not None or best.shape[0] == 0 or climb == _CLIMBS:
                break
            top = best[:_CLIMBERS]
            parents = top[rng.integers(top.shape[0], size=_OFFSPRING)]
            X = self.columns.change(rng, parents, _MORE_CLIMBING)
        return best

    def _drawn(self, rng: np.random.Generator) -> F64:
        if self._grid is not None:
            return self.checks.within(self.columns, self._grid)[0]
        return self.checks.draw(self.columns, rng, _DRAWN)

    def _first_round(self, history: History, rng: np.random.Generator) -> F64:
        drawn = self._drawn(rng)
        if self._grid is not None:
            return drawn
        parents = _parents(history)
        a, b, c = (
            parents[rng.integers(parents.shape[0], size=n)] for n in (_CHANGED, _CROSSED, _CROSSED)
        )
        bred = np.concatenate([a, self.columns.cross(rng, b, c)])
        return np.concatenate([drawn, self.columns.change(rng, bred, _MORE)])

    def _fresh(self, X: F64, known: set[bytes], seen: set[bytes]) -> tuple[F64, dict[str, F64]]:
        """Canonical rows within the budgets that are neither known nor in `seen`, which grows."""
        X = self.checks.canonicalise(self.columns, X)
        new = []
        for i, key in enumerate(row.tobytes() for row in X):
            if key not in known and key not in seen:
                seen.add(key)
                new.append(i)
        return self.checks.within(self.columns, X[new])


@dataclass(frozen=True, slots=True)
class _Unit:
    """How a free quantity becomes an input of models."""

    log: bool
    centre: float
    spread: float

    def scale(self, values: F64) -> F64:
        """[B], of mean 0 over the space; the logarithm where all values are positive."""
        shown = np.log(np.maximum(values, 1e-300)) if self.log else values
        return np.asarray(_COST_WEIGHT * (shown - self.centre) / self.spread)


def _unit(values: F64) -> _Unit:
    log = bool((values > 0.0).all())
    shown = np.log(values) if log else values
    return _Unit(log, float(shown.mean()), float(shown.std()) or 1.0)


def _parents(history: History) -> F64:
    """Rows to breed from: those of the front, or of all that was evaluated."""
    if history.fronts:
        return history.rows
    rows = history.rows[history.feasible]
    if rows.shape[0] == 0:
        return history.rows
    return rows[non_dominated(history.values[history.feasible])]
