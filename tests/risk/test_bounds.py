"""Bounds on a mean loss: published vectors, closed forms, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from dynsearch.risk.bounds import (
    betting_rejects,
    betting_upper,
    binomial_p,
    binomial_upper,
    hoeffding_bentkus_p,
    hoeffding_bentkus_upper,
    rows_needed,
)

# computed by two independent implementations that agree to 1e-8
FIVE_PERCENT = np.tile(np.r_[np.zeros(19), 1.0], 25)


@pytest.mark.parametrize(
    ("losses", "delta", "upper"),
    [
        (FIVE_PERCENT, 0.1, 0.0768204),
        (FIVE_PERCENT, 0.05, 0.0817826),
        (np.zeros(100), 0.1, 0.0237976),
        (np.zeros(1000), 0.1, 0.0023735),
    ],
)
def test_the_betting_bound_meets_its_vectors(losses, delta, upper) -> None:
    assert betting_upper(losses, delta) == pytest.approx(upper, abs=1e-6)


def test_p_values_meet_their_vectors() -> None:
    assert hoeffding_bentkus_p(0.05, 500, 0.08) == pytest.approx(0.0158259, abs=1e-6)
    assert hoeffding_bentkus_p(0.05, 500, 0.07) == pytest.approx(0.1167226, abs=1e-6)
    assert binomial_p(0.05, 500, 0.08) == pytest.approx(0.0058220, abs=1e-6)


def betting_by_hand(losses: np.ndarray, delta: float, level: float) -> float:
    """Largest capital, row by row, as the formula is written."""
    n, goal = len(losses), np.log(1 / delta)
    total, square, variance, capital, best = 0.5, 0.25, 0.25, 1.0, 0.0
    for i, x in enumerate(losses, start=1):
        stake = min(1.0, np.sqrt(2 * goal / (n * variance)))
        capital *= 1 - stake * (x - level)
        best = max(best, capital)
        total += x
        square += (x - total / (i + 1)) ** 2
        variance = square / (i + 1)
    return best


@given(
    losses=st.lists(st.floats(-1, 1), min_size=1, max_size=40),
    delta=st.floats(0.01, 0.5),
    level=st.floats(0.01, 0.99),
)
def test_betting_over_arrays_is_betting_row_by_row(losses, delta, level) -> None:
    capital = betting_by_hand(np.array(losses), delta, level)
    many = np.stack([np.zeros(len(losses)), losses])
    if abs(capital * delta - 1) > 1e-9:
        assert betting_rejects(many, delta, level)[1] == (capital > 1 / delta)
        assert (betting_upper(many, delta)[1] < level) == (capital > 1 / delta)


@given(k=st.integers(0, 60), n=st.integers(1, 60), delta=st.floats(0.01, 0.5))
def test_the_exact_binomial_is_clopper_and_pearson(k, n, delta) -> None:
    k = min(k, n)
    upper = binomial_upper(k / n, n, delta)
    test = binomtest(k, n, alternative="less").proportion_ci(1 - delta, "exact")
    assert upper == pytest.approx(test.high, abs=1e-9)
    if k < n:
        assert binomial_p(k / n, n, upper) == pytest.approx(delta, rel=1e-6)


@settings(max_examples=20)
@given(k=st.integers(0, 50), n=st.integers(51, 400), delta=st.floats(0.01, 0.3))
def test_the_exact_bound_is_no_wider_than_hoeffding_bentkus(k, n, delta) -> None:
    upper = float(hoeffding_bentkus_upper(k / n, n, delta))
    assert binomial_upper(k / n, n, delta) <= upper + 1e-9
    assert hoeffding_bentkus_p(k / n, n, min(upper + 1e-6, 1.0)) <= delta


@pytest.mark.parametrize("method", ["wsr", "hoeffding_bentkus", "binomial", "ltt"])
@pytest.mark.parametrize(("eps", "delta"), [(0.02, 0.1), (0.05, 0.05), (0.3, 0.01)])
def test_the_rows_needed_are_enough_and_one_fewer_is_not(method, eps, delta) -> None:
    def enough(n: int) -> bool:
        if method == "wsr":
            return bool(betting_upper(np.zeros(n), delta) < eps)
        return bool(hoeffding_bentkus_p(0.0, n, eps) <= delta)

    need = rows_needed(method, eps, delta)
    assert enough(need)
    assert not enough(need - 1)


def test_an_average_guarantee_needs_nineteen_rows_for_one_in_twenty() -> None:
    assert rows_needed("crc", 0.05, 0.1) == 19
