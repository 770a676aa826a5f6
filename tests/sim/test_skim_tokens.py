from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.sim.skim_tokens import ShareLaw, count_law, executed_tokens, expected_padded
from search_spaces.errors import InputError
from search_spaces.vocabulary import LAYOUTS

MEAN = np.array([1.0, 0.7, 0.4, 0.1])


def a_law(spread: float = 0.2, with_length: float = 0.0) -> ShareLaw:
    return ShareLaw(mean=MEAN, spread=np.full(4, spread), with_length=with_length)


@pytest.mark.parametrize("with_length", [0.0, 0.6])
@pytest.mark.parametrize("spread", [0.0, 0.15, 1.0])
def test_drawn_tokens_have_the_expected_moments(spread: float, with_length: float) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 40_000)
    law = a_law(spread, with_length)
    drawn = law.draw(rng, lengths)
    want = law.moments(lengths)
    np.testing.assert_allclose(drawn.mean(axis=0), want[:, 0], rtol=0.02)
    np.testing.assert_allclose((drawn**2.0).mean(axis=0), want[:, 1], rtol=0.04)
    assert (want[:, 1] >= want[:, 0] ** 2).all()
    assert (np.diff(drawn, axis=1) <= 0).all()
    assert (drawn >= 1).all()
    assert (drawn[:, 0] == lengths).all()


def test_moments_of_short_texts_are_those_of_a_binomial() -> None:
    """Two tokens that are kept or not, and one that always is: 1, 2, 2 or 3."""
    law = ShareLaw(mean=np.array([0.5]), spread=np.zeros(1))
    np.testing.assert_allclose(law.moments(np.array([3])), [[2.0, (1 + 4 + 4 + 9) / 4]])
    both = ShareLaw(mean=np.array([0.5]), spread=np.ones(1))  # all or none
    np.testing.assert_allclose(both.moments(np.array([3])), [[2.0, (1 + 9) / 2]])


def test_what_is_drawn_is_fitted_again() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(20, 200, 20_000)
    law = a_law(0.1, 0.5)
    found = ShareLaw.fit(law.draw(rng, lengths), lengths, protected=1)
    np.testing.assert_allclose(found.moments(lengths), law.moments(lengths), rtol=0.03)
    assert found.with_length == pytest.approx(0.5, abs=0.06)
    np.testing.assert_allclose(found.spread[1:3], 0.1, atol=0.03)


def test_texts_that_all_keep_everything_are_fitted_without_spread() -> None:
    lengths = np.array([3, 9, 4])
    found = ShareLaw.fit(np.repeat(lengths[:, None], 2, axis=1), lengths, protected=1)
    np.testing.assert_allclose(found.moments(lengths)[:, 0], lengths.mean())
    assert found.spread.tolist() == [0, 0]


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 5))
def test_padding_runs_at_least_what_is_packed(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 30, (11, 3))
    batches = np.pad(np.arange(11), (0, -11 % batch), constant_values=-1).reshape(-1, batch)
    padded, packed, single = (executed_tokens(tokens, batches, name) for name in LAYOUTS)
    assert (padded >= packed).all()
    np.testing.assert_array_equal(packed, single)
    np.testing.assert_allclose(packed[:, 0], tokens.mean(axis=0))
    by_hand = np.mean([tokens[r[r >= 0]].max(axis=0) for r in batches for _ in r[r >= 0]], axis=0)
    np.testing.assert_allclose(padded[:, 0], by_hand)


def test_samples_that_have_left_pad_no_one() -> None:
    tokens = np.array([[9, 9], [4, 2], [5, 3]])
    alive = np.array([[True, False], [True, True], [True, False]])
    batches = np.array([[0, 1], [2, -1]])
    padded = executed_tokens(tokens, batches, "pad_to_max", alive)
    np.testing.assert_allclose(padded, [[23 / 3, (81 + 81 + 25) / 3], [2, 4]])
    packed = executed_tokens(tokens, batches, "packed", alive)
    np.testing.assert_allclose(packed[:, 0], [6, 2])


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_largest_of_a_batch_is_expected_as_over_all_batches(batch: int) -> None:
    tokens = np.random.default_rng(0).integers(1, 9, (6, 2))
    rows = np.stack(np.meshgrid(*[np.arange(6)] * batch, indexing="ij"), -1).reshape(-1, batch)
    got = expected_padded(count_law(tokens, 8), batch)
    np.testing.assert_allclose(got, executed_tokens(tokens, rows, "pad_to_max"))


def test_another_layout_is_refused() -> None:
    with pytest.raises(InputError, match="pad_to_max, packed, per_sequence"):
        executed_tokens(np.ones((1, 1), dtype=int), np.zeros((1, 1), dtype=int), "ragged")
