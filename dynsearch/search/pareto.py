"""Which points are worth keeping, and how much of the objective space they cover.

Everything is minimised. Dominance and hypervolume are moocore's; a point that equals an earlier
one counts as dominated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


def non_dominated(points: ArrayLike) -> Bool:
    """Points that no other point beats [K]; of equal points the first.

    Args:
        points: [K, M], minimised, no NaN.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.shape[0] == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(points), dtype=bool)


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Share of the box between 0 and `reference` that the points dominate, 0..1.

    Args:
        points: [K, M], minimised, not negative.
        reference: [M], above 0; every axis is divided by it. Points beyond it add nothing.
    """
    reference = np.asarray(reference, dtype=np.float64)
    scaled = np.asarray(points, dtype=np.float64).reshape(-1, reference.size) / reference
    inside = scaled[(scaled < 1.0).all(axis=1)]
    if inside.shape[0] == 0:
        return 0.0
    return float(moocore.hypervolume(inside, ref=np.ones(reference.size)))


def mean_hypervolume(
    fronts: Mapping[str, ArrayLike], references: Mapping[str, Sequence[float]]
) -> float:
    """Mean over devices of `hypervolume`. `fronts` [K, M] and `references` [M] by device."""
    return sum(hypervolume(fronts[name], references[name]) for name in fronts) / len(fronts)


def thin_front(points: ArrayLike, limit: int) -> I64:
    """Rows of at most `limit` points of a front of two objectives, by ascending second one.

    Again and again the point goes whose removal loses the least hypervolume (closed form in two
    dimensions, axes scaled to the front's own range); the two ends always stay.

    Args:
        points: Non-dominated [K, 2].
        limit: At least 2.
    """
    points = np.asarray(points, dtype=np.float64)
    order = np.argsort(points[:, 1], kind="stable")
    if order.size <= limit:
        return order
    span = np.ptp(points, axis=0)
    y, x = ((points[order] - points.min(axis=0)) / np.where(span > 0, span, 1.0)).T
    before, after = np.arange(-1, order.size - 1), np.arange(1, order.size + 1)  # neighbours
    lost = np.full(order.size, np.inf)
    lost[1:-1] = (x[2:] - x[1:-1]) * (y[:-2] - y[1:-1])
    gone = np.zeros(order.size, dtype=bool)
    for _ in range(order.size - limit):
        i = int(lost.argmin())
        gone[i], lost[i] = True, np.inf
        left, right = before[i], after[i]
        after[left], before[right] = right, left
        for j in (left, right):
            if 0 < j < order.size - 1:
                lost[j] = (x[after[j]] - x[j]) * (y[before[j]] - y[j])
    thinned: I64 = order[~gone]
    return thinned
