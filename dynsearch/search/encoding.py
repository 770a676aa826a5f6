"""Outer settings as Optuna parameters and back.

A choice among numbers, or between two values, becomes an integer index into the sorted values:
samplers then know the order, and multivariate TPE does far better on it than on 0/1 categories.
The readable setting is kept beside the parameters as a user attribute.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from dynsearch.search.types import F64, OuterSpace, Params
from search_spaces.domains import Domain, FloatRange, IntRange
from search_spaces.knobs import as_array


def setting_key(params: Mapping[str, Any]) -> str:
    """Hex sha256 of a normalised setting."""
    text = json.dumps(params, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Knob:
    """One outer knob: its distribution, and its values where the parameter is an index."""

    name: str
    distribution: BaseDistribution
    values: tuple[Any, ...] | None = None  # None: the parameter is the value itself

    def encode(self, value: Any) -> Any:
        """The parameter that stands for a readable value."""
        return value if self.values is None else self.values.index(value)

    def decode(self, parameter: Any) -> Any:
        """The readable value that a parameter stands for."""
        return parameter if self.values is None else self.values[int(parameter)]

    def encode_all(self, values: NDArray[Any]) -> NDArray[Any]:
        """Parameters that stand for readable values [B] of the knob's domain."""
        if self.values is None:
            return values
        return np.asarray((values[:, None] == as_array(list(self.values))).argmax(axis=1))

    def decode_all(self, parameters: NDArray[Any]) -> NDArray[Any]:
        """Readable values that parameters [B] stand for."""
        if self.values is None:
            return parameters
        return as_array(list(self.values))[parameters.astype(np.int64)]


@dataclass(frozen=True, slots=True)
class SpaceCodec:
    """All outer knobs of a space, in its order."""

    space: OuterSpace
    knobs: tuple[Knob, ...]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The fixed search space of the study."""
        return {knob.name: knob.distribution for knob in self.knobs}

    @property
    def settled(self) -> Params:
        """Optuna parameters of the knobs that have a single value; samplers may leave them out."""
        single = [knob for knob in self.knobs if knob.distribution.single()]
        return {knob.name: knob.encode(value) for knob in single for value in _values(knob) or ()}

    def encode(self, setting: Mapping[str, Any]) -> Params:
        """Optuna parameters of a readable setting."""
        return {knob.name: knob.encode(setting[knob.name]) for knob in self.knobs}

    def decode(self, parameters: Mapping[str, Any]) -> Params:
        """The normalised readable setting of Optuna parameters."""
        raw = {knob.name: knob.decode(parameters[knob.name]) for knob in self.knobs}
        return dict(self.space.normalise(raw))

    def canonical(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Optuna parameters [B] by name with knobs that have no effect at their defaults."""
        found = self.space.canonical(self.decode_all(batch))
        return {knob.name: knob.encode_all(found[knob.name]) for knob in self.knobs}

    def decode_all(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Readable values [B] by name of Optuna parameters [B], as they are."""
        return {knob.name: knob.decode_all(batch[knob.name]) for knob in self.knobs}

    def complete(self, parameters: Mapping[str, Any]) -> bool:
        """Whether every knob has a parameter."""
        return all(knob.name in parameters for knob in self.knobs)

    def describe(self) -> dict[str, str]:
        """Distribution and values of every knob, to recognise a study of another space."""
        return {
            knob.name: distribution_to_json(knob.distribution)
            + ("" if knob.values is None else json.dumps(list(knob.values)))
            for knob in self.knobs
        }

    def distance(self, settings: Sequence[Mapping[str, Any]], to: Mapping[str, Any]) -> F64:
        """Distance of settings from one setting, each knob scaled to 0..1 [len(settings)].

        Ordered knobs differ by their scaled distance, unordered ones by 0 or 1; the distances of
        the knobs are added in squares.
        """
        total = np.zeros(len(settings))
        for knob in self.knobs:
            values = [knob.encode(setting[knob.name]) for setting in settings]
            total += _squared_gap(knob.distribution, values, knob.encode(to[knob.name]))
        return np.sqrt(total)

    def grid(self, limit: int) -> list[Params] | None:
        """Every distinct normalised setting, or None when there are more than `limit` to try."""
        axes = [_values(knob) for knob in self.knobs]
        if any(axis is None for axis in axes):
            return None
        known = [axis for axis in axes if axis is not None]
        if math.prod(len(axis) for axis in known) > limit:
            return None
        names = [knob.name for knob in self.knobs]
        found: dict[str, Params] = {}
        for row in itertools.product(*known):
            setting = dict(self.space.normalise(dict(zip(names, row, strict=True))))
            found.setdefault(setting_key(setting), setting)
        return list(found.values())


def make_codec(space: OuterSpace) -> SpaceCodec:
    """The codec of a space's outer knobs."""
    knobs = tuple(_knob(name, domain) for name, domain in space.outer_domains().items())
    return SpaceCodec(space, knobs)


def full_setting(codec: SpaceCodec) -> Params:
    """The normalised setting of the full network."""
    return dict(codec.space.normalise(codec.space.full_params()))


def first_settings(codec: SpaceCodec) -> list[Params]:
    """The full network, then the same in the other number formats of the space.

    What exits bring in a format cannot be told from settings of another one.
    """
    full = full_setting(codec)
    knob = next((knob for knob in codec.knobs if knob.name == "dtype"), None)
    formats = [] if knob is None else _values(knob) or []
    others = [dict(codec.space.normalise({**full, "dtype": d})) for d in formats]
    return [full, *(s for s in others if s != full)]


def _knob(name: str, domain: Domain) -> Knob:
    if isinstance(domain, IntRange):
        return Knob(name, IntDistribution(domain.low, domain.high, step=domain.step))
    if isinstance(domain, FloatRange):
        return Knob(name, FloatDistribution(domain.low, domain.high, log=domain.log))
    values = tuple(domain.values)
    numeric = all(isinstance(v, int | float) for v in values)
    if numeric:
        values = tuple(sorted(values))
    if numeric or len(values) <= 2:
        return Knob(name, IntDistribution(0, len(values) - 1), values)
    if all(v is None or isinstance(v, str) for v in values):
        return Knob(name, CategoricalDistribution(values))
    return Knob(name, CategoricalDistribution(tuple(range(len(values)))), values)


def _values(knob: Knob) -> list[Any] | None:
    dist = knob.distribution
    if isinstance(dist, IntDistribution):
        return [knob.decode(i) for i in range(dist.low, dist.high + 1, dist.step)]
    if isinstance(dist, CategoricalDistribution):
        return [knob.decode(choice) for choice in dist.choices]
    return [dist.low] if dist.single() and isinstance(dist, FloatDistribution) else None


def _squared_gap(dist: BaseDistribution, values: list[Any], to: Any) -> F64:
    if isinstance(dist, CategoricalDistribution):
        return np.array([float(value != to) for value in values])
    if not isinstance(dist, IntDistribution | FloatDistribution) or dist.single():
        return np.zeros(len(values))
    scale = np.log if dist.log else np.asarray
    low, high = scale(float(dist.low)), scale(float(dist.high))
    gap = (scale(np.asarray(values, dtype=np.float64)) - scale(float(to))) / (high - low)
    return np.asarray(gap**2)
