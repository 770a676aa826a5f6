"""How much hypervolume candidates are expected to add, by models of what was evaluated.

Two kinds of study: an evaluation yields a point (one model per objective, two or three exact box
formulas), or a ragged front per device (one model of how far it reaches in each direction).
Hyperparameters are fitted from scratch at milestones of the number of evaluations, on the rows
that were there then; so a search that is resumed fits what an uninterrupted one fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from dynsearch.search import surrogate
from dynsearch.search.history import History
from dynsearch.search.improvement import (
    Belief,
    directions,
    expected_improvement,
    expected_reach,
    reach,
    sector,
)
from dynsearch.search.pareto import non_dominated
from dynsearch.search.types import F64

I64 = NDArray[np.int64]

ROWS = 192  # evaluations that a model is conditioned on
_FIT_ROWS = 128  # evaluations that hyperparameters are fitted to
_NEAR = 0.75  # share of them nearest to the front, the others at random
_GROWTH = 1.08  # from one fit of hyperparameters to the next
_DIRECTIONS = 16  # of a ragged front of two objectives; more of three
_FRONT = 128  # points of a front that count, spread along it
_LUCK = 4.0  # standard deviations
_DECADES = 1e3  # objectives are modelled in the logarithm where they span less around the median


class Acquisition(Protocol):
    """Scores candidates; larger is better."""

    def __call__(self, features: F64, costs: Mapping[str, F64]) -> F64:
        """Expected hypervolume that each candidate adds [B]."""


@dataclass(slots=True)
class Fits:
    """Hyperparameters by model and reaches of fronts, kept from one proposal to the next."""

    seed: int
    first: int  # evaluations at the first fit
    _found: dict[str, tuple[int, F64]] = field(default_factory=dict)
    _reaches: list[F64] = field(default_factory=list)

    def reaches(self, fronts: Sequence[Sequence[F64]], along: F64) -> F64:
        """How far fronts reach in each direction, all devices' [n, J].

        Args:
            fronts: Ragged fronts per evaluation; those of an earlier call come first, unchanged.
            along: Directions, always the same.
        """
        ones = np.ones(along.shape[1])
        for front in fronts[len(self._reaches) :]:
            self._reaches.append(np.concatenate([reach(f, ones, along) for f in front]))
        return np.array(self._reaches)

    def theta(self, name: str, X: F64, Y: F64, badness: Callable[[int], F64]) -> F64:
        """Hyperparameters fitted at the last milestone, on at most `_FIT_ROWS` rows.

        Args:
            name: Of the model.
            X: Inputs [n, F], in the order in which they were evaluated.
            Y: Outputs [n, J].
            badness: How far behind the front of the first k rows these are [k].
        """
        then = milestone(self.first, X.shape[0])
        found = self._found.get(name)
        if found is None or found[0] != then:
            rng = np.random.default_rng([self.seed, then])
            rows = active_rows(badness(then), _FIT_ROWS, rng)
            found = then, surrogate.fit(X[rows], Y[rows])
            self._found[name] = found
        return found[1]


def milestone(first: int, n: int) -> int:
    """The largest number of evaluations up to `n` at which hyperparameters are fitted."""
    at = first
    while (following := max(at + 1, int(at * _GROWTH))) <= n:
        at = following
    return min(at, n)


def active_rows(badness: F64, limit: int, rng: np.random.Generator) -> I64:
    """Rows to model with, ascending: those nearest to the front, the rest at random."""
    if badness.size <= limit:
        return np.arange(badness.size)
    order = np.argsort(badness, kind="stable")
    near = int(limit * _NEAR)
    others = rng.choice(order[near:], limit - near, replace=False)
    return np.sort(np.concatenate([order[:near], others]))


@dataclass(frozen=True, slots=True)
class Conditioned:
    """A model of some outputs, of their logarithm where `log` [J]."""

    gp: surrogate.GaussianProcess
    log: bool

    def belief(self, features: F64) -> Belief:
        """What it says of candidates; for a single output."""
        mean, sd = self.gp.predict(features)
        return Belief(mean[:, 0], sd[:, 0], self.log)


@dataclass(slots=True, kw_only=True)
class PointAcquisition:
    """Expected hypervolume improvement of points, times the chance to keep modelled limits."""

    models: Mapping[int, Conditioned]  # by objective; those that a cost answers are absent
    limits: tuple[Conditioned, ...]  # of constraints that no free check answers
    known: Mapping[int, str]  # objectives that a cost answers
    front: F64  # [K, M]
    reference: F64  # [M]

    def __call__(self, features: F64, costs: Mapping[str, F64]) -> F64:
        """Expected hypervolume that each candidate adds [B]."""
        beliefs = []
        for m in range(self.reference.size):
            if m in self.known:
                exact = costs[self.known[m]]
                beliefs.append(Belief(exact, np.zeros(exact.size)))
            else:
                beliefs.append(self.models[m].belief(features))
        hopeful = np.flatnonzero(self._hopeful(beliefs))
        gain = np.zeros(features.shape[0])
        gain[hopeful] = expected_improvement(
            [belief.take(hopeful) for belief in beliefs], self.front, self.reference
        )
        for model in self.limits:
            mean, sd = model.gp.predict(features)
            gain = gain * ndtr(-mean[:, 0] / np.maximum(sd[:, 0], 1e-12))
        return gain

    def _hopeful(self, beliefs: list[Belief]) -> NDArray[np.bool_]:
        """Candidates that improve on the front if all goes very well [B]; others are not worth it.

        With every objective `_LUCK` standard deviations better than expected.
        """
        lucky = np.stack([belief.quantile(-_LUCK) for belief in beliefs], axis=1)
        beaten = np.zeros(lucky.shape[0], dtype=bool)
        for point in self.front:
            beaten |= (point <= lucky).all(axis=1)
        return ~beaten & (lucky < self.reference).all(axis=1)


@dataclass(slots=True, kw_only=True)
class FrontAcquisition:
    """Expected hypervolume improvement of ragged fronts, mean over devices."""

    gp: surrogate.GaussianProcess
    best: F64  # [J] how far all fronts together reach, all devices' directions
    objectives: int
    share: float  # of a direction in the volume

    def __call__(self, features: F64, costs: Mapping[str, F64]) -> F64:
        """Expected hypervolume that each candidate adds [B]."""
        mean, sd = self.gp.predict(features)
        added = expected_reach(mean, sd, self.best, self.objectives)
        return np.asarray(self.share * added.sum(axis=1))


def point_acquisition(
    history: History,
    pending: F64 | None,
    pending_costs: Mapping[str, F64],
    *,
    reference: F64,
    known: Mapping[int, str],
    fits: Fits,
) -> PointAcquisition:
    """Models of points; pending candidates count as if they had yielded the expected values.

    Args:
        history: What was evaluated.
        pending: Features of rows under way [P, F]; None: there are none.
        pending_costs: Their free quantities [P] by name.
        reference: Reference point [M].
        known: Objectives that a cost answers: their number -> name.
        fits: Where hyperparameters are kept.
    """

    def badness(first: int) -> F64:
        return distance_behind(history.values[:first], history.feasible[:first])

    front = front_of(history)
    rng = np.random.default_rng([fits.seed, 0])
    rows = active_rows(badness(history.rows.shape[0]), ROWS, rng)
    num = 0 if pending is None else pending.shape[0]
    models, expected = {}, np.empty((num, reference.size))
    for m in range(reference.size):
        if m in known:
            expected[:, m] = pending_costs[known[m]] if num else 0.0
            continue
        y = history.values[:, m]
        log = in_logarithm(y)
        y = np.log(y) if log else y
        theta = fits.theta(f"objective {m}", history.features, y[:, None], badness)
        models[m], believed = _believe(history.features[rows], y[rows], pending, theta, log)
        expected[:, m] = np.exp(believed) if log else believed
    limits = []
    for c in range(history.constraints.shape[1]):
        y = history.constraints[:, c]
        theta = fits.theta(f"constraint {c}", history.features, y[:, None], badness)
        limits.append(_believe(history.features[rows], y[rows], pending, theta, False)[0])
    points = np.concatenate([front, expected])
    return PointAcquisition(
        models=models,
        limits=tuple(limits),
        known=known,
        front=_spread(points[non_dominated(points)], reference),
        reference=reference,
    )


def _believe(
    X: F64, y: F64, pending: F64 | None, theta: F64, log: bool
) -> tuple[Conditioned, F64]:
    """A model of one output that takes pending rows at their expected values [P]."""
    gp = surrogate.condition(X, y[:, None], theta)
    if pending is None:
        return Conditioned(gp, log), np.empty(0)
    expected = gp.predict(pending)[0][:, 0]
    more = np.concatenate([X, pending]), np.append(y, expected)[:, None]
    return Conditioned(surrogate.condition(*more, theta), log), expected


def front_acquisition(history: History, pending: F64 | None, *, fits: Fits) -> FrontAcquisition:
    """A model of ragged fronts, whose axes are scaled so that the reference point is 1.

    Args:
        history: What was evaluated.
        pending: Features of rows under way [P, F]; None: there are none.
        fits: Where hyperparameters are kept.
    """
    objectives, num, reaches = _reaches(history, fits)

    def badness(first: int) -> F64:
        known = reaches[:first]
        return np.asarray((known.max(axis=0) - known).min(axis=1))

    best = reaches.max(axis=0)
    rng = np.random.default_rng([fits.seed, 0])
    rows = active_rows(badness(reaches.shape[0]), ROWS, rng)
    theta = fits.theta("fronts", history.features, reaches, badness)
    X, Y = history.features[rows], reaches[rows]
    gp = surrogate.condition(X, Y, theta)
    if pending is not None:
        expected = gp.predict(pending)[0]
        best = np.maximum(best, expected.max(axis=0))
        gp = surrogate.condition(
            np.concatenate([X, pending]), np.concatenate([Y, expected]), theta
        )
    devices = len(history.fronts[0])
    share = sector(objectives, num) / devices
    return FrontAcquisition(gp=gp, best=best, objectives=objectives, share=share)


def widest(history: History, fits: Fits) -> F64:
    """The row [G] whose fronts alone have the largest hypervolume, mean over devices."""
    objectives, _, reaches = _reaches(history, fits)
    return np.asarray(history.rows[int(np.argmax((reaches**objectives).sum(axis=1)))])


def _reaches(history: History, fits: Fits) -> tuple[int, int, F64]:
    """Objectives, directions, and how far every front reaches in each of them [n, J]."""
    objectives = history.fronts[0][0].shape[1]
    num = _DIRECTIONS if objectives == 2 else 4 * _DIRECTIONS
    return objectives, num, fits.reaches(history.fronts, directions(objectives, num))


def front_of(history: History) -> F64:
    """Non-dominated feasible points [K, M]."""
    values = history.values[history.feasible]
    return values[non_dominated(values)]


def distance_behind(values: F64, feasible: NDArray[np.bool_]) -> F64:
    """How far points [n, M] are behind their own front [n], in units of its gap to the median."""
    front = values[feasible]
    front = front[non_dominated(front)]
    if front.shape[0] == 0:
        return np.zeros(values.shape[0])
    span = np.median(values, axis=0) - front.min(axis=0)
    scale = np.where(span > 0.0, span, 1.0)
    gaps = (values[:, None] - front[None]) / scale
    return np.asarray(gaps.max(axis=2).min(axis=1))


def in_logarithm(y: F64) -> bool:
    """Whether an objective is modelled in the logarithm: positive, within some decades."""
    return bool(y.min() > 0.0 and y.min() * _DECADES > np.median(y))


def _spread(front: F64, reference: F64) -> F64:
    """At most `_FRONT` points below the reference point, evenly along the first objective."""
    inside = front[(front < reference).all(axis=1)]
    if inside.shape[0] <= _FRONT:
        return inside
    places = np.linspace(0, inside.shape[0] - 1, _FRONT).round().astype(np.int64)
    return inside[np.argsort(inside[:, 0], kind="stable")[places]]
