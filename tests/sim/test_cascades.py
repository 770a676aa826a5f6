from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.sim.batched_exits import draw_latencies, expected_batches
from dynsearch.sim.cascades import (
    answered_by,
    answered_share,
    cascade_right,
    expected_cost,
    model_stages,
    sample_costs,
)
from dynsearch.sim.latencies import percentiles


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), models=st.integers(2, 4))
def test_mean_cost_by_shares_is_the_mean_of_the_samples(seed: int, models: int) -> None:
    rng = np.random.default_rng(seed)
    scores, cost = rng.random((models - 1, 30)), rng.random((2, models))
    answered = answered_by(scores, rng.random((5, models - 1)))
    share = answered_share(answered, models)
    np.testing.assert_allclose(share.sum(axis=1), 1)
    each = sample_costs(answered, cost[:, :, None])
    np.testing.assert_allclose(each.mean(axis=2), expected_cost(share, cost))
    assert (each <= cost.sum(axis=1)[:, None, None] + 1e-12).all()


def test_each_sample_is_answered_by_the_first_model_that_is_sure() -> None:
    scores = np.array([[0.9, 0.5, 0.1, 0.5], [0.9, 0.9, 0.2, 0.4]])
    answered = answered_by(scores, np.array([[0.5, 0.4], [np.inf, np.inf]]))
    assert answered.tolist() == [[0, 0, 2, 0], [2, 2, 2, 2]]
    right = np.array([[True, True, True, False], [False] * 4, [False, False, True, True]])
    assert cascade_right(answered, right).tolist() == [0.75, 0.5]


def test_the_tail_pays_for_all_models_once_more_than_its_share_is_handed_on() -> None:
    scores = np.arange(1000)[None] / 1000
    cost = np.array([[1.0, 5.0]])[:, :, None]
    for handed_on, p99 in ((0.02, 6.0), (0.005, 1.0)):
        answered = answered_by(scores, np.array([[handed_on]]))
        assert percentiles(sample_costs(answered, cost))["p99"][0, 0] == p99


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 4))
def test_batches_of_a_cascade_are_those_of_exits_between_models(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    seconds = rng.random((1, 2, batch, 1)).cumsum(axis=2)
    answered = answered_by(rng.random((1, 50)), np.array([[0.4]]))
    law, on = answered_share(answered, 2)[..., None], np.array([True, False])
    got = expected_batches(model_stages(seconds), law, on[None], batch)
    drawn = draw_latencies(rng, model_stages(seconds), answered[0], on, batch, 20_000)
    assert drawn.mean() == pytest.approx(got.latency_s[0, 0], rel=0.02)
    b = np.arange(1, batch + 1)
    second = sum(
        np.sum(rng.binomial(batch, law[0, 1, 0], 20_000) == k) / 20_000 * seconds[0, 1, k - 1, 0]
        for k in b
    )
    assert got.batch_s[0, 0] == pytest.approx(seconds[0, 0, -1, 0] + second, rel=0.03)
