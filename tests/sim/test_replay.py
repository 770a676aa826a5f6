from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.sim.replay import Replayer, replay
from search_spaces.candidate import EXIT_BATCHING, RUNNABLE_CRITERIA, PolicyBatch
from search_spaces.errors import InputError
from search_spaces.workload import Workload

from .replay_cases import make_cost, make_policies, make_trace, plain_replay

LAYERS, N = 4, 37


@pytest.mark.parametrize("batch", [1, 3])
def test_devices_on_which_weights_are_never_cached_are_replayed(batch: int) -> None:
    """Costs of misses are there, as `build_layer_cost` gives them, and zero on every device."""
    rng = np.random.default_rng(5)
    trace, cost = make_trace(rng, N, LAYERS), make_cost(rng, LAYERS, batch, cached=True)
    assert cost.miss_seconds is not None
    assert cost.miss_joules is not None
    never = np.zeros(2)
    free = replace(
        cost,
        miss_seconds=cost.miss_seconds.plus(never - 1, cost.miss_seconds),
        miss_joules=cost.miss_joules.plus(never - 1, cost.miss_joules),
    )
    plain = replace(cost, miss_seconds=None, miss_joules=None, miss=None, layer_bytes=None)
    policies, load = make_policies(rng, LAYERS, 5), Workload(batch=batch, max_len=20)
    right = np.ones(N, dtype=bool)
    got, want = (
        replay(trace, policies, c, workload=load, correct_full=right) for c in (free, plain)
    )
    for name in ("latency_mean_s", "time_per_sample_s", "energy_j"):
        np.testing.assert_array_equal(got.cost(name), want.cost(name))


def run_both(seed: int, load: Workload, count: int = 6, n: int = N, **choices: object) -> None:
    """Compares replay with the plain loops for random policies."""
    rng = np.random.default_rng(seed)
    trace = make_trace(rng, n, LAYERS)
    cost = make_cost(rng, LAYERS, load.batch, cached=bool(seed % 2))
    policies = make_policies(rng, LAYERS, count, **choices)  # type: ignore[arg-type]
    right = trace.logits[:, -1].argmax(-1) == trace.labels
    replayer = Replayer(trace, cost, workloads=[load], correct_full=right)
    got, latencies = replayer.run(policies), replayer.latencies(policies)
    for p in range(count):
        for d in range(2):
            want = plain_replay(trace, policies, p, cost, d, load)
            np.testing.assert_allclose(latencies[d, p], want.latency, rtol=1e-9)
            np.testing.assert_allclose(
                [got.cost(q)[d, p] for q in ("latency_mean_s", "time_per_sample_s", "energy_j")],
                [np.mean(want.latency), want.time / n, want.energy / n],
                rtol=1e-9,
            )
        wrong = np.array(want.wrong)
        loss = wrong.astype(float) - ~right
        assert got.n_wrong[p] == wrong.sum()
        assert list(got.exits[p]) == list(np.bincount(want.exits, minlength=LAYERS))
        reach = [np.mean(np.array(want.exits) >= x) for x in range(LAYERS)]
        np.testing.assert_allclose(got.reach[p], reach, atol=1e-12)
        np.testing.assert_allclose(got.loss[p], loss.mean(), atol=1e-12)
        np.testing.assert_allclose(got.loss_se[p], loss.std() / np.sqrt(n), atol=1e-12)
        bound = np.mean(~right) + loss.mean() + 1.28 * loss.std() / np.sqrt(n)
        np.testing.assert_allclose(got.error_bound[p], bound, atol=1e-12)


@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 5, 8, 16, 19])
@pytest.mark.parametrize("mode", ["serial", "compact", "wait_all"])
def test_replay_equals_a_plain_loop_over_samples(batch: int, sort: bool, mode: str) -> None:
    for seed in (2 * batch, 2 * batch + 1):  # without and with weights that may be in cache
        run_both(seed, Workload(batch=batch, max_len=20, sort=sort), modes=(mode,))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    batch=st.integers(1, 20),
    sort=st.booleans(),
)
def test_replay_equals_a_plain_loop_for_any_mix_of_policies(
    seed: int, n: int, batch: int, sort: bool
) -> None:
    run_both(seed, Workload(batch=batch, max_len=20, sort=sort), count=4, n=n)


def test_more_policies_rows_and_lengths_than_fit_a_block_a_window_or_a_byte() -> None:
    rng = np.random.default_rng(5)
    trace = make_trace(rng, 301, LAYERS, max_len=80)
    cost = make_cost(rng, LAYERS, 8, max_len=80)
    load = Workload(batch=8, max_len=80, sort=True)
    policies = make_policies(rng, LAYERS, 700)
    got = replay(trace, policies, cost, workload=load, correct_full=np.ones(301, dtype=bool))
    for p in (0, 255, 256, 699):
        want = plain_replay(trace, policies, p, cost, 1, load)
        assert got.cost("latency_mean_s")[1, p] == pytest.approx(np.mean(want.latency), rel=1e-9)
        assert got.n_wrong[p] == sum(want.wrong)


