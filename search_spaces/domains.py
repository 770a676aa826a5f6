"""Domains of search knobs: what a knob may be, how to draw it, what is nearest to a wish."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values, without order."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ValueError("Choice needs at least one value")
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"Choice has equal values: {self.values}")

    @property
    def size(self) -> float:
        """Number of values."""
        return len(self.values)

    def contains(self, value: Any) -> bool:
        """Whether `value` is one of them."""
        return value in self.values

    def nearest(self, value: Any) -> Any:
        """The nearest number among the values, or the first value where that means nothing."""
        numbers = [v for v in self.values if isinstance(v, int | float)]
        if len(numbers) < len(self.values) or not isinstance(value, int | float):
            return value if value in self.values else self.values[0]
        return min(numbers, key=lambda v: abs(v - value))

    def sample(self, rng: np.random.Generator, n: int) -> list[Any]:
        """`n` values, uniformly and independently."""
        return [self.values[i] for i in rng.integers(len(self.values), size=n)]


@dataclass(frozen=True, slots=True)
class IntRange:
    """Integers low, low + step ... up to and including high."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1 or self.high < self.low:
            raise ValueError(f"IntRange needs low <= high and step >= 1, got {self}")

    @property
    def size(self) -> float:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    def contains(self, value: Any) -> bool:
        """Whether `value` is an integer of the range."""
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        return whole and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def nearest(self, value: Any) -> int:
        """The nearest integer of the range, the lower one between two."""
        place = math.ceil((value - self.low) / self.step - 0.5)
        return self.low + self.step * int(min(max(place, 0), self.size - 1))

    def sample(self, rng: np.random.Generator, n: int) -> list[int]:
        """`n` values, uniformly and independently."""
        return [self.low + self.step * int(i) for i in rng.integers(int(self.size), size=n)]


@dataclass(frozen=True, slots=True)
class FloatRange:
    """Numbers from low to high, both included; `log`: uniform in the logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.log and self.low <= 0.0):
            raise ValueError(f"FloatRange needs low <= high, above 0 where log, got {self}")

    @property
    def size(self) -> float:
        """Infinite, or 1 where low equals high."""
        return 1.0 if self.low == self.high else math.inf

    def contains(self, value: Any) -> bool:
        """Whether `value` is a number of the range."""
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        return number and bool(self.low <= value <= self.high)

    def nearest(self, value: Any) -> float:
        """`value` clipped to the range."""
        return float(min(max(value, self.low), self.high))

    def sample(self, rng: np.random.Generator, n: int) -> list[float]:
        """`n` values, uniformly (in the logarithm where `log`) and independently."""
        if not self.log:
            return [float(x) for x in rng.uniform(self.low, self.high, size=n)]
        logs = rng.uniform(math.log(self.low), math.log(self.high), size=n)
        return [float(x) for x in np.clip(np.exp(logs), self.low, self.high)]


Domain = Choice | IntRange | FloatRange
