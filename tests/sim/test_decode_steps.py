from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.errors import InputError
from dynsearch.sim.decode_steps import (
    DecodeCost,
    expected_copy_state,
    expected_full,
    expected_monotone,
    expected_pipeline,
    expected_recompute,
    expected_sync,
    linear_schedule,
    pending_law,
    running_minimum,
    simulate_copy_state,
    simulate_monotone,
    simulate_pending,
    simulate_pipeline,
)

LAYERS, STEPS = 4, 40_000
LAW = np.array([0.35, 0.25, 0.0, 0.4])
ON = np.array([True, True, False, False])


def some_cost(rng: np.random.Generator, tokens: int, layers: int = LAYERS) -> DecodeCost:
    def table(*lead: int) -> np.ndarray:
        return rng.random((2, *lead, tokens)).cumsum(axis=-1) * 0.1 + 1.0

    return DecodeCost(
        layer=table(layers), keys=0.3 * table(layers), check=table(layers), head=table()
    )


def draws(rng: np.random.Generator, batch: int, steps: int = STEPS) -> np.ndarray:
    return rng.choice(LAYERS, (steps, batch), p=LAW)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_copied_states_cost_what_simulated_steps_cost(batch: int, wait: bool) -> None:
    rng = np.random.default_rng(batch)
    cost = some_cost(rng, batch)
    each = simulate_copy_state(cost, draws(rng, batch), ON, wait=wait)
    expected = expected_copy_state(cost, LAW, ON, batch, wait=wait)
    np.testing.assert_allclose(each.mean(axis=1), expected, rtol=0.01)


@pytest.mark.parametrize(("batch", "cap"), [(1, 1), (1, 4), (2, 3)])
def test_recomputed_keys_cost_what_simulated_steps_cost(batch: int, cap: int) -> None:
    rng = np.random.default_rng(cap)
    cost = some_cost(rng, batch * (cap + 1))
    each = simulate_pending(cost, draws(rng, batch), ON, cap)
    np.testing.assert_allclose(
        each.mean(axis=1), expected_recompute(cost, LAW, ON, batch, cap), rtol=0.01
    )


@pytest.mark.parametrize(("batch", "cap"), [(1, 5), (2, 2)])
def test_stacked_tokens_cost_what_simulated_steps_cost(batch: int, cap: int) -> None:
    rng = np.random.default_rng(cap)
    cost = some_cost(rng, batch * (cap + 1))
    law = np.array([0.0, 0.7, 0.0, 0.3])
    where = rng.choice(LAYERS, (STEPS, batch), p=law)
    each = simulate_pending(cost, where, np.arange(LAYERS) == 1, cap, first_deep=2)
    np.testing.assert_allclose(
        each.mean(axis=1), expected_sync(cost, law, 1, batch, cap), rtol=0.01
    )


@given(whole=st.floats(0.01, 1.0), cap=st.integers(0, 8))
def test_the_share_of_waiting_tokens_does_not_change_by_a_step(whole: float, cap: int) -> None:
    law = pending_law(whole, cap)
    chain = np.zeros((cap + 1, cap + 1))
    for m in range(cap + 1):
        chain[m, 0] += 1.0 if m == cap else whole
        if m < cap:
            chain[m, m + 1] += 1.0 - whole
    np.testing.assert_allclose(law @ chain, law, atol=1e-12)


def test_equal_stages_of_a_pipeline_never_wait_for_each_other() -> None:
    rng = np.random.default_rng(0)
    law, stages = np.array([0.5, 0.2, 0.3]), np.ones((1, 3))
    each = simulate_pipeline(stages, rng.choice(3, STEPS, p=law))
    assert each.mean() == pytest.approx(expected_pipeline(stages, law)[0], rel=0.01)
    assert set(np.unique(each)) == {1.0, 2.0, 3.0}


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_unequal_stages_take_at_least_the_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stages, where = rng.random((2, 3)), rng.choice(3, 150, p=rng.dirichlet(np.ones(3)))
    where[-1] = 2  # whoever answers at the end has waited for all before
    each = simulate_pipeline(stages, where)
    shares = np.bincount(where, minlength=3) / where.size
    assert (each.mean(axis=1) >= expected_pipeline(stages, shares) - 1e-9).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_depths_that_may_not_grow_cost_what_simulated_sequences_cost(batch: int) -> None:
    rng = np.random.default_rng(batch)
    cost, positions, runs = some_cost(rng, batch), 6, 4_000
    mean = np.mean(
        [simulate_monotone(cost, draws(rng, batch, positions), ON) for _ in range(runs)], axis=0
    )
    expected = expected_monotone(cost, running_minimum(LAW, positions), ON, batch)
    np.testing.assert_allclose(mean, expected, rtol=0.02)
    assert (np.diff(expected, axis=1) < 0).all()


def test_a_schedule_costs_its_layers_at_any_batch() -> None:
    cost = some_cost(np.random.default_rng(0), 4)
    depth = linear_schedule(5, 2, LAYERS)
    assert depth.tolist() == [4, 4, 3, 2, 2]
    reach = (np.arange(LAYERS) < depth[:, None]).astype(float)
    never = np.zeros(LAYERS, dtype=bool)
    seconds = expected_monotone(cost, reach, never, 4)
    simulated = simulate_monotone(cost, np.repeat(depth[:, None] - 1, 4, axis=1), never)
    np.testing.assert_allclose(seconds, simulated)
    np.testing.assert_allclose(seconds[:, 0], expected_full(cost, 4))


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 3))
def test_without_exits_every_policy_costs_a_full_step(seed: int, batch: int) -> None:
    cost = some_cost(np.random.default_rng(seed), batch * 3)
    law, never = np.array([0.0, 0.0, 0.0, 1.0]), np.zeros(LAYERS, dtype=bool)
    full = expected_full(cost, batch)
    np.testing.assert_allclose(expected_copy_state(cost, law, never, batch), full)
    np.testing.assert_allclose(expected_copy_state(cost, law, never, batch, wait=False), full)
    np.testing.assert_allclose(expected_recompute(cost, law, never, batch, 2), full)


def test_steps_bound_by_weights_lose_by_keys_alone_what_copied_states_save() -> None:
    """A skipped layer still costs its keys: at no exit before the end, all of it."""
    ones = np.ones((1, LAYERS, 1))
    cost = DecodeCost(layer=ones, keys=0.25 * ones, check=0 * ones, head=np.zeros((1, 1)))
    got = expected_copy_state(cost, np.array([1.0, 0, 0, 0]), ON, 1)
    assert got[0] == pytest.approx(1 + 3 * 0.25)


def test_steps_that_take_along_more_tokens_than_were_priced_are_refused() -> None:
    cost = some_cost(np.random.default_rng(0), 4)
    with pytest.raises(InputError, match="more tokens than the 4"):
        expected_recompute(cost, LAW, ON, 2, 2)
    with pytest.raises(InputError, match="more tokens than the 4"):
        simulate_pending(cost, np.zeros((3, 2), dtype=int), ON, 2)
