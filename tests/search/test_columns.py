from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from dynsearch.search.columns import Columns, make_columns

SPACE: dict[str, BaseDistribution] = {
    "flag": IntDistribution(0, 1),
    "level": IntDistribution(-3, 9, step=3),
    "share": FloatDistribution(0.5, 0.99),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "grid": FloatDistribution(0.0, 1.0, step=0.25),
    "kind": CategoricalDistribution(("a", "b", None)),
    "fixed": IntDistribution(7, 7),
}


def legal(columns: Columns, X: np.ndarray) -> bool:
    return all(
        dist._contains(dist.to_internal_repr(params[name]))
        for params in map(columns.params, X)
        for name, dist in SPACE.items()
    )


@given(st.integers(0, 10**6))
def test_every_candidate_is_legal_and_comes_back(seed: int) -> None:
    columns, rng = make_columns(SPACE), np.random.default_rng(seed)
    X = columns.draw(rng, 20)
    for made in (X, columns.change(rng, X, 0.5), columns.cross(rng, X, X[::-1])):
        assert legal(columns, made)
        back = np.stack([columns.rows(columns.params(row)) for row in made])
        np.testing.assert_allclose(back, made)
        np.testing.assert_array_equal(columns.from_batch(columns.batch(made)), made)


def test_draws_reach_every_value_and_both_decades() -> None:
    columns = make_columns(SPACE)
    batch = columns.batch(columns.draw(np.random.default_rng(0), 4000))
    assert set(batch["level"].tolist()) == {-3, 0, 3, 6, 9}
    assert set(batch["kind"].tolist()) == {"a", "b", None}
    assert set(batch["grid"].tolist()) == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert (batch["rate"] < 1e-2).mean() == pytest.approx(0.5, abs=0.05)


def test_a_change_without_more_touches_one_knob_at_most() -> None:
    columns, rng = make_columns(SPACE), np.random.default_rng(0)
    X = columns.draw(rng, 500)
    touched = (columns.change(rng, X, 1e-12) != X).sum(axis=1)
    assert touched.max() == 1
    assert touched.mean() > 0.5


def test_the_grid_holds_every_row_once() -> None:
    finite: dict[str, Any] = {k: SPACE[k] for k in ("flag", "level", "grid", "kind", "fixed")}
    columns = make_columns(finite)
    assert columns.size == len(columns.grid()) == len(np.unique(columns.grid(), axis=0)) == 150
    assert make_columns(SPACE).size == np.inf


def test_features_lie_between_0_and_1_and_leave_out_what_is_fixed() -> None:
    columns = make_columns(SPACE)
    features = columns.features(columns.draw(np.random.default_rng(0), 200))
    assert features.shape == (200, 5 + 3)
    assert features.min() >= 0.0
    assert features.max() <= 1.0
    assert features[:, 3].mean() == pytest.approx(0.5, abs=0.1)  # the rate, in its logarithm


def test_half_way_is_the_middle_level_of_each_ordered_knob_of_three_values_or_more() -> None:
    columns = make_columns(SPACE)
    base = columns.rows(
        {"flag": 1, "level": 9, "share": 0.99, "rate": 1e-4, "grid": 1.0, "kind": "b", "fixed": 7}
    )
    found = columns.middles(base)
    names = list(SPACE)
    changed = {names[i]: row[i] for row in found for i in np.flatnonzero(row != base)}
    assert (found != base).sum(axis=1).tolist() == [1, 1, 1, 1]
    assert changed == {
        "level": 3.0,
        "share": pytest.approx(0.745),
        "rate": pytest.approx(1e-2),
        "grid": 0.5,
    }


def test_inside_are_ordered_knobs_that_are_at_neither_end() -> None:
    columns = make_columns(SPACE)
    ends = [columns._back(x, np.arange(columns.num)) for x in (columns.low, columns.high)]
    assert not columns.inside(np.stack(ends)).any()
    inner = columns.draw(np.random.default_rng(0), 500)
    names = np.array(list(SPACE))
    assert set(names[columns.inside(inner).any(axis=0)]) == {"level", "share", "rate", "grid"}