def open_policies(rng: np.random.Generator, mode: str, count: int = 8) -> PolicyBatch:
    """Random exit sets whose thresholds nobody reaches."""
    made = make_policies(rng, LAYERS, count, modes=(mode,), criteria=("max_prob",))
    return replace(made, thresholds=np.full_like(made.thresholds, np.inf))


@pytest.mark.parametrize("mode", ["serial", "compact", "wait_all"])
def test_exits_that_nobody_takes_give_the_truncated_network_and_cost_their_checks(
    mode: str,
) -> None:
    rng = np.random.default_rng(1)
    trace, cost = make_trace(rng, N, LAYERS), make_cost(rng, LAYERS, 8)
    replayer = Replayer(
        trace,
        cost,
        workloads=[Workload(batch=8, max_len=20)],
        correct_full=np.ones(N, dtype=bool),
    )
    policies = open_policies(rng, mode)
    without = replace(policies, exit_on=np.zeros_like(policies.exit_on))
    got, bare = replayer.run(policies), replayer.run(without)
    wrong = trace.logits.argmax(-1) != trace.labels[:, None]
    assert list(got.n_wrong) == [wrong[:, d - 1].sum() for d in policies.depth]
    assert list(bare.n_wrong) == list(got.n_wrong)
    for x in range(LAYERS):
        one = replace(without, exit_on=policies.exit_on & (np.arange(LAYERS) == x))
        extra = replayer.run(one).cost("latency_mean_s") - bare.cost("latency_mean_s")
        size = 1 if mode == "serial" else 8
        starts = range(0, N, size)
        paid = sum(
            len(trace.lengths[s : s + size])
            * cost.seconds.check[
                :, x, len(trace.lengths[s : s + size]) - 1, trace.lengths[s : s + size].max() - 1
            ]
            for s in starts
        )
        np.testing.assert_allclose(extra, np.outer(paid / N, one.exit_on[:, x]), atol=1e-12)


@pytest.mark.parametrize("mode", ["serial", "compact", "wait_all"])
def test_exit_rate_one_at_layer_one_costs_exactly_embedding_one_layer_and_one_check(
    mode: str,
) -> None:
    rng = np.random.default_rng(2)
    trace, cost = make_trace(rng, 1, LAYERS), make_cost(rng, LAYERS, 4)
    on = np.array([[True, True, False, False]])
    policy = PolicyBatch(
        depth=np.array([LAYERS]),
        exit_on=on,
        criterion=np.array([0]),
        thresholds=np.where(on, 0.0, np.inf),
        patience=np.array([0]),
        temperature=np.array([1.0]),
        exit_batching=np.array([EXIT_BATCHING.index(mode)]),
    )
    load = Workload(batch=4, max_len=20)
    got = replay(trace, policy, cost, workload=load, correct_full=np.array([True]))
    n, t = int(trace.lengths[0]) - 1, cost.seconds
    want = t.embed[:, 0, n] + t.layer[:, 0, 0, n] + t.check[:, 0, 0, n]
    np.testing.assert_allclose(got.cost("latency_mean_s")[:, 0], want, rtol=1e-12)
    np.testing.assert_allclose(got.cost("time_per_sample_s")[:, 0], want, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(2, 18))
def test_waiting_for_all_is_never_faster_than_compaction_that_is_free(
    seed: int, batch: int
) -> None:
    rng = np.random.default_rng(seed)
    trace = make_trace(rng, N, LAYERS)
    cost = make_cost(rng, LAYERS, batch, free_checks=True, ordered=True)
    load = Workload(batch=batch, max_len=20)
    policies = make_policies(rng, LAYERS, 10, modes=("compact",))
    waiting = replace(
        policies, exit_batching=np.full(10, EXIT_BATCHING.index("wait_all"), dtype=np.int64)
    )
    replayer = Replayer(trace, cost, workloads=[load], correct_full=np.ones(N, dtype=bool))
    for quantity in ("latency_mean_s", "time_per_sample_s"):
        fast, slow = (replayer.run(x).cost(quantity) for x in (policies, waiting))
        assert (fast <= slow * (1 + 1e-12)).all()


