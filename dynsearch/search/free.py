"""What is known of candidates without paying an evaluation, and which may be proposed at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dynsearch.errors import InputError
from dynsearch.search.columns import Batch, Columns
from dynsearch.search.types import F64

_DRAWS = 1024  # candidates in one go
_CLIMB = 24  # rounds of moving towards the budgets where random draws break them
_PARENTS = 64

CostFunction = Callable[[Batch], Mapping[str, F64]]  # [B] by name, of parameters by name


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeChecks:
    """What costs nothing to ask about candidates; parameters are Optuna's.

    Args of the constructor:
        cost: Quantities by name [B] of a batch of parameters; deterministic.
        budgets: Upper limits on some of them, above 0.
        objectives: Objectives that `cost` answers: their number in the study -> name.
        canonical: Sets parameters that have no effect to one value each.
    """

    cost: CostFunction | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    objectives: Mapping[int, str] = field(default_factory=dict)
    canonical: Callable[[Batch], Mapping[str, NDArray[np.generic]]] | None = None

    def canonicalise(self, columns: Columns, X: F64) -> F64:
        """Rows [B, G] with the parameters that have no effect at their defaults."""
        if self.canonical is None or X.shape[0] == 0:
            return X
        return columns.from_batch(self.canonical(columns.batch(X)))

    def costs(self, columns: Columns, X: F64) -> dict[str, F64]:
        """Free quantities by name [B] of canonical rows.

        Raises:
            InputError: when a quantity is missing or not a finite number per row.
        """
        if self.cost is None:
            return {}
        if X.shape[0] == 0:  # not every function takes empty arrays
            return dict.fromkeys((*self.budgets, *self.objectives.values()), np.empty(0))
        found = {name: np.asarray(v, float) for name, v in self.cost(columns.batch(X)).items()}
        for name in (*self.budgets, *self.objectives.values()):
            if name not in found:
                raise InputError.one("cost", name, None, f"is missing; cost gives {list(found)}")
        for name, values in found.items():
            if values.shape != (X.shape[0],) or not np.isfinite(values).all():
                text = f"must be {X.shape[0]} finite numbers, one per row"
                raise InputError.one("cost", name, f"shape {values.shape}", text)
        return found

    def excess(self, costs: Mapping[str, F64], n: int) -> F64:
        """Sum over budgets of value / budget - 1 where above 0 [n]."""
        total = np.zeros(n)
        for name, limit in self.budgets.items():
            total += np.maximum(0.0, costs[name] / limit - 1.0)
        return total

    def within(self, columns: Columns, X: F64) -> tuple[F64, dict[str, F64]]:
        """Those of the rows that keep every budget, with their free quantities."""
        costs = self.costs(columns, X)
        ok = self.excess(costs, X.shape[0]) <= 0.0
        return X[ok], {name: values[ok] for name, values in costs.items()}

    def draw(self, columns: Columns, rng: np.random.Generator, n: int) -> F64:
        """At most `n` canonical rows within the budgets, uniformly; by climbing if there are few.

        Raises:
            InputError: when none is found, with the budget that binds and the least value seen.
        """
        X = self.canonicalise(columns, columns.draw(rng, max(n, _DRAWS)))
        ok, _ = self.within(columns, X)
        return ok[:n] if ok.size else self._climb(columns, rng, X)[:n]

    def _climb(self, columns: Columns, rng: np.random.Generator, X: F64) -> F64:
        for _ in range(_CLIMB):
            excess = self.excess(self.costs(columns, X), X.shape[0])
            if (excess <= 0.0).any():
                return X[excess <= 0.0]
            best = X[np.argsort(excess, kind="stable")[:_PARENTS]]
            parents = best[rng.integers(best.shape[0], size=_DRAWS)]
            X = np.concatenate(
                [best, self.canonicalise(columns, columns.change(rng, parents, 0.5))]
            )
        raise self._infeasible(columns, X)

    def _infeasible(self, columns: Columns, X: F64) -> InputError:
        """The error of a space in which nothing keeps the budgets."""
        costs = self.costs(columns, X)
        best = int(self.excess(costs, X.shape[0]).argmin())
        name = max(self.budgets, key=lambda b: float(costs[b][best]) / self.budgets[b])
        text = (
            f"no setting of the space keeps every budget; the nearest one found needs "
            f"{name} = {costs[name][best]:.6g}. Allow more, or widen the space"
        )
        return InputError.one("budgets", name, self.budgets[name], text)
