"""Fits of any form to measured rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cost_models.calibrate.beliefs import Posterior, Prior
from cost_models.calibrate.posterior import (
    deal,
    default_prior,
    fit_few,
    fit_rows,
    left_out,
    predict_rows,
    predict_with_spread,
    prior_only,
    sibling_prior,
    thinned,
)
from cost_models.device import Device, load_device, with_parameters
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError

from .synthetic import matmuls, measured_on, table

TRUTH = {
    "gpu": {"launch_half": 7e-6, "efficiency_half": 0.7, "bandwidth_share_half": 0.6},
    "tpu": {"operator": 2e-6, "efficiency": 0.6, "bandwidth_share": 0.7},
    "edge": {"node": 2e-5, "efficiency": 0.3, "bandwidth_share": 0.5},
    "cpu": {"pack_bf16": 5e10, "efficiency_matmul_bf16": 0.6, "stream_share": 0.3},
}
NAMES = {
    "gpu": "nvidia-a100-80g-sxm",
    "tpu": "google-tpu-v5e",
    "edge": "nvidia-jetson-agx-orin-64g",
    "cpu": "generic-x86-avx2",
}


@pytest.fixture
def gpu() -> Device:
    return load_device(NAMES["gpu"])


@pytest.mark.parametrize("kind", list(TRUTH))
def test_the_parameters_that_made_the_rows_are_found_again(kind: str) -> None:
    device, truth = load_device(NAMES[kind]), TRUTH[kind]
    rows = measured_on(device, truth, np.random.default_rng(1), noise=0.01)
    found = fit_rows([rows], device, names=truth)
    for name, value in truth.items():
        assert found.model[name] == pytest.approx(value, rel=0.05), name
    assert found.n == 300


def test_the_covariance_says_how_far_parameters_stray(gpu: Device) -> None:
    truth = TRUTH["gpu"]
    z = []
    for seed in range(12):
        rows = measured_on(gpu, truth, np.random.default_rng(seed), rows=60, noise=0.08)
        found = fit_rows([rows], gpu, names=truth)
        z += [np.log(found.model[n] / truth[n]) / found.log_sd[n] for n in truth]
    assert 0.6 < np.std(z) < 1.6


def test_a_tenth_of_wild_rows_moves_nothing_much(gpu: Device) -> None:
    rows = measured_on(gpu, TRUTH["gpu"], np.random.default_rng(2))
    wild = rows.seconds * np.where(np.arange(len(rows)) % 10 == 0, 8.0, 1.0)
    found = fit_rows([replace(rows, seconds=wild)], gpu, names=TRUTH["gpu"])
    for name, value in TRUTH["gpu"].items():
        assert found.model[name] == pytest.approx(value, rel=0.08), name


def test_two_spoilt_networks_of_twenty_move_less_than_two_operators_that_a_form_misses(
    gpu: Device,
) -> None:
    rows = measured_on(gpu, TRUTH["gpu"], np.random.default_rng(2), rows=20, noise=0.01)
    spoilt = replace(rows, seconds=rows.seconds * np.where(np.arange(20) % 10 == 0, 1.5, 1.0))
    moved = {
        family: abs(
            np.log(predict_rows([rows], fit_rows([table], gpu).on(gpu)) / rows.seconds)
        ).mean()
        for family in ("end_to_end", "matmul")
        for table in [replace(spoilt, family=family)]
    }
    assert moved["end_to_end"] < 0.6 * moved["matmul"]


def test_a_ceiling_holds_whatever_the_rows_say(gpu: Device) -> None:
    rows = measured_on(
        gpu, {"efficiency_half": 1.0, "bandwidth_share_half": 1.0}, np.random.default_rng(3)
    )
    found = fit_rows([replace(rows, seconds=rows.seconds / 2)], gpu)
    assert found.model["efficiency_half"] <= 1.0
    assert found.model["bandwidth_share_half"] <= 1.0


def test_what_no_row_tells_stays_at_its_prior(gpu: Device) -> None:
    rows = measured_on(gpu, TRUTH["gpu"], np.random.default_rng(4))
    found = fit_rows([rows], gpu)
    prior = default_prior(gpu)
    assert found.model["sync"] == pytest.approx(prior.value["sync"])
    assert found.log_sd["sync"] == pytest.approx(prior.log_sd["sync"])
    assert found.log_sd["launch_half"] < prior.log_sd["launch_half"] / 5


def test_few_rows_lean_on_the_prior_and_many_do_not(gpu: Device) -> None:
    truth = {"efficiency_half": 0.5}
    rows = measured_on(gpu, truth, np.random.default_rng(5), rows=400, noise=0.1)
    narrow = Prior(value={"efficiency_half": 0.8}, log_sd={"efficiency_half": 0.03})
    few = fit_rows([rows.take(np.arange(2))], gpu, prior=narrow)
    many = fit_rows([rows], gpu, prior=narrow)
    assert few.model["efficiency_half"] > 0.7
    assert many.model["efficiency_half"] < 0.6


def test_rows_of_one_group_that_err_together_count_as_few(gpu: Device) -> None:
    rng = np.random.default_rng(6)
    rows = measured_on(gpu, TRUTH["gpu"], rng, noise=0.02)
    number = np.arange(len(rows)) % 10
    shift = np.exp(0.2 * rng.standard_normal(10))[number]
    grouped = replace(rows, seconds=rows.seconds * shift, group=number.astype(str))
    apart = replace(grouped, group=np.arange(len(rows)).astype(str))
    together = fit_rows([grouped], gpu, names=TRUTH["gpu"])
    alone = fit_rows([apart], gpu, names=TRUTH["gpu"])
    assert together.design_effect > 10
    assert alone.design_effect == 1
    assert together.log_sd["launch_half"] > 2 * alone.log_sd["launch_half"]


def test_calls_are_paid_and_equal_operators_add_up() -> None:
    tpu = load_device(NAMES["tpu"])
    ops = matmuls([64, 64, 256], 512, 512)
    ops.candidate[:] = [0, 0, 1]
    ops.count[:] = [1, 2, 1]
    rows = replace(
        table(ops, [1.0, 1.0], tpu.name), calls=np.array([0.0, 3.0]), group=np.array(["a", "b"])
    )
    single = predict_rows([table(matmuls([64, 256], 512, 512), [1.0, 1.0], tpu.name)], tpu)
    dispatch = tpu.parameter("dispatch")
    assert_allclose(predict_rows([rows], tpu), [3 * single[0], single[1] + 3 * dispatch])


def test_a_loop_that_reads_the_same_buffers_finds_them_in_the_cache() -> None:
    cpu = load_device(NAMES["cpu"])
    cold = table(matmuls(1, 512, 512, "fp32"), [1.0], cpu.name)
    loop = replace(cold, weight_is_cached=True)
    both = predict_rows([cold, loop], cpu)
    assert both[1] < 0.8 * both[0]
    large = table(matmuls(1, 8192, 8192, "fp32"), [1.0], cpu.name)
    both = predict_rows([large, replace(large, weight_is_cached=True)], cpu)
    assert both[1] == pytest.approx(both[0], rel=0.01)


def test_left_out_errors_are_those_of_rows_that_the_fit_did_not_see(gpu: Device) -> None:
    rng = np.random.default_rng(7)
    rows = measured_on(gpu, TRUTH["gpu"], rng, noise=0.02)
    odd = rows.group == rows.group[0]
    bent = replace(rows, seconds=rows.seconds * np.where(odd, 1.5, 1.0))
    found = left_out([bent], gpu, names=TRUTH["gpu"])
    assert_allclose(found.log_error[odd], np.log(1.5), atol=0.08)
    assert np.std(found.log_error[~odd]) < 0.03
    assert len(set(found.fold[odd])) == 1


def test_a_single_group_cannot_be_left_out(gpu: Device) -> None:
    rows = measured_on(gpu, {}, np.random.default_rng(8), rows=5)
    with pytest.raises(InputError, match="nothing can be left out of one group"):
        left_out([replace(rows, group=np.full(5, "same"))], gpu)


def test_folds_never_split_a_group_and_are_about_equal() -> None:
    group = np.random.default_rng(9).integers(0, 40, 1000)
    fold = deal(group, 5)
    assert all(len(set(fold[group == g])) == 1 for g in set(group))
    assert np.bincount(fold).min() > 150


def test_a_sibling_moves_the_prior_half_way_and_many_move_it_there(gpu: Device) -> None:
    own = Prior(
        value={"efficiency_half": 0.8, "sync": 1e-5}, log_sd={"efficiency_half": 0.2, "sync": 0.5}
    )

    def sibling(value: float, sd: float, expected: float = 0.8) -> Posterior:
        return Posterior(
            kind="gpu",
            names=("efficiency_half",),
            expected=np.array([expected]),
            values=np.array([value]),
            covariance=np.array([[sd**2]]),
            n=1,
            sigma=0.1,
            design_effect=1.0,
        )

    one = sibling_prior(own, [sibling(0.4, 1e-6)])
    assert one.value["efficiency_half"] == pytest.approx(np.sqrt(0.8 * 0.4), rel=1e-3)
    many = sibling_prior(own, [sibling(0.4, 1e-6)] * 20)
    assert many.value["efficiency_half"] == pytest.approx(0.41, abs=0.02)
    assert many.log_sd["efficiency_half"] < own.log_sd["efficiency_half"]
    unsure = sibling_prior(own, [sibling(0.4, 3.0)])
    assert unsure.value["efficiency_half"] > 0.79
    assert one.value["sync"] == own.value["sync"]
    untold = sibling_prior(own, [sibling(0.4, 1e-6), *[sibling(0.8, 0.2)] * 9])
    assert untold.value == pytest.approx(one.value)
    assert untold.log_sd == pytest.approx(one.log_sd)
    slower = sibling_prior(own, [sibling(0.1, 1e-6, expected=0.2)])
    assert slower.value == pytest.approx(one.value)  # half of what was expected of it, too


def test_a_slow_core_is_expected_to_dispatch_slowly_unless_its_file_says_otherwise() -> None:
    def context(name: str) -> float:
        return default_prior(load_device(name)).value["context_fp32"]

    pi, xeon = load_device("raspberry-pi-4"), load_device("intel-xeon-e5-2640-v4")
    rates = [d.peak_flops_per_s[DTYPES.index("fp32")] / d.units for d in (pi, xeon)]
    assert context(pi.name) / context(xeon.name) == pytest.approx(rates[1] / rates[0])
    stated = with_parameters(pi, {"context_fp32": 2e-6})
    assert default_prior(stated).value["context_fp32"] == pytest.approx(2e-6)


def test_the_spread_of_a_prediction_follows_its_parameters(gpu: Device) -> None:
    rows = table(matmuls([1, 8192], 8192, 8192), [1.0, 1.0], gpu.name)
    prior = Prior(value={"bandwidth_share_half": 0.8}, log_sd={"bandwidth_share_half": 0.1})
    posterior = prior_only(gpu, prior)
    seconds, spread = predict_with_spread([rows], gpu, posterior)
    share = 1 - gpu.parameter("launch_half") / seconds[0]
    # memory and arithmetic overlap by a soft maximum: neither share is quite 1 or 0
    # and 64 draws reach less far into the tails than all do
    assert_allclose(spread, [0.1 * share, 0.0], rtol=6e-2, atol=2e-6)
    assert_allclose(seconds, predict_rows([rows], with_parameters(gpu, posterior.model)))


def test_a_name_that_is_no_parameter_is_refused_with_those_that_are(gpu: Device) -> None:
    rows = measured_on(gpu, {}, np.random.default_rng(10), rows=5)
    with pytest.raises(InputError, match=r"names = eficiency.*bandwidth_share"):
        fit_rows([rows], gpu, names=("eficiency",))
    with pytest.raises(InputError, match="nothing to fit"):
        fit_rows([], gpu)


def test_rows_that_err_together_move_a_parameter_less(gpu: Device) -> None:
    rng = np.random.default_rng(11)
    rows = measured_on(gpu, {"efficiency_half": 0.5}, rng, noise=0.05)
    number = np.arange(len(rows)) % 4
    shift = np.exp(np.array([-0.3, 0.3, 0.2, -0.2]))[number]
    grouped = replace(rows, seconds=rows.seconds * shift, group=number.astype(str))
    apart = replace(grouped, group=np.arange(len(rows)).astype(str))
    prior = Prior(value={"efficiency_half": 0.9}, log_sd={"efficiency_half": 0.05})
    together, alone = (
        fit_rows([r], gpu, prior=prior).model["efficiency_half"] for r in (grouped, apart)
    )
    assert together > 1.1 * alone


def test_what_only_one_group_tells_is_unknown_when_it_is_left_out(gpu: Device) -> None:
    small = table(matmuls(1, 64, [64] * 20), np.full(20, 5e-5), gpu.name)
    large = measured_on(gpu, {"launch_half": 5e-5}, np.random.default_rng(12), rows=60, noise=0.01)
    big = large.take(large.seconds > 2e-3)
    found = left_out([small, big], gpu, names=("launch_half", "efficiency_half"))
    assert np.all(found.log_error[:20] > 0.5)


def test_a_group_that_two_tables_share_is_left_out_of_both_together() -> None:
    rng = np.random.default_rng(13)
    group = np.concatenate([rng.integers(0, 20, 300), rng.integers(10, 30, 300)])
    fold = deal(group, 5, table=np.repeat([0, 1], 300))
    assert all(len(set(fold[group == g])) == 1 for g in range(30))
    for part in (slice(0, 300), slice(300, 600)):
        assert set(fold[part]) == set(range(5))


def test_thinning_keeps_small_tables_whole() -> None:
    place = np.repeat([0, 1, 2], [1000, 30, 600])
    kept = place[thinned(place, 400)]
    assert np.bincount(kept).tolist() == [185, 30, 185]
    assert thinned(place, 2000).size == 1630


def test_families_that_share_no_parameter_are_fitted_as_if_each_were_alone(gpu: Device) -> None:
    names = ("launch_half", "efficiency_half", "launch_fp32", "efficiency_fp32")
    half = measured_on(gpu, {"efficiency_half": 0.6}, np.random.default_rng(1), rows=60)
    ops = half.ops.take(np.arange(60))
    ops.dtype[:] = DTYPES.index("fp32")
    single = replace(half, ops=ops, seconds=half.seconds * 12)
    both = fit_rows([half, single], gpu, names=names)
    for part in (half, single):
        alone = fit_rows([part], gpu, names=names)
        for name in names:
            if alone.log_sd[name] < 0.9 * default_prior(gpu).log_sd[name]:
                assert both.model[name] == pytest.approx(alone.model[name], rel=1e-3), name
                assert both.log_sd[name] == pytest.approx(alone.log_sd[name], rel=1e-2), name


def test_errors_of_few_rows_are_those_of_fits_without_each(gpu: Device) -> None:
    rows = measured_on(gpu, TRUTH["gpu"], np.random.default_rng(5), rows=12, noise=0.1)
    prior = default_prior(gpu, TRUTH["gpu"])
    _, own = fit_few(rows, gpu, prior)
    error, spread = np.empty((2, 12))
    for i in range(12):
        kept = fit_rows([rows.take(np.arange(12) != i)], gpu, prior=prior)
        seconds, spread[i : i + 1] = predict_with_spread([rows.take(np.array([i]))], gpu, kept)
        error[i] = np.log(rows.seconds[i] / seconds[0])
    inside = np.log(
        rows.seconds / predict_rows([rows], fit_rows([rows], gpu, prior=prior).on(gpu))
    )
    assert np.abs(own.log_error - error).max() < 0.35 * np.abs(error - inside).max()
    assert_allclose(own.log_sd, spread, rtol=0.35)
    assert (np.abs(own.log_error) >= np.abs(inside)).all()


def test_few_rows_of_one_group_that_err_together_are_worth_fewer(gpu: Device) -> None:
    rows = measured_on(gpu, TRUTH["gpu"], np.random.default_rng(6), rows=20, noise=0.02)
    shared = np.repeat(0.3 * np.random.default_rng(7).standard_normal(4), 5)
    rows = replace(rows, seconds=rows.seconds * np.exp(shared))
    prior = default_prior(gpu, TRUTH["gpu"])
    alone = fit_few(replace(rows, group=np.arange(20).astype(str)), gpu, prior)[1]
    together = fit_few(replace(rows, group=np.repeat(list("abcd"), 5)), gpu, prior)[1]
    assert alone.count == 20
    assert together.count < 10


def test_what_is_believed_of_an_unmeasured_device_is_drawn_not_linearised() -> None:
    """Time = a + b with a far below b at the mean, and a known within a factor of e^1.5 only."""
    device = load_device(NAMES["cpu"])
    ops = matmuls(8, 256, 256, "fp32")
    rows = table(ops, np.ones(1), device.name)
    prior = Prior(value={"context_fp32": 3e-6}, log_sd={"context_fp32": 1.5})
    seconds, spread = predict_with_spread([rows], device, prior_only(device, prior))
    share = 3e-6 / seconds[0]
    normal = np.random.default_rng(8).standard_normal(200_000)
    exact = np.sqrt(np.mean(np.log1p(share * np.expm1(1.5 * normal)) ** 2))
    assert spread[0] == pytest.approx(exact, rel=0.2)
    assert spread[0] > 2 * share * 1.5  # what a slope says of it
