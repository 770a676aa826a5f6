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

from collections.abc import Callable, Sequence
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
        points, weights = _right(self.points).astype(np.float32), self.weights.astype(np.float32)
        # single precision: most of the time of pricing goes into these exponentials
        return _by_block(ops, lambda x: _between(_left(x).astype(np.float32), points) @ weights)

    def unsure(self, ops: OpTable) -> F64:
        """Log error [R] that stays: none at a point, `log_sd` away from all of them."""
        near = _by_block(ops, lambda x: bumps(x, self.points).max(axis=1))
        return np.asarray(self.log_sd * np.sqrt(1.0 - near**2))

    def mine(self, ops: OpTable) -> NDArray[np.bool_]:
        """Which of R operators it is about."""
        return np.asarray((ops.kind == KIND[self.kind]) & (ops.dtype == DTYPES.index(self.dtype)))


def sizes(ops: OpTable) -> F64:
    """Logarithms of the sizes of R operators [R, len(AXES)].

    Experts count as `count` whether each has a call of its own or all are the `batch` of one.
    """
    grouped = ops.kind == KIND["grouped_matmul"]
    together = {
        "batch": np.where(grouped, 1, ops.batch),
        "count": np.where(grouped, ops.count * ops.batch, ops.count),
    }
    values = [together.get(axis, getattr(ops, axis)) for axis in AXES]
    found: F64 = np.log(np.maximum(np.stack(values, axis=1), 1.0))
    return found


def _by_block(ops: OpTable, per_row: Callable[[F64], NDArray[Any]]) -> F64:
    """`per_row` of the sizes of R operators [R], a block at a time: R x Q bumps stay in cache."""
    x = sizes(ops)
    found = np.empty(len(x))
    for start in range(0, len(x), BLOCK):
        found[start : start + BLOCK] = per_row(x[start : start + BLOCK])
    return found


def bumps(x: NDArray[Any], points: NDArray[Any]) -> NDArray[Any]:
    """exp(-|x - z|^2 / 2) of R places and Q points [R, Q]."""
    return _between(_left(x), _right(points))


def _left(x: NDArray[Any]) -> NDArray[Any]:
    """Rows whose products with `_right` are -|x - z|^2 / 2 [R, axes + 2]."""
    return np.column_stack([x, -0.5 * (x**2).sum(axis=1), np.ones(len(x))])


def _right(points: NDArray[Any]) -> NDArray[Any]:
    """See `_left` [axes + 2, Q]."""
    ones = np.ones(len(points))
    return np.stack([*points.T, ones, -0.5 * (points**2).sum(axis=1)])


def _between(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = left @ right
    np.minimum(found, 0.0, out=found)
    np.exp(found, out=found)
    return found


def factor(ops: OpTable, learned: Sequence[Learned]) -> F64:
    """What R operators take, relative to the form's time [R]; 1 where nothing was learned."""
    found = np.ones(len(ops))
    for part in learned:
        mine = part.mine(ops)
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
