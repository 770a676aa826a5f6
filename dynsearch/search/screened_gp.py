"""Optuna's GPSampler with the free check inside its own search for the next setting.

Left to itself it proposes what promises most however far beyond a budget that lies, and a setting
that stands in for such a proposal is one that nobody wanted. So what may not be tried is worth
nothing to its acquisition, and models and the way in which that is maximised stay Optuna's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import GPSampler

from dynsearch.search.types import Params

STARTUP = 10  # evaluations before its first model; Optuna's default

Allowed = Callable[[Sequence[Params]], Sequence[bool]]  # of Optuna parameters

_NOTHING = -1e6  # in the logarithm of improvement


class ScreenedGPSampler(GPSampler):
    """GPSampler that looks for its next proposal among what may be tried.

    Args:
        seed: Of its random numbers.
        allowed: Which parameters may be tried.
    """

    def __init__(self, *, seed: int, allowed: Allowed) -> None:
        super().__init__(seed=seed, n_startup_trials=STARTUP)
        self._allowed = allowed

    def _optimize_acqf(self, acqf: Any, best_params: NDArray[Any] | None) -> NDArray[Any]:
        """As the base class, which leaves this method to be overridden."""
        screened: Any = _Screened(acqf, self._allowed)
        return super()._optimize_acqf(screened, best_params)


class _Screened:
    """An acquisition function of Optuna's that is worth nothing where nothing may be tried."""

    def __init__(self, acqf: Any, allowed: Allowed) -> None:
        self.length_scales = acqf.length_scales
        self.search_space = acqf.search_space
        self._acqf = acqf
        self._allowed = allowed
        self._asked: dict[bytes, bool] = {}

    def eval_acqf(self, x: Any) -> Any:
        """Values [...] of a tensor of normalised parameters [..., G]."""
        values = self._acqf.eval_acqf(x)
        fits = values.new_tensor(self._fits(x.detach().numpy())).reshape(values.shape)
        return values.where(fits > 0.0, values.new_tensor(_NOTHING))

    def eval_acqf_no_grad(self, x: NDArray[Any]) -> NDArray[Any]:
        """The same of an array."""
        values = self._acqf.eval_acqf_no_grad(x)
        return np.where(self._fits(x).reshape(values.shape), values, _NOTHING)

    def _fits(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows [..., G] may be tried, in one dimension."""
        rows = x.reshape(-1, x.shape[-1])
        keys = [row.tobytes() for row in rows]
        new = {k: row for k, row in zip(keys, rows, strict=True) if k not in self._asked}
        if new:
            params = [self.search_space.get_unnormalized_param(row) for row in new.values()]
            self._asked |= dict(zip(new, self._allowed(params), strict=True))
        return np.array([self._asked[k] for k in keys])
