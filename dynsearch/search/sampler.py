"""Which outer setting to try next: our own sampler, or one of Optuna's, behind a free check.

A forward pass costs seconds, a look at the cost bound microseconds. So a proposal that was tried
before, or that provably breaks a budget everywhere, is drawn again inside the same `ask` and never
becomes a trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from dynsearch.search.cost_aware import CostAwareSampler
from dynsearch.search.encoding import SpaceCodec, setting_key
from dynsearch.search.free import FreeChecks
from dynsearch.search.history import ReadFronts
from dynsearch.search.screened_gp import STARTUP, ScreenedGPSampler
from dynsearch.search.types import Deepest, Params
from search_spaces.errors import InputError

OWN = "dynsearch"  # the project's own, see `cost_aware`
SAMPLERS: tuple[str, ...] = (OWN, "tpe", "nsga2", "random", "gp")
REDRAWS = 100  # proposals of the sampler inside one ask
REPEATS = 5  # proposals that were refused before in the same ask, before it is asked no more
POOL = 4096  # random settings that stand in when none of them is free
GRID_LIMIT = 4096  # spaces of at most so many settings are enumerated, not drawn
_POPULATION = 20

Screen = Callable[[list[Any]], NDArray[np.bool_]]  # of what a space decodes to; True = hopeless


@dataclass(slots=True)
class Gate:
    """The free check: which settings may become trials, and how many were turned away.

    A setting is known when it was tried, or another one was that differs from it only in layers
    that no policy within the budgets reaches.
    """

    codec: SpaceCodec
    screen: Screen | None = None
    deepest: Deepest | None = None
    rejected: Counter[str] = field(default_factory=Counter)
    _known: set[str] = field(default_factory=set)  # what tells settings apart, of all trials
    _told_apart_by: dict[str, str] = field(default_factory=dict)
    _screened: dict[str, bool] = field(default_factory=dict)
    _grid: list[Params] | None = None
    _grid_made: bool = False

    def refuse(self, setting: Params) -> str | None:
        """Why a normalised setting may not be tried ("known" or "budget"), None if it may."""
        if self._identities([setting])[0] in self._known:
            return "known"
        return "budget" if self._breaks_budget([setting])[0] else None

    def add(self, settings: Sequence[Params]) -> None:
        """From now on these normalised settings are known."""
        self._known |= set(self._identities(settings))

    def free(self, settings: Sequence[Params]) -> list[Params]:
        """Those of the normalised settings that may be tried."""
        identities = self._identities(settings)
        unknown = [s for s, i in zip(settings, identities, strict=True) if i not in self._known]
        broken = self._breaks_budget(unknown)
        return [s for s, bad in zip(unknown, broken, strict=True) if not bad]

    def allows(self, params: Sequence[Params]) -> list[bool]:
        """Which of some Optuna parameters may be tried; knobs of one value may be absent."""
        settled = self.codec.settled
        settings = [self.codec.decode({**settled, **p}) for p in params]
        free = {setting_key(s) for s in self.free(settings)}
        return [setting_key(s) in free for s in settings]

    def reserve(self, rng: np.random.Generator) -> Params | None:
        """One setting that may be tried; None when the space is exhausted.

        A space of at most `GRID_LIMIT` settings is searched to the last one; a larger one counts
        as exhausted when `POOL` random draws hold no free setting.
        """
        grid = self._enumerate()
        if grid is not None:
            free = self.free(grid)
            return free[int(rng.integers(len(free)))] if free else None
        drawn, size = 0, 4  # most often one of the first is free
        while drawn < POOL:
            free = self.free(self._draw(rng, size))
            if free:
                return free[0]
            drawn, size = drawn + size, min(2 * size, 64)
        return None

    def nearest(self, wish: Params, reserve: Params, rng: np.random.Generator) -> Params:
        """The free setting nearest to `wish` among random draws, the whole grid, or `reserve`."""
        grid = self._enumerate()
        pool = [*self.free(self._draw(rng, POOL) if grid is None else grid), reserve]
        return pool[int(np.argmin(self.codec.distance(pool, wish)))]

    def _draw(self, rng: np.random.Generator, n: int) -> list[Params]:
        space = self.codec.space
        return [dict(space.normalise(p)) for p in space.sample_outer(rng, n)]

    def _enumerate(self) -> list[Params] | None:
        if not self._grid_made:
            self._grid, self._grid_made = self.codec.grid(GRID_LIMIT), True
        return self._grid

    def _identities(self, settings: Sequence[Params]) -> list[str]:
        """What tells normalised settings apart: all that the layers say that can be reached."""
        keys = [setting_key(s) for s in settings]
        if self.deepest is None:
            return keys
        new = {k: s for k, s in zip(keys, settings, strict=True) if k not in self._told_apart_by}
        if new:
            space = self.codec.space
            depths = self.deepest([space.decode(s) for s in new.values()])
            for (key, setting), depth in zip(new.items(), depths.tolist(), strict=True):
                self._told_apart_by[key] = f"{setting_key(space.cut(setting, depth))}-{depth}"
        return [self._told_apart_by[k] for k in keys]

    def _breaks_budget(self, settings: Sequence[Params]) -> list[bool]:
        if self.screen is None:
            return [False] * len(settings)
        keys = [setting_key(s) for s in settings]
        new = {k: s for k, s in zip(keys, settings, strict=True) if k not in self._screened}
        if new:
            broken = self.screen([self.codec.space.decode(s) for s in new.values()])
            self._screened |= dict(zip(new, (bool(b) for b in broken), strict=True))
        return [self._screened[k] for k in keys]


def make_sampler(kind: str, seed: int, gate: Gate) -> BaseSampler:
    """Our own sampler, or one of Optuna's with settings that suit a few hundred trials.

    Optuna's are made anew for every ask: all of them read their state from the study.

    Args:
        kind: One of `SAMPLERS`.
        seed: Of its random numbers.
        gate: What may be tried, for those that look among it alone.

    Raises:
        InputError: when `kind` is not one of `SAMPLERS`.
    """
    if kind not in SAMPLERS:
        text = f"is no sampler; choose one of {', '.join(SAMPLERS)}"
        raise InputError.one("arguments", "sampler", kind, text)
    if kind == OWN:
        return CostAwareSampler(seed=seed)
    if kind == "random":
        return RandomSampler(seed=seed)
    if kind == "nsga2":
        return NSGAIISampler(population_size=_POPULATION, seed=seed)
    if kind == "tpe":
        return TPESampler(multivariate=True, seed=seed)
    return ScreenedGPSampler(seed=seed, allowed=gate.allows)


class FreeCheckSampler(BaseSampler):
    """A sampler whose proposals pass the gate, made for one ask.

    Args:
        inner: Any Optuna sampler.
        gate: What may be tried.
        reserve: A setting that the gate lets through, so that the ask cannot fail.
        rng: For the draws that stand in.
        redraws: Proposals asked of `inner` at most; 1 where each costs seconds.
    """

    def __init__(
        self,
        inner: BaseSampler,
        gate: Gate,
        reserve: Params,
        rng: np.random.Generator,
        redraws: int = REDRAWS,
    ) -> None:
        self._inner = inner
        self._gate = gate
        self._reserve = reserve
        self._rng = rng
        self._redraws = redraws

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Always the whole fixed space, so that a setting is proposed and checked at once."""
        return self._gate.codec.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """Parameters of a setting that the gate lets through."""
        codec = self._gate.codec
        wish: Params = {}
        refused: set[str] = set()
        repeats = 0
        for _ in range(self._redraws):
            wish = codec.decode(self._propose(study, trial, search_space))
            reason = self._gate.refuse(wish)
            if reason is None:
                return codec.encode(wish)
            self._gate.rejected[reason] += 1
            repeats += setting_key(wish) in refused
            if repeats > REPEATS:
                break  # the sampler has made up its mind; each proposal of TPE costs milliseconds
            refused.add(setting_key(wish))
        return codec.encode(self._gate.nearest(wish, self._reserve, self._rng))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """One parameter on its own; only for parameters outside the fixed space."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """As the inner sampler."""
        self._inner.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As the inner sampler."""
        self._inner.after_trial(study, trial, state, values)

    def _propose(
        self, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]
    ) -> Params:
        relative = self._inner.infer_relative_search_space(study, trial)
        proposal = dict(self._inner.sample_relative(study, trial, relative))
        for name, distribution in space.items():
            if name not in proposal:
                proposal[name] = self._inner.sample_independent(study, trial, name, distribution)
        return proposal


