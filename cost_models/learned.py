"""What a form leaves over on a known device, learned from many measurements of it.

A sum of smooth bumps in the logarithms of an operator's sizes, one sum for each kind and number
format, multiplies the form's time:

    log factor(x) = sum over points z of  weight_z exp(-|x - z|^2 / 2)

with x the logarithms of m, k, n, batch and count. A bump is one e-fold wide, so that what is
learned carries over to neighbouring sizes and fades to nothing away from them: the form alone
answers there, and `unsure` says so. A device that was never measured has no points.
`calibrate/learn.py` makes them; profiles hold them as data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.candidate import DTYPES
from search_spaces.ops import KIND, OpTable

F64 = NDArray[np.float64]

BLOCK = 256
AXES: tuple[str, ...] = ("m", "k", "n", "batch", "count")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learned:
    """What was learned of one kind of operator in one number format."""

    kind: str  # as in search_spaces.ops.KINDS
    dtype: str
    log_sd: float  # of what the form leaves over: of the factor, far from every point
    points: F64  # [Q, len(AXES)] logarithms of sizes
    weights: F64  # [Q]

    def log_factor(self, ops: OpTable) -> F64:
        """Logarithm of (measured / form) of R operators of this kind and format [R]."""
        # single precision: most of the time of pricing goes into these exponentials
        points, weights = _right(self.points).astype(np.float32), self.weights.astype(np.float32)
        places = _left(sizes(ops).astype(np.float32))
        found = np.empty(len(ops))
        bump = np.empty((BLOCK, len(weights)), dtype=np.float32)
        for start in range(0, len(ops), BLOCK):
            part = places[start : start + BLOCK]
            here = np.matmul(part, points, out=bump[: len(part)])
            found[start : start + BLOCK] = np.exp(here, out=here) @ weights
        return found

    def unsure(self, ops: OpTable) -> F64:
        """Log error [R] that stays: none at a point, `log_sd` away from all of them."""
        x = sizes(ops)
        near = np.empty(len(x))
        for start in range(0, len(x), BLOCK):
            near[start : start + BLOCK] = bumps(x[start : start + BLOCK], self.points).max(axis=1)
        return np.asarray(self.log_sd * np.sqrt(1.0 - near**2))

    def mine(self, ops: OpTable) -> NDArray[np.bool_]:
        """Which of R operators it is about."""
        return np.asarray((ops.kind == KIND[self.kind]) & (ops.dtype == DTYPES.index(self.dtype)))


def sizes(ops: OpTable) -> F64:
    """Logarithms of the sizes of R operators [R, len(AXES)].

    Experts count as `count` whether each has a call of its own or all are the `batch` of one.
    """
    values = {axis: getattr(ops, axis) for axis in AXES}
    grouped = ops.kind == KIND["grouped_matmul"]
    if grouped.any():
        values["count"] = np.where(grouped, ops.count * ops.batch, ops.count)
        values["batch"] = np.where(grouped, 1, ops.batch)
    found = np.empty((len(ops), len(AXES)))
    for i, axis in enumerate(AXES):
        np.log(np.maximum(values[axis], 1.0), out=found[:, i])
    return found


def bumps(x: F64, points: F64) -> F64:
    """exp(-|x - z|^2 / 2) of R places and Q points [R, Q], at most 1."""
    return np.asarray(np.exp(np.minimum(_left(x) @ _right(points), 0.0)))


def _left(x: NDArray[Any]) -> NDArray[Any]:
    """Rows whose products with `_right` are -|x - z|^2 / 2 [R, axes + 2]."""
    found = np.ones((len(x), x.shape[1] + 2), dtype=x.dtype)
    found[:, :-2] = x
    found[:, -2] = -0.5 * np.einsum("ij,ij->i", x, x)
    return found


def _right(points: F64) -> F64:
    """See `_left` [axes + 2, Q]."""
    ones = np.ones(len(points))
    return np.stack([*points.T, ones, -0.5 * (points**2).sum(axis=1)])


def factor(ops: OpTable, learned: Sequence[Learned]) -> F64:
    """What R operators take, relative to the form's time [R]; 1 where nothing was learned."""
    found = np.ones(len(ops))
    for part in learned:
        mine = part.mine(ops)
        if mine.all():
            return np.asarray(np.exp(part.log_factor(ops)))
        if mine.any():
            found[mine] = np.exp(part.log_factor(ops.take(mine)))
    return found


def unsure(ops: OpTable, learned: Sequence[Learned]) -> F64:
    """Log error of the factor of R operators [R]; 0 where nothing was learned."""
    found = np.zeros(len(ops))
    for part in learned:
        mine = part.mine(ops)
        if mine.any():
            found[mine] = part.unsure(ops.take(mine))
    return found
