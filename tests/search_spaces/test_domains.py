from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import Choice, Domain, FloatRange, IntRange

DOMAINS: list[Domain] = [
    Choice((1.0, 0.5)),
    Choice(("a", "b")),
    IntRange(2, 11, 3),
    FloatRange(0.5, 2.0),
    FloatRange(1e-4, 1.0, log=True),
]


@pytest.mark.parametrize("domain", DOMAINS)
def test_draws_belong_to_the_domain_and_repeat_with_the_seed(domain: Domain) -> None:
    first, second = (domain.sample(np.random.default_rng(3), 50) for _ in range(2))
    assert first == second
    assert all(domain.contains(x) for x in first)
    assert all(domain.nearest(x) == x for x in first)


@given(value=st.integers(-5, 20), low=st.integers(-3, 3), step=st.integers(1, 4))
def test_the_nearest_integer_is_the_one_brute_force_finds(value: int, low: int, step: int) -> None:
    domain = IntRange(low, low + 7, step)
    members = range(low, low + 8, step)
    assert domain.size == len(members)
    assert domain.nearest(value) == min(members, key=lambda m: (abs(m - value), m))
    assert domain.contains(value) == (value in members)


def test_nearest_choice_is_by_distance_only_among_numbers() -> None:
    assert Choice((1.0, 0.5, 0.25)).nearest(0.4) == 0.5
    assert Choice(("fp32", "bf16")).nearest("fp8") == "fp32"
    assert Choice(("fp32", "bf16")).nearest("bf16") == "bf16"


def test_a_logarithmic_range_is_uniform_in_the_logarithm() -> None:
    drawn = np.array(FloatRange(1e-4, 1.0, log=True).sample(np.random.default_rng(0), 4000))
    # half of the draws lie below the geometric middle; four standard errors allowed
    assert abs((drawn < 1e-2).mean() - 0.5) < 4 * 0.5 / math.sqrt(4000)


def test_ranges_clip_and_know_their_size() -> None:
    assert FloatRange(0.0, 1.0).nearest(3) == 1.0
    assert FloatRange(0.0, 1.0).size == math.inf
    assert FloatRange(1.0, 1.0).size == 1
    assert not FloatRange(0.0, 1.0).contains(True)
    assert not IntRange(0, 1).contains(True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Choice(()),
        lambda: Choice((1, 1)),
        lambda: IntRange(2, 1),
        lambda: IntRange(1, 2, 0),
        lambda: FloatRange(2.0, 1.0),
        lambda: FloatRange(0.0, 1.0, log=True),
    ],
)
def test_empty_or_contradictory_domains_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"needs|equal"):
        make()  # type: ignore[operator]
