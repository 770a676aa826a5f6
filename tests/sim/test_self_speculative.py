from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.sim.self_speculative import (
    acceptance_from_speed_up,
    cycle_s,
    draw_generations,
    draw_yields,
    shares_of_a_step,
)
from search_spaces.activity import tokens_per_cycle
from search_spaces.errors import InputError


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("acceptance", [0.3, 0.8])
def test_cycles_yield_as_many_tokens_as_expected(acceptance: float, batch: int) -> None:
    drawn = draw_yields(np.random.default_rng(0), acceptance, 4, batch, 60_000)
    assert drawn.mean() == pytest.approx(tokens_per_cycle(acceptance, 4, batch), rel=0.01)
    assert drawn.min() >= 1
    assert drawn.max() <= 5


def test_long_generations_need_their_length_over_the_mean_yield() -> None:
    cycles = draw_generations(np.random.default_rng(1), 0.7, 3, 1, 300, 400)
    assert cycles.mean() == pytest.approx(300 / tokens_per_cycle(0.7, 3), rel=0.01)


def test_every_draft_accepted_yields_one_more_than_drafted() -> None:
    assert tokens_per_cycle(1.0, 6) == 7
    assert tokens_per_cycle(0.0, 6) == 1
    np.testing.assert_allclose(tokens_per_cycle([1.0, 0.5], 2), [3, 1.75])


@pytest.mark.parametrize(
    ("exit_layer", "num_layers", "speed_up", "low", "high"),
    [(4, 32, 1.297, 0.50, 0.57), (8, 40, 1.746, 0.76, 0.79)],
)
def test_published_speed_ups_need_plausible_acceptance(
    exit_layer: int, num_layers: int, speed_up: float, low: float, high: float
) -> None:
    """LayerSkip's 7B and 13B models as Hugging Face ran them, 4 to 6 drafted tokens.

    Weights are shared, not the cache, in that implementation.
    """
    draft, verify = shares_of_a_step(exit_layer, num_layers, cache_shared=False)
    found = [acceptance_from_speed_up(speed_up, float(draft), float(verify), d) for d in (4, 5, 6)]
    assert low - 0.01 <= min(found)
    assert max(found) <= high + 0.01


@given(
    a=st.floats(0.01, 0.99), d=st.integers(1, 8), layer=st.integers(1, 31), shared=st.booleans()
)
def test_the_acceptance_behind_a_speed_up_is_found_again(
    a: float, d: int, layer: int, shared: bool
) -> None:
    draft, verify = shares_of_a_step(layer, 32, cache_shared=shared)
    speed_up = float(tokens_per_cycle(a, d) / cycle_s(draft, verify, d))
    got = acceptance_from_speed_up(speed_up, float(draft), float(verify), d)
    assert got == pytest.approx(a, abs=1e-6)


def test_an_impossible_speed_up_is_refused_with_what_is_possible() -> None:
    with pytest.raises(InputError, match=r"0\.400 to 2\.000"):
        acceptance_from_speed_up(3.0, 0.375, 1.0, 4)
