from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.quality.metrics import (
    PairedTable,
    error_bound,
    majority_class_error,
    paired_difference,
    paired_interval,
    paired_table,
    wilson_interval,
)

RIGHT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(RIGHT)
def test_loss_and_its_error_are_mean_and_deviation_of_the_differences(
    pairs: list[tuple[bool, bool]],
) -> None:
    policy, full = np.array(pairs).T
    table = paired_table(policy, full)
    loss, se = paired_difference(table.lost, table.gained, table.n)
    difference = full.astype(float) - policy
    assert loss == pytest.approx(difference.mean(), abs=1e-12)
    assert se == pytest.approx(difference.std() / np.sqrt(len(pairs)), abs=1e-9)
    assert error_bound(1 - full.mean(), loss, se) == pytest.approx(
        1 - policy.mean() + 1.28 * se, abs=1e-12
    )


def test_a_table_counts_rows_of_many_policies_at_once() -> None:
    full = np.array([1, 1, 0, 0, 1])
    table = paired_table([[1, 0, 1, 0, 1], [1, 1, 1, 1, 1]], full)
    assert table.both_right.tolist() == [2, 3]
    assert table.lost.tolist() == [1, 0]
    assert table.gained.tolist() == [1, 2]
    assert table.both_wrong.tolist() == [1, 0]


@given(k=st.integers(0, 50), extra=st.integers(0, 50))
def test_wilson_limits_are_the_shares_at_which_the_score_test_just_rejects(
    k: int, extra: int
) -> None:
    n = k + extra
    if n == 0:
        return
    for limit in wilson_interval(k, n):
        assert 0.0 <= limit <= 1.0
        z_squared = 1.959963984540054**2
        if 0 < k < n:
            left = (k / n - limit) ** 2
            assert left == pytest.approx(z_squared * limit * (1 - limit) / n, rel=1e-6)


def test_wilson_at_no_success_is_closed_form() -> None:
    z_squared = 1.959963984540054**2
    low, high = wilson_interval(0, 20)
    assert low == 0.0
    assert high == pytest.approx(z_squared / (20 + z_squared))


def table(a: int, b: int, c: int, d: int) -> PairedTable:
    return PairedTable(
        both_right=np.array(a), lost=np.array(b), gained=np.array(c), both_wrong=np.array(d)
    )


def test_paired_interval_equals_newcombes_published_example() -> None:
    low, high = paired_interval(table(36, 12, 2, 0))  # Newcombe 1998, table II, method 10
    assert low == pytest.approx(0.0569, abs=5e-5)
    assert high == pytest.approx(0.3404, abs=5e-5)


@given(st.tuples(*[st.integers(0, 60)] * 4).filter(any))
def test_paired_interval_holds_the_loss_and_mirrors_when_sides_swap(
    cells: tuple[int, int, int, int],
) -> None:
    a, b, c, d = cells
    low, high = paired_interval(table(a, b, c, d))
    loss = (b - c) / sum(cells)
    assert -1 - 1e-12 <= low <= loss + 1e-12
    assert loss - 1e-12 <= high <= 1 + 1e-12
    mirrored = paired_interval(table(a, c, b, d))
    np.testing.assert_allclose([-mirrored[1], -mirrored[0]], [low, high], atol=1e-12)


def test_without_a_differing_row_the_paired_interval_still_has_a_width() -> None:
    low, high = paired_interval(table(90, 0, 0, 10))
    assert low < 0.0 < high


def test_for_many_rows_newcombe_approaches_wald() -> None:
    many = table(80_000, 4_000, 2_000, 14_000)
    loss, se = paired_difference(many.lost, many.gained, many.n)
    np.testing.assert_allclose(
        paired_interval(many), [loss - 1.96 * se, loss + 1.96 * se], atol=2e-5
    )


def test_majority_error_is_the_share_of_all_other_classes() -> None:
    assert majority_class_error([0, 2, 2, 1, 2]) == pytest.approx(0.4)
