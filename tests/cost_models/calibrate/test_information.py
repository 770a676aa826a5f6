"""Which row to measure next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_models.calibrate.information import choose, greedy, told_by
from cost_models.calibrate.posterior import (
    Prior,
    default_prior,
    fit_rows,
    predict_rows,
    prior_only,
)
from cost_models.device import Device, load_device
from search_spaces.errors import InputError

from .synthetic import matmuls, measured_on, table

NAMES = ("launch_half", "efficiency_half", "bandwidth_share_half")


@pytest.fixture
def gpu() -> Device:
    return load_device("nvidia-a100-80g-sxm")


def test_the_first_row_is_the_one_that_lowers_the_variance_most() -> None:
    covariance = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.5], [0.0, 0.5, 1.0]])
    assert greedy(covariance, 1).tolist() == [1]
    assert sorted(greedy(covariance, 3).tolist()) == [0, 1, 2]


def test_rows_that_tell_the_same_are_not_taken_twice(gpu: Device) -> None:
    ops = matmuls(np.repeat([1, 4096], [50, 50]), 4096, 4096)
    pool = table(ops, np.ones(100), gpu.name)
    chosen = choose([pool], gpu, prior_only(gpu, default_prior(gpu, NAMES)), 4)
    assert set(ops.m[chosen][:2]) == {1, 4096}
    assert len(set(chosen)) == 4


def test_a_parameter_that_is_unsure_is_measured_first(gpu: Device) -> None:
    pool = table(matmuls([1, 8192], [64, 8192], [64, 8192]), [1.0, 1.0], gpu.name)
    for name, row in (("launch_half", 0), ("efficiency_half", 1)):
        prior = Prior(
            value={n: gpu.parameter(n) for n in ("launch_half", "efficiency_half")},
            log_sd={"launch_half": 0.01, "efficiency_half": 0.01} | {name: 1.0},
        )
        assert choose([pool], gpu, prior_only(gpu, prior), 1)[0] == row


def test_seconds_of_the_pool_are_not_looked_at(gpu: Device) -> None:
    rows = measured_on(gpu, {}, np.random.default_rng(1))
    other = replace(rows, seconds=rows.seconds[::-1].copy())
    before = prior_only(gpu)
    assert choose([rows], gpu, before, 8).tolist() == choose([other], gpu, before, 8).tolist()


def test_a_plan_that_goes_on_asks_for_what_one_longer_plan_would(gpu: Device) -> None:
    rows = measured_on(gpu, {}, np.random.default_rng(3), rows=60)
    before = prior_only(gpu, default_prior(gpu, NAMES))
    order = choose([rows], gpu, before, 6)
    left = np.setdiff1d(np.arange(len(rows)), order[:3])
    known = [rows.take(order[:3])]
    assert (
        left[choose([rows.take(left)], gpu, before, 3, known=known)].tolist() == order[3:].tolist()
    )
    afresh = choose([rows.take(left)], gpu, before, 3)
    assert left[afresh].tolist() != order[3:].tolist()


def test_ten_chosen_rows_predict_better_than_ten_random_ones(gpu: Device) -> None:
    truth = {"launch_half": 1.2e-5, "efficiency_half": 0.5, "bandwidth_share_half": 0.45}
    rng = np.random.default_rng(2)
    rows = measured_on(gpu, truth, rng, rows=400, noise=0.05)
    exact = predict_rows([rows], fit_rows([rows], gpu, names=NAMES).on(gpu))

    def error(those: np.ndarray) -> float:
        found = fit_rows([rows.take(those)], gpu, names=NAMES)
        return float(np.mean(np.abs(predict_rows([rows], found.on(gpu)) / exact - 1)))

    ours = error(choose([rows], gpu, prior_only(gpu, default_prior(gpu, NAMES)), 10))
    random = [error(rng.permutation(400)[:10]) for _ in range(15)]
    assert ours < np.median(random)


def test_too_few_rows_are_refused_with_what_each_parameter_has(gpu: Device) -> None:
    posterior = prior_only(gpu, default_prior(gpu, NAMES))
    large = table(matmuls([8192] * 5, 8192, 8192), np.ones(5), gpu.name)
    one_small = table(
        matmuls([8192, 8192, 8192, 1], [8192] * 3 + [64], [8192] * 3 + [64]), np.ones(4), gpu.name
    )
    told, lacking = told_by([large], gpu, posterior)
    assert told
    assert not lacking
    told, lacking = told_by([one_small], gpu, posterior)
    assert lacking["launch_half"] == 1
    with pytest.raises(InputError, match=r"each parameter needs 3 .*there are 1 for launch_half"):
        told_by([one_small.take(np.array([3]))], gpu, posterior)
