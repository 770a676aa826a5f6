from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.errors import InputError
from dynsearch.sim.batched_exits import (
    affine_stages,
    deepest_cdf,
    depth_law,
    draw_latencies,
    expected_batches,
    oracle_exit,
)
from dynsearch.sim.latencies import compaction_points, percentiles, sample_latencies
from dynsearch.sim.regroup import expected_regroup, simulate_regroup

from ..cost_models.shared_data import data_file, needs_data
from .replay_cases import make_cost

LAYERS = 4


def all_batches(n: int, batch: int) -> np.ndarray:
    """Every ordered batch of n samples, with repetition [n^B, B]."""
    return np.stack(np.meshgrid(*[np.arange(n)] * batch, indexing="ij"), -1).reshape(-1, batch)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    wait=st.booleans(),
    period=st.integers(1, 3),
)
def test_expected_batches_are_the_mean_over_all_batches_there_are(
    seed: int, batch: int, wait: bool, period: int
) -> None:
    """Enumerated: n^B batches of n samples with lengths, run stage by stage."""
    rng = np.random.default_rng(seed)
    n, depth = 5, int(rng.integers(1, LAYERS + 1))
    on = (rng.random(LAYERS) < 0.7) & (np.arange(LAYERS) < depth - 1)
    choices = np.append(np.flatnonzero(on), depth - 1)
    where = np.append(rng.choice(choices, n - 1), depth - 1)  # one goes to the end
    length = rng.integers(0, 3, n)
    t = make_cost(rng, LAYERS, batch, max_len=3).seconds
    rows = all_batches(n, batch)
    batches = np.arange(rows.size).reshape(rows.shape)
    each = sample_latencies(
        t, batches, length[rows.ravel()], where[rows.ravel()], on, wait=wait, period=period
    )
    got = expected_batches(
        t, depth_law(where, LAYERS, length, 3)[None], on[None], batch, wait=wait, period=period
    )
    np.testing.assert_allclose(got.latency_s[:, 0], each.mean(axis=1), rtol=1e-9)
    last = each.reshape(2, -1, batch).max(axis=2)
    np.testing.assert_allclose(got.batch_s[:, 0], last.mean(axis=1), rtol=1e-9)
    deepest = where[rows].max(axis=1)
    assert got.depth[0] == pytest.approx(deepest.mean() + 1)


@needs_data
def test_waiting_for_oracle_exits_of_snli_gives_the_known_speed_ups() -> None:
    """Equal layers, free checks, batches of rows drawn from the trace."""
    with data_file("traces/snli-exits/exit_correctness.csv")[0].open() as file:
        rows = np.array(list(csv.reader(file))[1:], dtype=np.int64)
    correct = rows[:, 1:].astype(bool)
    where = oracle_exit(correct)
    on = np.arange(12) < 11
    rng = np.random.default_rng(0)
    wanted = {1: 3.90, 4: 2.00, 8: 1.53, 16: 1.22, 32: 1.05, 64: 1.00}
    for batch, speed_up in wanted.items():
        t = affine_stages((np.ones((1, 12)), np.zeros((1, 12))), batch)
        law = depth_law(where, 12)
        got = expected_batches(t, law[None], on[None], batch, wait=True)
        assert 12 / got.batch_s[0, 0] == pytest.approx(speed_up, rel=0.01)
        assert 12 - deepest_cdf(law[:, 0], batch)[:-1].sum() == pytest.approx(got.depth[0])
        drawn = draw_latencies(rng, t, where, on, batch, 20_000 // batch + 2_000, wait=True)
        assert 12 / drawn.mean() == pytest.approx(speed_up, rel=0.02)


def test_percentiles_of_waiting_batches_are_those_of_the_deepest_sample() -> None:
    law = np.array([0.5, 0.3, 0.15, 0.05])
    where = np.repeat(np.arange(4), (law * 100).astype(int))
    t = affine_stages((np.array([[1.0, 2.0, 3.0, 4.0]]), np.zeros((1, 4))), 4)
    drawn = draw_latencies(
        np.random.default_rng(1), t, where, np.arange(4) < 3, 4, 40_000, wait=True
    )
    found = percentiles(drawn[..., 0])
    after = np.array([1.0, 3.0, 6.0, 10.0])
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert found[name][0] == after[np.searchsorted(deepest_cdf(law, 4), share)]


def test_a_batch_of_one_costs_what_its_sample_runs() -> None:
    law = np.array([[0.25, 0.0, 0.75]])[..., None]
    t = affine_stages(([[1.0, 2.0, 4.0]], 0.0), 1, check=(0.5, 0.0), head=(0.25, 0.0))
    got = expected_batches(t, law, np.array([[True, False, False]]), 1)
    assert got.latency_s[0, 0] == pytest.approx(1.5 + 0.75 * (2 + 4 + 0.25))
    np.testing.assert_allclose(got.rows, [[1, 0.75, 0.75]])


@given(seed=st.integers(0, 10_000), batch=st.integers(2, 5))
def test_compaction_never_loses_to_waiting_where_copies_are_free_and_time_grows_with_the_batch(
    seed: int, batch: int
) -> None:
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.ones(LAYERS), 3)[..., None]
    on = np.tile(np.arange(LAYERS) < LAYERS - 1, (3, 1))
    t = affine_stages((rng.random((1, LAYERS)), rng.random((1, LAYERS))), batch)
    runs = [expected_batches(t, law, on, batch, period=p).batch_s for p in (1, 3)]
    waits = expected_batches(t, law, on, batch, wait=True).batch_s
    assert (runs[0] <= runs[1] + 1e-12).all()
    assert (runs[1] <= waits + 1e-12).all()


