"""Columns of the validation table."""

from __future__ import annotations

import numpy as np
import pytest

from cost_models.price import Z90
from cost_models.scores import agreement, mape


def test_each_figure_is_what_its_name_says() -> None:
    measured = np.array([1.0, 2.0, 3.0, 4.0])
    predicted = measured * np.array([1.05, 0.9, 1.3, 1.0])
    found = agreement(predicted, measured, np.full(4, np.log(1.15) / Z90))
    assert found["n"] == 4
    assert found["mape"] == pytest.approx((0.05 + 0.1 + 0.3) / 4)
    assert found["median_ape"] == pytest.approx(0.075)
    assert found["within_10"] == 0.75
    assert found["kendall"] == 1.0
    assert found["coverage"] == 0.75
    assert found["width"] == pytest.approx(1.15**2 - 1)


def test_two_rows_have_no_rank_correlation() -> None:
    assert agreement(np.ones(2), np.ones(2), np.ones(2))["kendall"] is None
    assert agreement(np.ones(4), np.ones(4), np.ones(4))["kendall"] is None


def test_a_peer_is_scored_where_it_speaks() -> None:
    assert mape(np.array([1.1, np.nan, 0.0]), np.ones(3)) == pytest.approx(0.1)
    assert np.isnan(mape(np.array([np.nan]), np.ones(1)))
