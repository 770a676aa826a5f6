from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.sim.expert_load import (
    choices_per_token,
    draw_loads,
    draw_popularity,
    expected_of_load,
    expected_touched,
    fit_concentration,
    hash_popularity,
    inclusion,
    kept_second,
    trace_loads,
    zipf,
)
from dynsearch.sim.expert_step import dropped_share
from search_spaces.lowering.experts import expected_experts
from search_spaces.routers.base import capacity
from search_spaces.routers.hash import balanced_table, hashed_expert

# Monte Carlo of 400 draws of a balanced router: (T, E), max / mean load, drops at 1.0 and 1.25
BALANCED = [
    (64, 8, 1.54, 0.13, 0.047),
    (512, 8, 1.19, 0.046, 0.0005),
    (4096, 8, 1.06, 0.016, 0.0),
    (4096, 64, 1.30, 0.050, 0.0013),
    (4096, 128, 1.49, 0.070, 0.007),
    (64, 64, 4.05, 0.37, 0.10),
]


@pytest.mark.parametrize(("tokens", "experts", "imbalance", "exact", "ample"), BALANCED)
def test_a_balanced_router_loads_and_drops_as_known(
    tokens: int, experts: int, imbalance: float, exact: float, ample: float
) -> None:
    """Within four standard errors of 400 draws, both ours and those of the known figures."""
    rng = np.random.default_rng(0)
    flat = np.ones(experts)
    loads = draw_loads(rng, flat, tokens, 1, 400)
    ratio = loads.max(axis=1) * experts / tokens
    error = 4 * ratio.std() * np.sqrt(2 / 400) + 0.005  # rounded to two digits
    assert ratio.mean() == pytest.approx(imbalance, abs=error)
    for factor, known in ((1.0, exact), (1.25, ample)):
        slots = int(capacity(tokens, experts, 1, factor))
        drops = dropped_share(loads, slots)
        over = np.maximum(np.arange(tokens + 1) - slots, 0.0)
        expected = expected_of_load(over, inclusion(flat, 1), tokens).sum() / tokens
        spread = drops.std() * np.sqrt(1 / 400)
        assert drops.mean() == pytest.approx(expected, abs=4 * spread + 1e-5)
        digits = 10 ** (np.floor(np.log10(known)) - 1) / 2 if known else 5e-6
        assert expected == pytest.approx(known, abs=4 * spread + max(digits, 0.03 * known))


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), experts=st.integers(2, 12), data=st.data())
def test_a_token_takes_k_experts(seed: int, experts: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, experts))
    popularity = np.random.default_rng(seed).dirichlet(np.ones(experts))
    taken = inclusion(popularity, k)
    assert taken.sum() == pytest.approx(k)
    assert (taken <= 1 + 1e-6).all()
    assert (np.diff(taken[np.argsort(popularity)]) >= -1e-9).all()
    np.testing.assert_allclose(inclusion(np.ones(experts), k), k / experts)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), experts=st.integers(3, 10))
def test_two_choices_have_the_known_closed_form(seed: int, experts: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.full(experts, 2.0))
    odds = p / (1 - p)
    np.testing.assert_allclose(inclusion(p, 2), p * (1 + odds.sum() - odds), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_drawn_loads_have_the_expected_means(k: int) -> None:
    rng = np.random.default_rng(k)
    p, tokens = rng.dirichlet(np.full(8, 2.0)), 50
    loads = draw_loads(rng, p, tokens, k, 4_000)
    assert (loads.sum(axis=1) == tokens * k).all()
    taken = inclusion(p, k)
    error = 4 * loads.std(axis=0) / np.sqrt(4_000)
    assert (np.abs(loads.mean(axis=0) - tokens * taken) < error).all()
    assert (loads > 0).sum(axis=1).mean() == pytest.approx(
        expected_touched(taken, tokens), rel=0.01
    )
    squares = expected_of_load(np.arange(tokens + 1.0) ** 2, taken, tokens)
    np.testing.assert_allclose((loads**2).mean(axis=0), squares, rtol=0.1)


@settings(max_examples=30)
@given(experts=st.integers(1, 64), tokens=st.integers(1, 300), data=st.data())
def test_a_fair_router_touches_what_lowering_says(
    experts: int, tokens: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, experts))
    want = expected_experts(experts, k, tokens)
    assert expected_touched(np.full(experts, k / experts), tokens) == pytest.approx(float(want))


def test_groups_choose_apart() -> None:
    loads = draw_loads(np.random.default_rng(0), np.ones(6), 10, 1, 20, groups=3)
    assert (loads.reshape(20, 3, 2).sum(axis=2) == 10).all()


def test_the_concentration_of_drawn_popularity_is_found_again() -> None:
    rng = np.random.default_rng(0)
    popularity = draw_popularity(rng, np.ones(16), 50.0, 2_000)
    loads = draw_loads(rng, popularity, 200, 1, 2_000)
    assert fit_concentration(loads) == pytest.approx(50.0, rel=0.1)
    fixed = draw_loads(rng, draw_popularity(rng, np.ones(16), np.inf, 2_000), 200, 1, 2_000)
    assert fit_concentration(fixed) > 1_000


def test_second_choices_are_kept_by_their_weight() -> None:
    rng = np.random.default_rng(0)
    gate = rng.uniform(0, 0.5, 100_000)
    drawn = rng.random(gate.size) < np.minimum(1, 2 * gate)
    assert kept_second(gate) == pytest.approx(drawn.mean(), abs=0.01)
    assert kept_second([0.5, 0.25]) == 0.75


def test_experts_that_choose_leave_tokens_out() -> None:
    """Independent experts that take C of T tokens each, drawn."""
    rng = np.random.default_rng(0)
    tokens, experts, slots, draws = 32, 8, 4, 3_000
    best = np.argsort(rng.random((draws, experts, tokens)), axis=2)[:, :, :slots]
    counts = np.zeros((draws, tokens), dtype=int)
    np.add.at(counts, (np.arange(draws)[:, None, None], best), 1)
    law = choices_per_token(tokens, experts, slots)
    drawn = np.bincount(counts.ravel(), minlength=experts + 1) / counts.size
    np.testing.assert_allclose(drawn, law, atol=0.01)
    assert law @ np.arange(experts + 1) == pytest.approx(experts * slots / tokens)


def test_frequent_words_overload_random_buckets_more_than_balanced_ones() -> None:
    frequency = zipf(5_000)
    balanced, chance = (
        hash_popularity(frequency, bucket, 16)
        for bucket in (balanced_table(frequency, 16), hashed_expert(np.arange(5_000), 16, salt=1))
    )
    assert balanced.sum() == pytest.approx(1)
    assert balanced.max() < chance.max()
    assert balanced.max() == pytest.approx(max(frequency[0], 1 / 16), rel=0.01)


def test_loads_of_a_trace_are_sums_over_its_batches() -> None:
    tokens = np.arange(24).reshape(3, 2, 4)
    loads = trace_loads(tokens, np.array([[0, 2], [1, -1]]))
    np.testing.assert_array_equal(loads, [tokens[0] + tokens[2], tokens[1]])
