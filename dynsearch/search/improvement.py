"""Expected hypervolume improvement in closed form; everything is minimised.

The hypervolume that a random point Y adds is the integral, over the region R that no known point
dominates and that lies below the reference point, of the chance that Y dominates z. With
independent coordinates and R cut into boxes, it is a sum of products (for two objectives the
formula of Emmerich, Deutz & Klinkenberg 2011; boxes as in Yang et al. 2019):

    EHVI = sum over boxes of prod over m of [G_m(upper_m) - G_m(lower_m)],  G(t) = E[max(0, t - Y)]

A *ragged* evaluation yields a front instead of a point. Its hypervolume is then taken in polar
coordinates around the reference point r: with rho(u) = max over points y of
min over m of (r_m - y_m) / u_m, the volume is the integral of rho^M / M over directions u
(Zhang & Golovin 2020, hypervolume scalarisation), and what a Gaussian rho adds per direction has
a closed form as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from dynsearch.search.types import F64

Box = tuple[tuple[float, float], ...]  # (lower, upper) of each coordinate


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of one objective of B candidates."""

    mean: F64  # [B], of the logarithm where `log`
    sd: F64  # [B], 0 where the value is known
    log: bool = False

    def take(self, rows: NDArray[np.int64]) -> Belief:
        """The beliefs of some candidates."""
        return Belief(self.mean[rows], self.sd[rows], self.log)

    def quantile(self, deviations: float) -> F64:
        """The value so many standard deviations above the mean [B]."""
        at = self.mean + deviations * self.sd
        return np.exp(at) if self.log else at

    def shortfall(self, levels: F64) -> F64:
        """E[max(0, level - Y)] [B, T]; levels [T] may be infinite below.

        Normal Y: (t - mu) Phi(d) + sd phi(d). Log-normal Y: t Phi(d) - E[Y] Phi(d - sd), with
        d the standardised level, as for the price of a put option.
        """
        mean, sd = self.mean[:, None], np.maximum(self.sd, 1e-12)[:, None]
        reached = np.isfinite(levels) & ((levels > 0.0) | (not self.log))
        t = np.where(reached, levels, 1.0)
        d = ((np.log(t) if self.log else t) - mean) / sd
        if self.log:
            gain = t * ndtr(d) - np.exp(mean + 0.5 * sd * sd) * ndtr(d - sd)
        else:
            gain = (t - mean) * ndtr(d) + sd * np.exp(-0.5 * d * d) / math.sqrt(2.0 * math.pi)
        return np.where(reached, np.maximum(gain, 0.0), 0.0)


def free_boxes(front: F64, reference: F64) -> list[Box]:
    """Disjoint boxes that fill the region below `reference` that no point dominates.

    Args:
        front: Points [K, M] below the reference point in every coordinate.
        reference: [M].
    """
    order = np.argsort(front[:, -1], kind="stable")
    return _boxes(front[order], reference)


def _boxes(points: F64, reference: F64) -> list[Box]:
    """Boxes of points sorted by the last coordinate; slabs with equal boxes are merged."""
    top = float(reference[-1])
    if reference.size == 1:
        return [((-math.inf, min([top, *points[:, 0].tolist()])),)]
    done: list[Box] = []
    open_since: dict[Box, float] = {}
    levels = [-math.inf, *points[:, -1].tolist()]
    for k, level in enumerate(levels):
        known = points[:k, :-1]
        inner = set(_boxes(known[np.argsort(known[:, -1], kind="stable")], reference[:-1]))
        for box in [box for box in open_since if box not in inner]:
            done.append((*box, (open_since.pop(box), level)))
        open_since |= {box: level for box in inner if box not in open_since}
    done += [(*box, (since, top)) for box, since in open_since.items()]
    return [box for box in done if all(low < high for low, high in box)]


def expected_improvement(
    beliefs: Sequence[Belief], front: F64, reference: F64, chunk: int = 1 << 22
) -> F64:
    """Expected hypervolume that each candidate adds to a front [B].

    Args:
        beliefs: One per objective, each of B candidates, taken as independent.
        front: Non-dominated points [K, M]; those beyond the reference point do not count.
        reference: [M].
        chunk: Candidates times boxes that are handled at once.
    """
    boxes = np.array(free_boxes(front[(front < reference).all(axis=1)], reference))  # [R, M, 2]
    axes = [np.unique(boxes[:, m], return_inverse=True) for m in range(reference.size)]
    rows = max(1, chunk // boxes.shape[0])
    total = np.empty(beliefs[0].mean.size)
    for start in range(0, total.size, rows):
        part = np.arange(start, min(start + rows, total.size))
        volume = np.ones((part.size, boxes.shape[0]))
        for belief, (levels, places) in zip(beliefs, axes, strict=True):
            gain = belief.take(part).shortfall(levels)
            ends = places.reshape(-1, 2)
            volume *= gain[:, ends[:, 1]] - gain[:, ends[:, 0]]
        total[part] = volume.sum(axis=1)
    return total


def directions(objectives: int, num: int) -> F64:
    """Unit vectors [num, M] spread evenly over the positive orthant."""
    if objectives == 2:
        angles = (np.arange(num) + 0.5) * (math.pi / 2.0 / num)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    spread = qmc.Halton(objectives, scramble=False).random(num + 1)[1:]
    half = np.abs(ndtri(0.5 + 0.5 * spread))
    return np.asarray(half / np.linalg.norm(half, axis=1, keepdims=True))


def reach(points: F64, reference: F64, along: F64) -> F64:
    """rho: how far from the reference point a front dominates in each direction [J], 0 or more.

    Args:
        points: [K, M], K may be 0.
        reference: [M].
        along: Directions [J, M].
    """
    gaps = (reference - points)[:, None, :] / along  # [K, J, M]
    best = gaps.min(axis=2).max(axis=0, initial=0.0)
    return np.asarray(best)


def sector(objectives: int, num: int) -> float:
    """The share of a direction: volume = sector * sum of rho^M."""
    sphere = 2.0 * math.pi ** (objectives / 2.0) / math.gamma(objectives / 2.0)
    return float(sphere / 2.0**objectives / num / objectives)


def expected_reach(mean: F64, sd: F64, best: F64, power: int) -> F64:
    """E[max(0, S^power - best^power)] of normal S, elementwise; `best` is not negative.

    Moments above a bound: I_0 = Phi(z), I_1 = mu I_0 + sd phi(z),
    I_k = mu I_(k-1) + (k - 1) sd^2 I_(k-2) + best^(k-1) sd phi(z), z = (mu - best) / sd.
    """
    sd = np.maximum(sd, 1e-12)
    z = (mean - best) / sd
    density = sd * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    moments = [ndtr(z), mean * ndtr(z) + density]
    for k in range(2, power + 1):
        step = mean * moments[k - 1] + (k - 1) * sd * sd * moments[k - 2]
        moments.append(step + best ** (k - 1) * density)
    return np.asarray(np.maximum(moments[power] - best**power * moments[0], 0.0))
