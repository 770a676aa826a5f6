from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from dynsearch.errors import InputError
from dynsearch.sim.batched_exits import deepest_cdf, depth_law, oracle_exit
from dynsearch.sim.exit_model import ExitModel, likeness
from dynsearch.sim.exit_model_fit import (
    SNLI_CARRY,
    SNLI_SHARED,
    both_below,
    fit_confidence,
    fit_exit_model,
    latent_correlation,
)

from ..cost_models.shared_data import data_file, needs_data

LAYERS, DRAWS = 4, 40_000


def a_model(seed: int, **changes: float) -> ExitModel:
    rng = np.random.default_rng(seed)
    choices = {"shared": rng.uniform(0, 0.8), "sharpness": rng.uniform(0.5, 0.95), **changes}
    return ExitModel(
        accuracy=np.sort(rng.uniform(0.3, 0.95, LAYERS)),
        carry=rng.uniform(0.2, 0.97, LAYERS - 1),
        temperature=rng.uniform(0.6, 1.5),
        **choices,
    )


def some_thresholds(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(
        rng.random((count, LAYERS)) < 0.7, rng.uniform(0.3, 0.99, (count, LAYERS)), np.inf
    )


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_policies_do_on_drawn_samples_what_is_expected(seed: int) -> None:
    model, thresholds = a_model(seed), some_thresholds(seed, 3)
    correct, confidence = model.draw(np.random.default_rng(seed), DRAWS)
    want = model.expected(thresholds)
    error = 4.5 * np.sqrt(0.25 / DRAWS)
    assert np.abs(correct.mean(axis=0) - model.accuracy).max() < error
    for p, row in enumerate(thresholds):
        leaves = confidence >= row
        leaves[:, -1] = True
        where = leaves.argmax(axis=1)
        right = correct[np.arange(DRAWS), where]
        exits = np.bincount(where, minlength=LAYERS) / DRAWS
        assert np.abs(exits - want.exits[p]).max() < error
        assert abs(right.mean() - want.accuracy[p]) < error
    oracle = np.bincount(oracle_exit(correct), minlength=LAYERS) / DRAWS
    assert np.abs(oracle - model.expected_oracle().exits[0]).max() < error


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), more=st.floats(0, 0.3))
def test_higher_thresholds_leave_later_and_all_leave(seed: int, more: float) -> None:
    model, thresholds = a_model(seed), some_thresholds(seed, 4)
    low, high = model.expected(thresholds), model.expected(thresholds + more)
    np.testing.assert_allclose(low.exits.sum(axis=1), 1)
    assert (np.cumsum(high.exits - low.exits, axis=1) <= 1e-9).all()
    assert ((low.right >= 0) & (low.right <= low.exits + 1e-12)).all()


def test_without_exits_the_last_ones_accuracy_is_exact_whatever_else_holds() -> None:
    for seed in range(5):
        model = a_model(seed)
        got = model.expected(np.full((1, LAYERS), np.inf))
        assert got.accuracy[0] == pytest.approx(model.accuracy[-1], abs=2e-4)


def test_stated_confidence_is_the_chance_of_being_right_at_temperature_one() -> None:
    model = ExitModel(accuracy=np.array([0.5, 0.8]), shared=0.3, carry=np.array([0.5]))
    correct, confidence = model.draw(np.random.default_rng(0), 200_000)
    for layer in range(2):
        for low in (0.1, 0.5, 0.8):
            here = (confidence[:, layer] >= low) & (confidence[:, layer] < low + 0.1)
            found = correct[here, layer].mean() - confidence[here, layer].mean()
            assert abs(found) < 4 * np.sqrt(0.25 / here.sum())


def test_likeness_and_confidence_are_found_again() -> None:
    model = a_model(3, shared=0.3, sharpness=0.8)
    correct, confidence = model.draw(np.random.default_rng(0), DRAWS)
    found = fit_exit_model(correct.mean(axis=0), correct)
    between = likeness(found.shared, found.carry) - likeness(model.shared, model.carry)
    assert np.abs(between).max() < 0.03
    thresholds = np.array([[t, t, t, np.inf] for t in (0.6, 0.8, 0.95)])
    leaves = confidence[None] >= thresholds[:, None]
    leaves[..., -1] = True
    where = leaves.argmax(axis=-1)
    again = fit_confidence(found, thresholds, depth_law(where, LAYERS)[..., 0])
    assert again.sharpness == pytest.approx(0.8, abs=0.03)
    assert again.temperature == pytest.approx(model.temperature, rel=0.1)


@pytest.mark.parametrize("correlation", [-0.7, 0.0, 0.4, 0.99])
def test_two_normals_are_below_as_often_as_scipy_says(correlation: float) -> None:
    covariance = [[1, correlation], [correlation, 1]]
    for h, k in ((0.3, -0.5), (1.2, 1.0)):
        want = multivariate_normal.cdf([h, k], cov=covariance)
        got = both_below(np.array(h), np.array(k), np.array(correlation))
        assert got == pytest.approx(want, abs=1e-5)


def test_impossible_accuracies_are_refused() -> None:
    with pytest.raises(InputError, match="both excluded"):
        fit_exit_model([0.5, 1.0])


@pytest.fixture(scope="module")
def snli() -> np.ndarray:
    with data_file("traces/snli-exits/exit_correctness.csv")[0].open() as file:
        return np.array(list(csv.reader(file))[1:], dtype=np.int64)[:, 1:].astype(bool)


@needs_data
def test_the_likeness_that_is_assumed_is_that_of_snli(snli: np.ndarray) -> None:
    found = fit_exit_model(snli.mean(axis=0), snli)
    assert found.shared == pytest.approx(SNLI_SHARED, abs=1e-3)
    np.testing.assert_allclose(found.carry, SNLI_CARRY, atol=1e-3)
    assumed = fit_exit_model(snli.mean(axis=0))
    np.testing.assert_allclose(assumed.carry, SNLI_CARRY)


@needs_data
def test_from_accuracy_by_exit_alone_waiting_batches_cost_nearly_what_the_trace_says(
    snli: np.ndarray,
) -> None:
    """Within 3 %; independent exits would leave far too early."""
    model = fit_exit_model(snli.mean(axis=0))
    law = depth_law(oracle_exit(snli), 12)[:, 0]
    apart = ExitModel(accuracy=model.accuracy, shared=0.0, carry=np.full(11, 1e-6))
    for batch in (1, 4, 8, 16, 32, 64):
        known, expected, independent = (
            12 - deepest_cdf(exits, batch)[:-1].sum()
            for exits in (law, model.expected_oracle().exits[0], apart.expected_oracle().exits[0])
        )
        assert expected == pytest.approx(known, rel=0.03)
        assert independent < 0.8 * known


@needs_data
def test_drawn_samples_change_their_minds_as_often_as_those_of_snli(snli: np.ndarray) -> None:
    drawn, _ = fit_exit_model(snli.mean(axis=0)).draw(np.random.default_rng(0), DRAWS)
    for share in (
        lambda right: (right[:, :-1] & ~right[:, 1:]).any(axis=1).mean(),  # right, then wrong
        lambda right: (right.any(axis=1) & ~right[:, -1]).mean(),  # right somewhere, wrong at last
    ):
        assert share(drawn) == pytest.approx(share(snli), abs=0.04)
    np.testing.assert_allclose(latent_correlation(drawn), latent_correlation(snli), atol=0.22)