def test_the_order_of_policies_and_their_neighbours_change_no_result() -> None:
    rng = np.random.default_rng(3)
    trace, cost = make_trace(rng, N, LAYERS), make_cost(rng, LAYERS, 8)
    load = Workload(batch=8, max_len=20)
    replayer = Replayer(trace, cost, workloads=[load], correct_full=np.ones(N, dtype=bool))
    policies = make_policies(rng, LAYERS, 300)
    order = rng.permutation(300)
    whole, shuffled = replayer.run(policies), replayer.run(policies.take(order))
    np.testing.assert_array_equal(whole.n_wrong[order], shuffled.n_wrong)
    np.testing.assert_array_equal(whole.exits[order], shuffled.exits)
    some = replayer.run(policies.take(order[:7]))
    for quantity in ("latency_mean_s", "time_per_sample_s", "energy_j"):
        expected = whole.cost(quantity)[:, order]
        np.testing.assert_allclose(shuffled.cost(quantity), expected, rtol=1e-13)
        np.testing.assert_allclose(some.cost(quantity), expected[:, :7], rtol=1e-13)


def test_under_batch_one_the_order_of_rows_changes_no_row() -> None:
    rng = np.random.default_rng(4)
    trace, cost = make_trace(rng, N, LAYERS), make_cost(rng, LAYERS, 1)
    order = rng.permutation(N)
    arrays = {
        f.name: getattr(trace, f.name)[order]
        for f in fields(trace)
        if isinstance(getattr(trace, f.name), np.ndarray)
    }
    policies, load = make_policies(rng, LAYERS, 5), Workload(batch=1, max_len=20)
    whole, mixed = (
        Replayer(t, cost, workloads=[load], correct_full=np.ones(N, dtype=bool)).latencies(
            policies
        )
        for t in (trace, replace(trace, **arrays))
    )
    np.testing.assert_array_equal(whole[:, :, order], mixed)


def test_two_workloads_at_once_equal_each_alone() -> None:
    rng = np.random.default_rng(6)
    trace, cost = make_trace(rng, N, LAYERS), make_cost(rng, LAYERS, 8)
    loads = [Workload(batch=1, max_len=20), Workload(batch=8, max_len=20, sort=True)]
    policies, right = make_policies(rng, LAYERS, 50), np.ones(N, dtype=bool)
    both = Replayer(trace, cost, workloads=loads, correct_full=right).run(policies)
    for w, load in enumerate(loads):
        alone = replay(trace, policies, cost, workload=load, correct_full=right)
        np.testing.assert_array_equal(both.cost("energy_j", w), alone.cost("energy_j"))
        np.testing.assert_array_equal(both.n_wrong, alone.n_wrong)


def test_devices_without_energy_give_no_energy() -> None:
    rng = np.random.default_rng(7)
    trace, cost = make_trace(rng, N, LAYERS), make_cost(rng, LAYERS, 1)
    silent = replace(cost, joules=cost.joules.map(np.full((20, 20), np.nan)))
    policies = make_policies(rng, LAYERS, 3)
    load = Workload(batch=1, max_len=20)
    got = replay(trace, policies, silent, workload=load, correct_full=np.ones(N, dtype=bool))
    assert set(got.costs[0]) == {"latency_mean_s", "time_per_sample_s"}


def test_regroup_foreign_layers_and_wrong_sizes_are_refused_by_name() -> None:
    rng = np.random.default_rng(8)
    trace, cost = make_trace(rng, N, LAYERS), make_cost(rng, LAYERS, 2)
    load, right = Workload(batch=2, max_len=20), np.ones(N, dtype=bool)
    policies = make_policies(rng, LAYERS, 3)
    replayer = Replayer(trace, cost, workloads=[load], correct_full=right)
    regroup = np.full(3, EXIT_BATCHING.index("regroup"), dtype=np.int64)
    with pytest.raises(InputError, match="regroup"):
        replayer.run(replace(policies, exit_batching=regroup))
    with pytest.raises(InputError, match="depth"):
        replayer.run(make_policies(rng, LAYERS + 1, 3))
    with pytest.raises(InputError, match="below the depth"):
        replayer.run(replace(policies, exit_on=np.ones((3, LAYERS), dtype=bool)))
    with pytest.raises(InputError) as failed:
        Replayer(trace, cost, workloads=[replace(load, batch=3)], correct_full=right[:5])
    assert [p.key for p in failed.value.problems] == ["correct_full", "costs"]


def test_no_policy_is_an_empty_result() -> None:
    rng = np.random.default_rng(9)
    trace, cost = make_trace(rng, N, LAYERS), make_cost(rng, LAYERS, 2)
    none = make_policies(rng, LAYERS, 3, criteria=RUNNABLE_CRITERIA).take(np.arange(0))
    load, right = Workload(batch=2, max_len=20), np.ones(N, dtype=bool)
    replayer = Replayer(trace, cost, workloads=[load], correct_full=right)
    assert replayer.run(none).error_bound.shape == (0,)
    assert replayer.run(none).cost("latency_mean_s").shape == (2, 0)
    assert replayer.latencies(none).shape == (2, 0, N)
