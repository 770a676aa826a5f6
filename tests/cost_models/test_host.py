"""Hosts of eager runtimes: a forward pass takes the longer of host and device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cost_models.calibrate.posterior import fit_rows, predict_rows
from cost_models.device import Device, load_device, with_parameters
from cost_models.forms.gpu import host_time_s
from cost_models.measured import Measured
from cost_models.price import call_overhead_s, operator_time_s, price_ops, price_terms
from cost_models.profile import Profile
from search_spaces.ops import OpTable

from .calibrate.synthetic import matmuls, table

MakeOps = Callable[..., OpTable]
NAME = "nvidia-v100-32g-pcie"
PROFILE = Profile(
    name=f"{NAME}--torch-eager",
    base=NAME,
    date="2025-01-01",
    tool="test",
    driver="",
    runtime="torch-eager",
    threads=1,
    n=100,
    mape=0.05,
    machine="",
    shared_log_sd=0.05,
    residual_log_sd={"matmul": 0.1},
    covered={},
    model={},
    formats=("fp32",),
    uncertain=("dispatch",),
    log_covariance=((0.01,),),
)
DISPATCH, CALL = 1e-4, 3e-4


@pytest.fixture(scope="module")
def bare() -> Device:
    return with_parameters(load_device(NAME), {"dispatch": DISPATCH, "host_call": CALL})


def networks(sizes: list[int], device: Device, **changes: object) -> Measured:
    """Rows of as many square matmuls of a size as there are sizes, a geometry each."""
    ops = matmuls(np.array(sizes), np.array(sizes), np.array(sizes), "fp32")
    ops.count[:] = 50.0
    told = {"runtime": "torch-eager", "family": "end_to_end"} | changes
    blank = table(ops, np.ones(len(sizes)), device.name, **told)
    blank = replace(blank, calls=np.full(len(sizes), 2.0))
    return replace(blank, seconds=predict_rows([blank], device))


def test_a_bare_kernel_takes_the_host_a_tenth_of_a_module_and_a_wait_nothing(
    make_ops: MakeOps, bare: Device
) -> None:
    kinds = ("matmul", "elementwise", "gather", "host_sync", "collective")
    ops = OpTable.concat([make_ops(kind) for kind in kinds])
    assert host_time_s(ops, bare) == pytest.approx([DISPATCH, 0.1 * DISPATCH, DISPATCH, 0.0, 0.0])


def test_an_eager_network_takes_the_longer_of_host_and_device_and_a_loop_its_kernels(
    bare: Device,
) -> None:
    sizes = [64, 8192]
    device_s = 50 * operator_time_s(matmuls(*[np.array(sizes)] * 3, "fp32"), bare)
    assert device_s[0] < 50 * DISPATCH < device_s[1]
    found = networks(sizes, bare).seconds
    assert found == pytest.approx([50 * DISPATCH + 2 * CALL, device_s[1] + 2 * CALL])
    for changes in ({"runtime": "vllm"}, {"family": "matmul"}):
        assert networks(sizes, bare, **changes).seconds == pytest.approx(device_s)


def test_networks_that_wait_for_the_host_tell_its_time_and_leave_launches_alone(
    bare: Device,
) -> None:
    rows = networks([16, 32, 64, 96, 128, 160], with_parameters(bare, {"dispatch": 1.5e-4}))
    started = with_parameters(load_device(NAME), {"host_call": CALL})
    found = fit_rows([rows], started, names=("launch_fp32", "dispatch"))
    prior = load_device(NAME).parameter("launch_fp32")
    assert found.model["dispatch"] == pytest.approx(1.5e-4, rel=0.02)
    assert found.model["launch_fp32"] == pytest.approx(prior)
    assert found.log_sd["dispatch"] < 0.1 < found.log_sd["launch_fp32"]


def test_networks_that_keep_the_device_busy_say_nothing_of_the_host(bare: Device) -> None:
    rows = networks([4096, 5120, 6144, 8192], bare)
    device = load_device(NAME)
    found = fit_rows([rows], device, names=("efficiency_fp32", "dispatch"))
    assert found.model["dispatch"] == pytest.approx(device.parameter("dispatch"))
    assert found.log_sd["dispatch"] == pytest.approx(0.7)


def test_prices_of_an_eager_profile_wait_for_the_host_layer_by_layer(
    make_ops: MakeOps, bare: Device
) -> None:
    ops = make_ops(m=[16, 32, 4096, 16], k=[64, 64, 4096, 64], n=[64, 64, 4096, 64], count=3.0)
    ops.candidate[:] = 0
    ops.layer[:] = [0, 0, 1, 1]
    plain, eager = price_ops(ops, bare), price_ops(ops, replace(bare, profile=PROFILE))
    assert eager.time_s[:2].sum() == pytest.approx(2 * 3 * DISPATCH)
    assert eager.time_s[0] / eager.time_s[1] == pytest.approx(plain.time_s[0] / plain.time_s[1])
    assert eager.time_s[2:] == pytest.approx(plain.time_s[2:])  # the device hides the host
    graph = replace(bare, profile=replace(PROFILE, runtime="vllm"))
    assert price_ops(ops, graph).time_s == pytest.approx(plain.time_s)
    laid = replace(bare, profile=PROFILE)
    assert price_terms(ops, laid).total == pytest.approx(price_ops(ops, laid).time_s)
    assert [call_overhead_s(d) for d in (bare, laid, graph)] == [0.0, CALL, 0.0]


def test_a_host_that_an_eager_profile_did_not_measure_is_as_unsure_as_its_prior(
    make_ops: MakeOps, bare: Device
) -> None:
    ops = make_ops(m=16, k=64, n=64)
    silent = replace(PROFILE, uncertain=(), log_covariance=())
    known = price_ops(ops, replace(bare, profile=PROFILE))
    unknown = price_ops(ops, replace(bare, profile=silent))
    spread = [float(np.hypot.reduce(p.parameter_log_sd[0])) for p in (known, unknown)]
    assert spread == pytest.approx([0.1, 0.7], rel=0.01)
    graph = replace(bare, profile=replace(silent, runtime="vllm"))
    assert price_ops(ops, graph).parameter_log_sd.shape == (1, 0)
