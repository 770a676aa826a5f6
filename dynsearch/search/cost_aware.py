"""The project's own sampler: the next setting is the one expected to add most hypervolume.

For any Optuna study of one to a few objectives. Where evaluations yield fronts, ordered knobs of
which only the ends were tried are tried half-way before models choose. Thousands of candidates are
proposed as arrays (drawn, changed and crossed from the front, then climbing from the best), what
is known, pending or breaks a budget is dropped at no cost, and Gaussian processes say what the
rest may add. Free quantities of candidates are inputs of the models, too: a worst case says much
about a mean. Nothing is kept but caches: everything is rebuilt from the study's trials, and random
numbers come from the seed and the number of finished and pending trials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from dynsearch.search.acquisition import (
    Acquisition,
    Fits,
    front_acquisition,
    front_of,
    point_acquisition,
    widest,
)
from dynsearch.search.columns import make_columns
from dynsearch.search.free import FreeChecks
from dynsearch.search.history import History, Reader, ReadFronts
from dynsearch.search.proposals import Proposer
from dynsearch.search.types import F64, Params

STARTUP = 10  # evaluations before the first model
FRONT_STARTUP = 3  # the same where each yields a front, which says more than a point

Accept = Callable[[Params], Params | None]


class CostAwareSampler(BaseSampler):
    """Proposes by expected hypervolume improvement among candidates that free checks let through.

    Args:
        seed: None: a random one.
        space: The fixed search space; None: parameters that all trials have in common.
        checks: What is known of candidates at no cost.
        free_constraints: Names of trial constraints that `checks` answers; others are modelled.
        reference: Reference point in the study's own directions; None: beyond the worst front
            point by a tenth of the front's span.
        read_fronts: Reads the ragged front that a trial yielded, [K, M] per device, scaled so
            that the reference point is 1; None where trials yield points.
        accept: Has the last word on proposals, best first: the parameters to use, or None.
        startup: Evaluations before the first model; at most `FRONT_STARTUP` where they yield
            fronts.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        space: Mapping[str, BaseDistribution] | None = None,
        checks: FreeChecks | None = None,
        free_constraints: Sequence[str] = (),
        reference: Sequence[float] | None = None,
        read_fronts: ReadFronts | None = None,
        accept: Accept | None = None,
        startup: int = STARTUP,
    ) -> None:
        self._seed = _random_seed() if seed is None else seed
        self._space = space
        self._common = IntersectionSearchSpace()
        self._checks = checks or FreeChecks()
        self._free_constraints = frozenset(free_constraints)
        self._reference = reference
        self._read_fronts = read_fronts
        self._accept = accept
        self._startup = startup
        self._independent = RandomSampler(seed=seed)
        self._caches: _Caches | None = None

    def reseed_rng(self) -> None:
        """Take a random seed: copies of this sampler in other processes must differ."""
        self._seed = _random_seed()
        self._independent.reseed_rng()
        self._caches = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The fixed space, or what all trials have in common."""
        if self._space is not None:
            return dict(self._space)
        common = self._common.calculate(study)
        return {name: dist for name, dist in common.items() if not dist.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """Parameters of the best proposal; random ones where nothing new is left."""
        if not search_space:
            return {}
        found = self.propose(study, search_space)
        if found is not None:
            return found
        columns = make_columns(search_space)
        rng = np.random.default_rng([self._seed, len(study.get_trials(deepcopy=False))])
        return columns.params(self._checks.draw(columns, rng, 1)[0])

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """One parameter at random: where trials have nothing in common yet."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def propose(self, study: Study, space: Mapping[str, BaseDistribution]) -> Params | None:
        """The next parameters to try; None when nothing is left that may be tried.

        Raises:
            InputError: when nothing in the space keeps the budgets.
        """
        caches = self._caches
        if caches is None or dict(caches.proposer.columns.distributions) != dict(space):
            caches = self._caches = self._make_caches(space)
        history = caches.reader.read(study)
        state = (study._study_id, history.finished, len(history.known), len(history.pending))
        if caches.state != state:
            caches.state, caches.answer = state, self._choose(caches, history, study)
        return caches.answer

    def _make_caches(self, space: Mapping[str, BaseDistribution]) -> _Caches:
        proposer = Proposer(make_columns(space), self._checks, self._seed)
        reader = Reader(
            columns=proposer.columns,
            checks=self._checks,
            describe=proposer.describe,
            free_constraints=self._free_constraints,
            read_fronts=self._read_fronts,
        )
        return _Caches(proposer, reader, Fits(seed=self._seed, first=self._startup))

    def _choose(self, caches: _Caches, history: History, study: Study) -> Params | None:
        rng = np.random.default_rng([self._seed, history.finished, len(history.pending)])
        proposer = caches.proposer
        startup = min(self._startup, FRONT_STARTUP) if history.fronts else self._startup
        if history.rows.shape[0] < startup:
            return self._accepted(proposer, proposer.first(history, rng))
        if history.fronts:
            base = widest(history, caches.fits)
            halfway = self._accepted(proposer, proposer.halfway(history, base))
            if halfway is not None:
                return halfway
        score = self._acquisition(caches, history, study)
        return self._accepted(proposer, proposer.ranked(history, score, rng))

    def _accepted(self, proposer: Proposer, offers: F64) -> Params | None:
        """Parameters of the first of some rows that is accepted."""
        for row in offers:
            params = proposer.columns.params(row)
            accepted = params if self._accept is None else self._accept(params)
            if accepted is not None:
                return accepted
        return None

    def _acquisition(self, caches: _Caches, history: History, study: Study) -> Acquisition:
        proposer = caches.proposer
        costs = self._checks.costs(proposer.columns, history.pending)
        pending = proposer.describe(history.pending, costs) if len(history.pending) else None
        if history.fronts:
            return front_acquisition(history, pending, fits=caches.fits)
        return point_acquisition(
            history,
            pending,
            costs,
            reference=self._reference_of(history, study),
            known=self._checks.objectives,
            fits=caches.fits,
        )

    def _reference_of(self, history: History, study: Study) -> F64:
        """Reference point [M] with all objectives minimised."""
        if self._reference is not None:
            flip = [-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
            return np.asarray(self._reference, dtype=np.float64) * flip
        front = front_of(history)
        points = front if front.shape[0] else history.values
        span = np.ptp(points, axis=0)
        return np.asarray(points.max(axis=0) + 0.1 * np.where(span > 0.0, span, 1.0))


class _Caches:
    """What a sampler keeps between proposals in one space, and could make again."""

    def __init__(self, proposer: Proposer, reader: Reader, fits: Fits) -> None:
        self.proposer = proposer
        self.reader = reader
        self.fits = fits
        self.state: tuple[int, ...] = ()
        self.answer: Params | None = None


def _random_seed() -> int:
    return int(np.random.default_rng().integers(2**31))