def own_sampler(gate: Gate, seed: int, read_fronts: ReadFronts) -> CostAwareSampler:
    """Our sampler of outer settings; it may be kept from ask to ask.

    Args:
        gate: What may be tried.
        seed: Of the run.
        read_fronts: Reads the fronts of a finished pass, see `CostAwareSampler`.
    """
    codec = gate.codec

    def accept(params: Params) -> Params | None:
        setting = codec.decode(params)
        reason = gate.refuse(setting)
        if reason is not None:
            gate.rejected[reason] += 1
            return None
        return codec.encode(setting)

    return CostAwareSampler(
        seed=seed,
        space=codec.distributions,
        checks=FreeChecks(canonical=codec.canonical),
        read_fronts=read_fronts,
        accept=accept,
    )


def ask_sampler(
    kind: str,
    gate: Gate,
    reserve: Params,
    seed: Sequence[int],
    own: CostAwareSampler | None = None,
) -> FreeCheckSampler:
    """The sampler for one ask. Equal seeds on equal studies give equal proposals.

    Args:
        kind: One of `SAMPLERS`.
        gate: What may be tried.
        reserve: A setting that may be, from `Gate.reserve`.
        seed: Non-negative integers: the run's seed, finished trials, trials under way.
        own: Our sampler from the ask before, where `kind` is `OWN`.
    """
    rng = np.random.default_rng([*seed, 1])
    inner = own or make_sampler(kind, int(rng.integers(2**31)), gate)
    models = kind == OWN or (kind == "gp" and seed[1] >= STARTUP)
    return FreeCheckSampler(inner, gate, reserve, rng, 1 if models else REDRAWS)
