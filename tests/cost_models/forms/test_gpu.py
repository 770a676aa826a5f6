"""The GPU form against closed answers and against what no faster part may break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.calibrate.beliefs import default_prior
from cost_models.device import Device, load_device, with_parameters
from cost_models.energy import literature
from cost_models.forms.gpu import operator_terms, operator_time_s
from cost_models.forms.gpu_matmul import experts_parts
from cost_models.forms.gpu_parameters import FP32_OP_J, PARAMETERS
from cost_models.forms.gpu_terms import Facts, missed, soft_max, waves
from cost_models.learned import sizes
from search_spaces.ops import OpTable

MakeOps = Callable[..., OpTable]
FORMATS = ("fp32", "bf16", "fp8")


@pytest.fixture(scope="module")
def h100() -> Device:
    return load_device("nvidia-h100-80g-sxm")


def test_waves_are_whole_ones_shares_or_a_mean_of_both() -> None:
    x = np.array([0.25, 1.0, 1.25, 3.0])
    assert waves(x, 1.0) == pytest.approx([1, 1, 2, 3])
    assert waves(x, 0.0) == pytest.approx([1, 1, 1.25, 3])
    assert waves(x, 0.5) == pytest.approx([1, 1, 1.625, 3])


@given(a=st.floats(1e-9, 1.0), b=st.floats(1e-9, 1.0))
def test_the_soft_maximum_lies_between_the_maximum_and_the_sum(a: float, b: float) -> None:
    found = float(soft_max(np.array([a]), np.array([b]))[0])
    assert max(a, b) * (1 - 1e-9) <= found <= (a + b) * (1 + 1e-9)


def test_half_of_the_bytes_are_missed_where_the_set_is_what_the_cache_keeps() -> None:
    facts = Facts(peak=1.0, bandwidth=1.0, units=1.0, l2_bytes=100.0)
    found = missed(facts, 0.5, np.array([50.0, 1e12, 1e-3]))
    assert found == pytest.approx([0.5, 1.0, 0.0], abs=1e-6)
    assert missed(facts, 0.5, None) == 1.0


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 4096),
    k=st.integers(16, 8192),
    n=st.integers(16, 8192),
    dtype=st.sampled_from(FORMATS),
)
def test_no_matmul_beats_the_datasheet_or_its_launch(m: int, k: int, n: int, dtype: str) -> None:
    device = load_device("nvidia-h100-80g-sxm")
    ops = _matmul(m, k, n, dtype)
    seconds = operator_time_s(ops, device)[0]
    peak = device.peak_flops_per_s[int(ops.dtype[0])]
    moved = ops.weight_bytes[0] + ops.activation_bytes[0]
    assert seconds >= 2.0 * m * k * n / peak
    assert seconds >= moved / device.bandwidth_bytes_per_s


def _matmul(m: object, k: object, n: object, dtype: str) -> OpTable:
    from search_spaces.candidate import DTYPE_BYTES, DTYPES
    from search_spaces.ops import KIND

    ms, ks, ns = (np.atleast_1d(a).astype(np.int64) for a in np.broadcast_arrays(m, k, n))
    width, flops = float(DTYPE_BYTES[dtype]), 2.0 * ms * ks * ns
    return OpTable(
        candidate=np.arange(ms.size),
        layer=np.zeros(ms.size, dtype=np.int64),
        kind=np.full(ms.size, KIND["matmul"]),
        count=np.ones(ms.size),
        m=ms,
        k=ks,
        n=ns,
        batch=np.ones(ms.size, dtype=np.int64),
        dtype=np.full(ms.size, DTYPES.index(dtype)),
        weight_bytes=width * ks * ns,
        activation_bytes=width * ms * (ks + ns),
        flops=flops,
        executed_flops=flops,
    )


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_large_matmul_runs_near_the_share_of_the_peak_that_is_calibrated(
    h100: Device, dtype: str
) -> None:
    ops = _matmul(16384, 16384, 16384, dtype)
    family = {"fp32": "fp32", "bf16": "half", "fp8": "fp8"}[dtype]
    share = ops.flops[0] / operator_time_s(ops, h100)[0] / h100.peak_flops_per_s[int(ops.dtype[0])]
    calibrated = h100.parameter(f"efficiency_{family}")
    assert 0.6 * calibrated < share <= calibrated


def test_skipping_tokens_saves_little_below_a_few_hundred_and_half_above(h100: Device) -> None:
    m = np.array([16, 192, 4096, 8192])
    few, some, many, twice = operator_time_s(_matmul(m, 8192, 8192, "bf16"), h100)
    assert some < 1.35 * few  # weights are read anyway
    assert twice == pytest.approx(2 * many, rel=0.1)


def test_a_matmul_of_few_tiles_is_split_along_its_inner_dimension(h100: Device) -> None:
    ops = _matmul(64, 32768, 128, "bf16")
    dear = with_parameters(h100, {"split": 1.0})  # a second: never worth it
    assert operator_time_s(ops, h100)[0] < 0.5 * operator_time_s(ops, dear)[0]


def test_small_sets_that_are_used_again_are_quicker_and_never_slower(h100: Device) -> None:
    kept = with_parameters(h100, {"resident": 0.5})
    ops = _matmul(np.array([1, 16, 128]), 1024, 1024, "bf16")
    cold = operator_time_s(ops, kept)
    warm = operator_time_s(ops, kept, working_set_bytes=1e6)
    assert (warm <= cold).all()
    assert warm[0] < cold[0]
    assert operator_time_s(ops, kept, working_set_bytes=np.inf) == pytest.approx(cold)


def test_values_stay_in_cache_where_a_loop_goes_through_several_weights(h100: Device) -> None:
    rotated = with_parameters(h100, {"resident": 0.01, "resident_values": 0.9})
    for m, n, saved in ((8192, 32, True), (32, 8192, False)):
        ops = _matmul(m, 1024, n, "bf16")
        cold = operator_time_s(ops, rotated)[0]
        again = operator_time_s(ops, rotated, working_set_bytes=17e6)[0]
        assert (again < 0.9 * cold) == saved


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(list(range(6))))
def test_an_operator_costs_the_same_whatever_stands_beside_it(order: list[int]) -> None:
    device = load_device("nvidia-a40")
    ops = _matmul(np.array([1, 7, 64, 500, 1000, 3000]), 1000, 3000, "bf16")
    at = np.array(order)
    assert operator_time_s(ops.take(at), device) == pytest.approx(operator_time_s(ops, device)[at])


def test_terms_add_up_to_the_time_and_none_is_negative(h100: Device) -> None:
    ops = _matmul(np.array([1, 100, 5000]), np.array([64, 4096, 4096]), 4096, "bf16")
    terms = operator_terms(ops, h100)
    parts = np.array([getattr(terms, name) for name in type(terms).__slots__])
    assert (parts >= 0).all()
    assert parts.sum(0) == pytest.approx(operator_time_s(ops, h100))


def test_a_grouped_matmul_launches_once_however_many_experts_share_it(make_ops: MakeOps) -> None:
    facts = Facts(peak=1e15, bandwidth=3e12, units=132.0, l2_bytes=5e7)
    read = {p.name: p.default for p in PARAMETERS}.__getitem__
    ops = make_ops("grouped_matmul", m=64, k=4096, n=4096, dtype="bf16", count=[1.0, 8.0])
    parts = experts_parts(ops, facts, read, "half", 2.0)
    assert parts.fixed * ops.count == pytest.approx([read("experts_launch_half")] * 2)


@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
@pytest.mark.parametrize("asked", [0.3, 1.0, 12.5, 64.0, 300.0])
def test_experts_cost_the_same_as_calls_and_as_the_batch_of_one_call(
    h100: Device, make_ops: MakeOps, dtype: str, asked: float
) -> None:
    experts = 7
    m = max(1, round(asked))
    one = make_ops("grouped_matmul", m=m, k=4096, n=1536, dtype=dtype, count=experts)
    one = replace(one, executed_flops=one.executed_flops * asked / m)
    whole = ("weight_bytes", "activation_bytes", "flops", "executed_flops")
    together = replace(
        one,
        count=one.count / experts,
        batch=one.batch * experts,
        **{name: getattr(one, name) * experts for name in whole},
    )
    apart = operator_time_s(one, h100) * one.count
    assert operator_time_s(together, h100) == pytest.approx(apart)
    np.testing.assert_allclose(sizes(together), sizes(one))


def test_a_board_whose_power_the_arithmetic_would_exceed_sustains_less_of_its_fp32_peak() -> None:
    name, plain = "efficiency_fp32", {p.name: p.default for p in PARAMETERS}["efficiency_fp32"]
    assert literature()["op_fp32"][1] == FP32_OP_J
    small, large = load_device("nvidia-l4"), load_device("nvidia-v100-32g-pcie")
    allowed = 0.8 * 72 / FP32_OP_J / small.peak_flops_per_s[0]  # a card of 72 W
    assert 0.95 * allowed < small.parameter(name) < allowed
    assert (
        small.parameter("efficiency_half")
        == {p.name: p.default for p in PARAMETERS}["efficiency_half"]
    )
    assert large.parameter(name) == pytest.approx(plain, rel=0.02)  # 250 W for half of that rate
    unknown = replace(
        small, quantities={k: q for k, q in small.quantities.items() if k != "power.max"}
    )
    assert unknown.parameter(name) == plain
    assert with_parameters(small, {name: 0.6}).parameter(name) == 0.6
    assert default_prior(small).value[name] == small.parameter(name)
    shown = {row["key"]: row["value"] for row in small.to_rows()}
    assert shown[f"model.{name}"] == small.parameter(name)


def test_every_parameter_starts_inside_its_limits() -> None:
    for p in PARAMETERS:
        assert p.default > 0
        assert p.ceiling is None or p.default <= p.ceiling, p.name
