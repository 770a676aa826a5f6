from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dynsearch.sim.expert_load import draw_loads, expected_of_load, inclusion
from dynsearch.sim.expert_step import ExpertCost, dropped_share, expert_s, layer_s, served
from search_spaces.routers.kernels import device_sums, even_placement, executed_rows

LOADS = arrays(np.int64, (3, 6), elements=st.integers(0, 40))


@settings(max_examples=25)
@given(loads=LOADS, slots=st.integers(0, 30))
def test_rerouted_tokens_fill_every_free_slot_and_no_more(loads: np.ndarray, slots: int) -> None:
    plain, filled = served(loads, slots), served(loads, slots, reroute=True)
    assert (plain == np.minimum(loads, slots)).all()
    assert (filled >= plain).all()
    assert (filled <= slots).all()
    assert (filled.sum(axis=1) == np.minimum(loads.sum(axis=1), 6 * slots)).all()
    assert (dropped_share(loads, slots, reroute=True) <= dropped_share(loads, slots)).all()


def test_one_rank_takes_the_expected_time_of_its_experts() -> None:
    rng = np.random.default_rng(0)
    p, tokens = rng.dirichlet(np.full(8, 3.0)), 40
    cost = ExpertCost(weight_s=1.0, row_s=0.2, launch_s=0.1, layer_s=0.5)
    tiles = executed_rows("grouped", np.arange(tokens + 1), tile=4)
    expected = expected_of_load(expert_s(tiles, cost), inclusion(p, 2), tokens).sum() + 0.5
    loads = executed_rows("grouped", draw_loads(rng, p, tokens, 2, 4_000), tile=4)
    drawn = layer_s(loads, cost, even_placement(8, 1))
    assert drawn.mean() == pytest.approx(expected, rel=0.005)


@settings(max_examples=25)
@given(loads=LOADS, ranks=st.integers(1, 6))
def test_more_ranks_are_as_slow_as_their_busiest(loads: np.ndarray, ranks: int) -> None:
    cost = ExpertCost(weight_s=0.0, row_s=1.0)
    place = even_placement(6, ranks)
    sums = device_sums(loads, place, ranks)
    assert sums.shape == (3, ranks)
    np.testing.assert_array_equal(sums.sum(axis=1), loads.sum(axis=1))
    np.testing.assert_allclose(layer_s(loads, cost, place), sums.max(axis=1))


def test_exchanges_are_paid_twice_by_the_rows_that_travel_to_the_busiest_rank() -> None:
    loads, cost = (
        np.array([[6, 2]]),
        ExpertCost(weight_s=0.0, row_s=0.0, exchange_row_s=1.0, exchange_s=0.25),
    )
    assert layer_s(loads, cost, even_placement(2, 2))[0] == 2 * (0.25 + 3)
    assert layer_s(loads, cost, even_placement(2, 1))[0] == 0
