"""A search space of any named knobs, for the library call.

A knob that has no effect at some settings of others (a threshold whose exit is off) is given a
rule in `active`; where the rule says no, the knob is set to a value in the middle of its domain,
so that equal things have equal settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.domains import Choice, Domain, FloatRange, IntRange
from search_spaces.errors import InputError, Problem

Knobs = dict[str, NDArray[Any]]  # values by knob, each [B]
ActiveRule = Callable[[Knobs], NDArray[np.bool_]]  # where a knob has an effect [B]


class KnobSpace:
    """Named knobs and the rules that say where they have an effect.

    Args:
        knobs: Domain by name, in order.
        active: Rule by name; applied in the order of `knobs`, on values already canonical.

    Raises:
        InputError: lists every knob without a domain and every rule without a knob.
    """

    def __init__(
        self, knobs: Mapping[str, Domain], active: Mapping[str, ActiveRule] | None = None
    ) -> None:
        self.knobs = dict(knobs)
        self.active = dict(active or {})
        kinds = Choice | IntRange | FloatRange
        problems = [
            Problem("space", name, str(d), "is no Choice, IntRange or FloatRange")
            for name, d in self.knobs.items()
            if not isinstance(d, kinds)
        ]
        problems += [
            Problem("space", f"active.{name}", "", "names no knob of the space")
            for name in self.active
            if name not in self.knobs
        ]
        if not self.knobs:
            problems.append(Problem("space", "", "", "has no knob"))
        if problems:
            raise InputError(problems)

    def outer_domains(self) -> dict[str, Domain]:
        """Domain by name."""
        return self.knobs

    def canonical(self, values: Mapping[str, NDArray[Any]]) -> Knobs:
        """Values [B] by name with inactive knobs at the middle of their domains."""
        found = dict(values)
        for name in self.knobs:
            if name in self.active:
                rule = np.asarray(self.active[name](found), dtype=bool)
                found[name] = np.where(rule, found[name], middle(self.knobs[name]))
        return found

    def normalise(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """One setting with inactive knobs at the middle of their domains."""
        if not self.active:
            return {name: params[name] for name in self.knobs}
        row = {name: as_array([params[name]]) for name in self.knobs}
        return {name: _plain(values[0]) for name, values in self.canonical(row).items()}

    def full_params(self) -> dict[str, Any]:
        """The setting with every knob at the middle of its domain."""
        return self.normalise({name: middle(domain) for name, domain in self.knobs.items()})

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The setting itself."""
        return dict(params)

    def cut(self, params: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """The setting itself: knobs have no layers."""
        return dict(params)

    def sample_outer(self, rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
        """`n` settings drawn uniformly."""
        columns = {name: domain.sample(rng, n) for name, domain in self.knobs.items()}
        return [{name: values[i] for name, values in columns.items()} for i in range(n)]


def middle(domain: Domain) -> Any:
    """A value in the middle of a domain; the first of an unordered choice."""
    if isinstance(domain, IntRange):
        return domain.low + domain.step * int((domain.size - 1) // 2)
    if isinstance(domain, FloatRange):
        ends = domain.low, domain.high
        return float(np.sqrt(ends[0] * ends[1]) if domain.log else (ends[0] + ends[1]) / 2.0)
    if all(isinstance(v, int | float) for v in domain.values):
        return sorted(domain.values)[(len(domain.values) - 1) // 2]
    return domain.values[0]


def as_array(values: list[Any]) -> NDArray[Any]:
    """Numbers and strings as an array of their own kind, anything else as objects [B]."""
    if all(isinstance(v, str) for v in values) or all(
        isinstance(v, int | float | np.number) for v in values
    ):
        return np.array(values)
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
