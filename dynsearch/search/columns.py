"""Candidates of an Optuna search space as arrays: one row a candidate, one column a knob.

Numbers stand as they are, an unordered choice as the index of its value. Drawing, changing and
crossing thousands of candidates is then a few array operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from dynsearch.search.types import F64, Params

Batch = dict[str, NDArray[Any]]  # parameters by name, each [B]
Generator = np.random.Generator

_NEAR, _FAR = 0.01, 0.3  # shortest and longest step of a number without a grid, share of its range
_ANEW = 0.3  # chance that a changed knob is drawn anew instead of moved by a step


@dataclass(frozen=True, slots=True)
class Columns:
    """The knobs of a fixed search space. G columns."""

    distributions: Mapping[str, BaseDistribution]
    low: F64  # [G], in the logarithm where `log`
    high: F64  # [G]
    step: F64  # [G], 0 where every number of the range is legal
    log: NDArray[np.bool_]  # [G]
    unordered: NDArray[np.bool_]  # [G]

    @property
    def num(self) -> int:
        """G."""
        return int(self.low.size)

    @property
    def size(self) -> float:
        """Number of distinct rows."""
        free = self.high > self.low
        if (free & (self.step == 0.0)).any():
            return math.inf
        return math.prod(int(k) for k in self._levels()[free])

    def grid(self) -> F64:
        """Every row of a finite space [size, G]."""
        places = np.indices(tuple(self._levels().astype(int))).reshape(self.num, -1).T
        return self.low + places * self.step

    def rows(self, params: Mapping[str, Any]) -> F64:
        """One row [G] of the parameters of a trial."""
        return np.array(
            [_to_number(d, params[name]) for name, d in self.distributions.items()],
            dtype=np.float64,
        )

    def batch(self, X: F64) -> Batch:
        """Parameter values by name, each [B], of rows [B, G]."""
        return {
            name: _to_values(dist, X[:, i])
            for i, (name, dist) in enumerate(self.distributions.items())
        }

    def from_batch(self, batch: Mapping[str, NDArray[Any]]) -> F64:
        """Rows [B, G] of parameter values by name."""
        columns = [_from_values(d, batch[name]) for name, d in self.distributions.items()]
        return np.stack(columns, axis=1)

    def params(self, row: F64) -> Params:
        """Parameters of one row [G], as Optuna wants them."""
        values = (
            _to_value(dist, x)
            for dist, x in zip(self.distributions.values(), row.tolist(), strict=True)
        )
        return dict(zip(self.distributions, values, strict=True))

    def draw(self, rng: Generator, n: int) -> F64:
        """`n` rows, uniformly (in the logarithm where the distribution says so)."""
        return self._anew(rng, np.tile(np.arange(self.num), n)).reshape(n, self.num)

    def change(self, rng: Generator, X: F64, more: float) -> F64:
        """Each row with one knob changed, with chance `more` another one, and so on.

        A changed knob is drawn anew or moves one step of its grid; where it has none, by a normal
        step of a random width.
        """
        n = X.shape[0]
        count = np.minimum(rng.geometric(1.0 - more, n), self.num)
        moved = rng.random(X.shape) < ((count - 1) / self.num)[:, None]
        moved[np.arange(n), rng.integers(self.num, size=n)] = True
        rows, at = np.nonzero(moved)
        x, low, high, step = X[rows, at], self.low[at], self.high[at], self.step[at]
        up = (x <= low) | ((x < high) & (rng.random(x.size) < 0.5))
        near = x + np.where(up, step, -step)
        widths = np.exp(rng.uniform(math.log(_NEAR), math.log(_FAR), x.size)) * (high - low)
        far = self._back(self._forth(x, at) + rng.normal(size=x.size) * widths, at)
        anew = (rng.random(x.size) < _ANEW) | self.unordered[at]
        value = np.where(anew, self._anew(rng, at), np.where(step > 0.0, near, far))
        changed = X.copy()
        changed[rows, at] = self._snap(value, at)
        return changed

    def inside(self, X: F64) -> NDArray[np.bool_]:
        """Which knobs of rows [B, G] are ordered and between their ends [B, G]."""
        at = np.arange(self.num)
        low, high = self._back(self.low, at), self._back(self.high, at)
        return (low < X) & (high > X) & ~self.unordered

    def middles(self, row: F64) -> F64:
        """`row` [G] with each ordered knob of three values or more, in turn, half-way [K, G]."""
        at = np.flatnonzero(~self.unordered)
        half = self._snap(self._back(0.5 * (self.low[at] + self.high[at]), at), at)
        rows = np.tile(row, (at.size, 1))
        rows[np.arange(at.size), at] = half
        return rows[self.inside(rows)[np.arange(at.size), at]]

    def cross(self, rng: Generator, A: F64, B: F64) -> F64:
        """Rows that have each knob from one of two parents."""
        return np.where(rng.random(A.shape) < 0.5, A, B)

    def features(self, X: F64) -> F64:
        """What a model of smooth functions sees [B, F]: ordered knobs in 0..1, choices one-hot.

        Knobs with a single value are left out.
        """
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        scaled = (self._forth(X, np.arange(self.num)) - self.low) / span
        parts = [scaled[:, (self.high > self.low) & ~self.unordered]]
        for i in np.flatnonzero(self.unordered & (self.high > self.low)):
            kinds = np.arange(int(self.high[i]) + 1)
            parts.append((X[:, i, None] == kinds) * math.sqrt(0.5))  # two values are 1 apart
        return np.concatenate(parts, axis=1)

    def _levels(self) -> F64:
        safe = np.where(self.step > 0.0, self.step, 1.0)
        return np.where(self.step > 0.0, np.floor((self.high - self.low) / safe + 1e-9) + 1, 1.0)

    def _anew(self, rng: Generator, at: NDArray[np.int64]) -> F64:
        """A random value of each of the columns `at`."""
        spread = rng.random(at.size)
        low, step = self.low[at], self.step[at]
        smooth = self._back(low + spread * (self.high[at] - low), at)
        steps = low + np.floor(spread * self._levels()[at]) * step
        return self._snap(np.where(step > 0.0, steps, smooth), at)

    def _forth(self, x: F64, at: NDArray[np.int64]) -> F64:
        log = self.log[at]
        return np.where(log, np.log(np.where(log, x, 1.0)), x)

    def _back(self, x: F64, at: NDArray[np.int64]) -> F64:
        log = self.log[at]
        return np.where(log, np.exp(np.where(log, x, 0.0)), x)

    def _snap(self, x: F64, at: NDArray[np.int64]) -> F64:
        """Into the range of the columns `at`, and onto the grid where there is one."""
        step = np.where(self.step > 0.0, self.step, 1.0)[at]
        low, high = self._back(self.low[at], at), self._back(self.high[at], at)
        places = np.clip(np.rint((x - low) / step), 0, self._levels()[at] - 1)
        return np.where(self.step[at] > 0.0, low + places * step, np.clip(x, low, high))


def make_columns(distributions: Mapping[str, BaseDistribution]) -> Columns:
    """The columns of a search space.

    An integer on a logarithmic scale is searched on its own grid, uniformly.
    """
    parts = [_bounds(dist) for dist in distributions.values()]
    low, high, step, log, unordered = zip(*parts, strict=True) if parts else ((),) * 5
    return Columns(
        distributions=dict(distributions),
        low=np.array(low, dtype=np.float64),
        high=np.array(high, dtype=np.float64),
        step=np.array(step, dtype=np.float64),
        log=np.array(log, dtype=bool),
        unordered=np.array(unordered, dtype=bool),
    )


def _bounds(dist: BaseDistribution) -> tuple[float, float, float, bool, bool]:
    """`(low, high, step, log, unordered)` of a column."""
    if isinstance(dist, CategoricalDistribution):
        return 0.0, len(dist.choices) - 1.0, 1.0, False, True
    if isinstance(dist, IntDistribution):
        return float(dist.low), float(dist.high), float(dist.step), False, False
    if isinstance(dist, FloatDistribution):
        if dist.log:
            return math.log(dist.low), math.log(dist.high), 0.0, True, False
        return dist.low, dist.high, dist.step or 0.0, False, False
    raise TypeError(f"no column for {type(dist).__name__}")


def _to_number(dist: BaseDistribution, value: Any) -> float:
    return float(dist.to_internal_repr(value))


def _to_value(dist: BaseDistribution, x: float) -> Any:
    if isinstance(dist, IntDistribution):
        return round(x)
    return dist.choices[round(x)] if isinstance(dist, CategoricalDistribution) else x


def _to_values(dist: BaseDistribution, x: F64) -> NDArray[Any]:
    if isinstance(dist, IntDistribution):
        return np.rint(x).astype(np.int64)
    if isinstance(dist, CategoricalDistribution):
        return _choices(dist)[np.rint(x).astype(np.int64)]
    return x


def _from_values(dist: BaseDistribution, values: NDArray[Any]) -> F64:
    if isinstance(dist, CategoricalDistribution):
        place = {choice: i for i, choice in enumerate(dist.choices)}
        return np.array([place[v] for v in values.tolist()], dtype=np.float64)
    return np.asarray(values, dtype=np.float64)


def _choices(dist: CategoricalDistribution) -> NDArray[Any]:
    array = np.empty(len(dist.choices), dtype=object)
    array[:] = dist.choices
    return array
