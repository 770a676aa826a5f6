from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dynsearch.sim.expert_load import draw_loads, expected_of_load, inclusion
from dynsearch.sim.expert_step import (
    ExpertCost,
    by_rank,
    capacity,
    dropped_share,
    even_placement,
    executed_rows,
    expert_s,
    layer_s,
    served,
)
from search_spaces.errors import InputError

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


@settings(max_examples=25)
@given(loads=LOADS, tile=st.integers(1, 16))
def test_rows_are_rounded_up_to_tiles(loads: np.ndarray, tile: int) -> None:
    rows = executed_rows(loads, "grouped", tile=tile)
    assert (rows % tile == 0).all()
    assert ((rows >= loads) & (rows < loads + tile)).all()
    assert (rows == executed_rows(loads, "block_sparse", tile=tile)).all()


@settings(max_examples=25)
@given(loads=LOADS)
def test_padded_and_masked_kernels_run_the_same_rows_whatever_the_load(loads: np.ndarray) -> None:
    assert (executed_rows(loads, "padded", slots=7) == 7).all()
    masked = executed_rows(loads, "dense_mask", tokens=loads.sum(axis=1, keepdims=True))
    assert (masked.sum(axis=1) == 6 * loads.sum(axis=1)).all()


@pytest.mark.parametrize("kernel", ["padded", "dense_mask", "gemm"])
def test_a_kernel_without_its_number_is_refused(kernel: str) -> None:
    with pytest.raises(InputError, match="padded needs slots"):
        executed_rows(np.ones((1, 2), dtype=int), kernel)


def test_capacity_rounds_up_and_no_further() -> None:
    assert capacity(64, 64, 1, [1.0, 1.25, 2.0]).tolist() == [1, 2, 2]
    assert capacity(400, 8, 1, 1.1) == 55  # 1.1 * 400 / 8 is a little above 55 in binary
    assert capacity(100, 8, 2, 1.0) == 25


def test_one_rank_takes_the_expected_time_of_its_experts() -> None:
    rng = np.random.default_rng(0)
    p, tokens = rng.dirichlet(np.full(8, 3.0)), 40
    cost = ExpertCost(weight_s=1.0, row_s=0.2, launch_s=0.1, layer_s=0.5)
    tiles = executed_rows(np.arange(tokens + 1), "grouped", tile=4)
    expected = expected_of_load(expert_s(tiles, cost), inclusion(p, 2), tokens).sum() + 0.5
    loads = executed_rows(draw_loads(rng, p, tokens, 2, 4_000), "grouped", tile=4)
    drawn = layer_s(loads, cost, even_placement(8, 1))
    assert drawn.mean() == pytest.approx(expected, rel=0.005)


@settings(max_examples=25)
@given(loads=LOADS, ranks=st.integers(1, 6))
def test_more_ranks_are_as_slow_as_their_busiest(loads: np.ndarray, ranks: int) -> None:
    cost = ExpertCost(weight_s=0.0, row_s=1.0)
    place = even_placement(6, ranks)
    sums = by_rank(loads, place)
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