def test_time_that_does_not_depend_on_the_batch_is_not_saved_by_compaction() -> None:
    law, on = np.array([[0.6, 0.2, 0.2]])[..., None], np.array([[True, True, False]])
    t = affine_stages((np.ones((1, 3)), np.zeros((1, 3))), 16)
    compact, wait = (expected_batches(t, law, on, 16, wait=w).batch_s for w in (False, True))
    np.testing.assert_allclose(compact, wait)


@pytest.mark.parametrize("batch", [1, 4])
def test_regrouped_batches_take_the_time_and_hold_samples_as_long_as_expected(batch: int) -> None:
    rng = np.random.default_rng(3)
    t = make_cost(rng, LAYERS, batch, max_len=2).seconds
    on = np.array([True, True, False, False])
    where = rng.choice([0, 1, 3], 40_000, p=[0.3, 0.3, 0.4])
    length = (rng.random(where.size) < 0.2 + 0.2 * where).astype(int)
    got = expected_regroup(t, depth_law(where, LAYERS, length, 2), on, batch)
    latency = simulate_regroup(t, where, on, batch, length)
    np.testing.assert_allclose(latency.mean(axis=1), got.latency_s, rtol=0.01)
    assert (got.pipelined_s <= got.time_per_sample_s).all()


def test_regrouping_full_batches_is_never_slower_than_compaction_where_copies_are_free() -> None:
    """Throughput; a sample may wait longer."""
    law, on = np.array([0.5, 0.3, 0.2])[:, None], np.array([True, True, False])
    t = affine_stages((np.ones((1, 3)), np.full((1, 3), 0.01)), 8)
    regrouped = expected_regroup(t, law, on, 8)
    compact = expected_batches(t, law[None], on[None], 8)
    assert regrouped.time_per_sample_s[0] < compact.batch_s[0, 0] / 8
    assert regrouped.latency_s[0] > compact.latency_s[0, 0]


def test_a_batch_that_was_not_priced_is_refused() -> None:
    t = affine_stages((np.ones((1, 2)), np.ones((1, 2))), 4)
    with pytest.raises(InputError, match="up to 4"):
        expected_batches(t, np.full((1, 2, 1), 0.5), np.array([[True, False]]), 5)


def test_batches_shrink_at_every_so_many_exits() -> None:
    on = np.array([True, False, True, True, True])
    assert compaction_points(on, 1).tolist() == on.tolist()
    assert np.flatnonzero(compaction_points(on, 2)).tolist() == [2, 4]
    assert np.flatnonzero(compaction_points(on, 3)).tolist() == [3]


def test_percentiles_are_latencies_of_samples() -> None:
    found = percentiles(np.stack([np.arange(1.0, 101.0), np.arange(100.0) * 10]))
    assert {name: value.tolist() for name, value in found.items()} == {
        "mean": [50.5, 495.0],
        "p50": [50.0, 490.0],
        "p95": [95.0, 940.0],
        "p99": [99.0, 980.0],
    }
