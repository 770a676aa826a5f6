"""Learning what a form leaves over, where a device was measured often enough.

Ridge regression of the log errors of rows on bumps around some of their operators (`learned.py`):

    minimise  sum over rows (e - S B w)^2  +  penalty w' K w

S are the shares of a row's time that its operators take, B the bumps of operators around points,
K those of points around each other. Points are the operators that the others tell least of
(pivoted Cholesky). The penalty is chosen with whole groups left out; where none of them beats
the form alone, nothing is learned. Errors count up to three times their noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cost_models.calibrate.rows import Prepared
from cost_models.calibrate.solve import noise
from cost_models.device import Device
from cost_models.learned import Learned, bumps, sizes
from search_spaces.candidate import DTYPES
from search_spaces.ops import KINDS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

PLENTY = 80  # rows of a kind and format
POINTS = 300  # at most
HELPERS = 3  # distinct operators of a row, at most
NEW = 0.02  # share of an operator's variance that the points before it must leave open
PENALTIES = (0.1, 0.3, 1.0, 4.0, 16.0)
FOLDS = 4
BETTER = 0.97  # left-out squared error that learning must fall below, relative to none


def learn(rows: Prepared, device: Device) -> tuple[Learned, ...]:
    """What can be learned from N rows; empty where they are few or tell nothing.

    Args:
        rows: Measured ones.
        device: With the parameters that were fitted to it, and nothing learned yet.
    """
    error = np.log(rows.seconds / rows.predict(device))
    share = rows.counts.multiply(rows.once(device)[None, :]).tocsr()
    share = csr_array(share.multiply(1.0 / np.maximum(share.sum(axis=1), 1e-300)[:, None]))
    found = []
    for kind, dtype, ops, mine in _alike(rows, share):
        x = sizes(rows.ops.take(ops))
        points = x[pivots(x)]
        design = np.asarray(share[mine][:, ops] @ bumps(x, points))
        y = np.clip(error[mine], -3 * noise(error[mine]), 3 * noise(error[mine]))
        penalty = _penalty(design, points, y, rows.group[mine])
        if penalty is not None:
            found.append(
                Learned(
                    kind=kind,
                    dtype=dtype,
                    log_sd=float(np.std(y)),
                    points=points,
                    weights=ridge(design, points, y, (penalty,))[0],
                )
            )
    return tuple(found)


def _alike(rows: Prepared, share: csr_array) -> Iterator[tuple[str, str, I64, I64]]:
    """(kind, format, operators, rows) where PLENTY rows run mostly such operators.

    Rows of more than HELPERS distinct operators are networks: they tell of no operator.
    """
    small = np.diff(share.indptr) <= HELPERS
    cell = rows.ops.dtype * len(KINDS) + rows.ops.kind
    for value in np.unique(cell):
        ops = np.flatnonzero(cell == value)
        mine = np.flatnonzero(small & (np.asarray(share[:, ops].sum(axis=1)) > 0.5))
        if mine.size >= PLENTY:
            yield KINDS[value % len(KINDS)], DTYPES[value // len(KINDS)], ops, mine


def pivots(x: F64) -> I64:
    """Places that the others tell least of, at most POINTS of N [Q]: pivoted Cholesky."""
    left = np.ones(len(x))
    factors = np.zeros((len(x), 0))
    chosen: list[int] = []
    while len(chosen) < min(POINTS, len(x)) and left.max() > NEW:
        best = int(left.argmax())
        column = bumps(x, x[best : best + 1])[:, 0] - factors @ factors[best]
        factors = np.column_stack([factors, column / np.sqrt(left[best])])
        left = np.maximum(left - factors[:, -1] ** 2, 0.0)
        chosen.append(best)
    return np.array(chosen, dtype=np.int64)


def ridge(design: F64, points: F64, y: F64, penalties: Sequence[float]) -> list[F64]:
    """Weights of the points [Q] for each penalty."""
    square, toward, kernel = design.T @ design, design.T @ y, bumps(points, points)
    square[np.diag_indices_from(square)] += 1e-9 * len(y)
    found = [np.linalg.solve(square + penalty * kernel, toward) for penalty in penalties]
    return [np.asarray(weights, dtype=np.float64) for weights in found]


def _penalty(design: F64, points: F64, y: F64, group: I64) -> float | None:
    """The penalty that does best on groups left out; None where the form alone does."""
    fold = np.unique(group, return_inverse=True)[1] % FOLDS
    if len(np.unique(fold)) < FOLDS:
        return None
    left = np.tile(y, (len(PENALTIES), 1))
    for part in range(FOLDS):
        out = fold == part
        weights = ridge(design[~out], points, y[~out], PENALTIES)
        left[:, out] -= np.stack(weights) @ design[out].T
    loss = (left**2).mean(axis=1)
    best = int(loss.argmin())
    return PENALTIES[best] if loss[best] < BETTER * float((y**2).mean()) else None
