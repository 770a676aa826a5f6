"""Errors, their differences on the same rows, and intervals around them.

Paired differences compare two predictors on the same N rows. Only the rows on which exactly one
of them is right matter: `lost` rows (the reference is right, the policy is wrong) and `gained`
rows (the other way round). loss = (lost - gained) / N.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

BOUND_Z = 1.28  # standard errors in `error_bound`: one-sided 90 %


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTable:
    """How two predictors answer the same N rows. Arrays of any one shape."""

    both_right: NDArray[np.int64]
    lost: NDArray[np.int64]  # reference right, policy wrong
    gained: NDArray[np.int64]  # reference wrong, policy right
    both_wrong: NDArray[np.int64]

    @property
    def n(self) -> NDArray[np.int64]:
        """N."""
        return self.both_right + self.lost + self.gained + self.both_wrong


def paired_table(right: NDArray[Any], reference_right: NDArray[Any]) -> PairedTable:
    """Counts over the last axis of `right` [..., N] against the reference's [N], booleans."""
    right = np.asarray(right, dtype=bool)
    reference = np.asarray(reference_right, dtype=bool)

    def count(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.asarray(rows.sum(axis=-1, dtype=np.int64))

    return PairedTable(
        both_right=count(right & reference),
        lost=count(~right & reference),
        gained=count(right & ~reference),
        both_wrong=count(~right & ~reference),
    )


def paired_difference(lost: ArrayLike, gained: ArrayLike, n: ArrayLike) -> tuple[F64, F64]:
    """Loss and its standard error, sqrt(lost + gained - (lost - gained)^2 / N) / N (Wald).

    Args:
        lost: Rows that only the reference gets right, any shape.
        gained: Rows that only the policy gets right.
        n: N.

    Returns:
        `(loss, se)` as shares of rows.
    """
    lost, gained = np.asarray(lost, dtype=np.float64), np.asarray(gained, dtype=np.float64)
    n = np.asarray(n, dtype=np.float64)
    net = lost - gained
    variance = np.maximum(lost + gained - net**2 / n, 0.0)
    return net / n, np.sqrt(variance) / n


def error_bound(reference_error: ArrayLike, loss: ArrayLike, se: ArrayLike) -> F64:
    """What ranks policies: the full network's error + paired loss + 1.28 standard errors."""
    bound: F64 = (
        np.asarray(reference_error, dtype=np.float64) + np.asarray(loss) + BOUND_Z * np.asarray(se)
    )
    return bound


def wilson_interval(successes: ArrayLike, n: ArrayLike, *, level: float = 0.95) -> tuple[F64, F64]:
    """Score interval of a share (Wilson 1927): good at 0 and 1 and for few rows.

    Args:
        successes: Count, any shape.
        n: Rows.
        level: Two-sided coverage.

    Returns:
        `(low, high)`.
    """
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z = _z(level)
    share, scale = k / n, 1.0 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return np.where(k == 0, 0.0, centre - half), np.where(k == n, 1.0, centre + half)


def paired_interval(table: PairedTable, *, level: float = 0.95) -> tuple[F64, F64]:
    """Interval of the loss (Newcombe 1998, method 10): Wilson limits joined by correlation.

    Unlike the Wald interval it has a width when no row differs, and stays inside [-1, 1].

    Args:
        table: Counts, any shape.
        level: Two-sided coverage.

    Returns:
        `(low, high)` of loss = reference's accuracy - policy's accuracy.
    """
    a, b = table.both_right.astype(np.float64), table.lost.astype(np.float64)
    c, d = table.gained.astype(np.float64), table.both_wrong.astype(np.float64)
    n = a + b + c + d
    reference, policy = (a + b) / n, (a + c) / n
    low1, high1 = wilson_interval(a + b, n, level=level)
    low2, high2 = wilson_interval(a + c, n, level=level)
    phi = _phi(a, b, c, d)

    def joined(first: F64, second: F64) -> F64:
        return np.sqrt(np.maximum(first**2 - 2 * phi * first * second + second**2, 0.0))

    loss = reference - policy
    low = loss - joined(reference - low1, high2 - policy)
    high = loss + joined(high1 - reference, policy - low2)
    return low, high


def majority_class_error(labels: ArrayLike) -> float:
    """Error of always answering the most frequent class. Labels [N], integers from 0."""
    labels = np.asarray(labels)
    return 1.0 - float(np.bincount(labels).max()) / labels.size


def _phi(a: F64, b: F64, c: F64, d: F64) -> F64:
    """Correlation of the two answers, with Newcombe's continuity correction where positive."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    product = a * d - b * c
    corrected = np.where(product > 0, np.maximum(product - (a + b + c + d) / 2, 0.0), product)
    return np.where(margins > 0, corrected / np.sqrt(np.maximum(margins, 1.0)), 0.0)


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)
