"""Prices: counts, intervals, energy, origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cost_models.device import Device
from cost_models.price import (
    OUTSIDE,
    Z90,
    call_overhead_s,
    error_s,
    is_outside,
    miss_share,
    network_log_sd,
    outside_warnings,
    price_ops,
)
from cost_models.profile import Profile
from search_spaces.ops import OpTable

MakeOps = Callable[..., OpTable]
MakeDevice = Callable[..., Device]
PROFILE = Profile(
    name="p",
    base="box",
    date="2025-01-01",
    tool="test",
    driver="",
    runtime="torch",
    threads=1,
    n=1,
    mape=0.1,
    machine="",
    shared_log_sd=0.03,
    residual_log_sd={"matmul": 0.04},
    covered={"m": (1, 512), "k": (64, 2048), "n": (64, 2048)},
    model={},
)


def test_a_count_multiplies_time_energy_and_bounds(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = make_device(power__idle=2.0, power__max=10.0)
    one, three = (price_ops(make_ops(count=c), device) for c in (1.0, 3.0))
    for name in ("time_s", "low_s", "high_s", "energy_j"):
        assert getattr(three, name) == pytest.approx(3 * getattr(one, name))


def test_missing_power_is_never_zero_energy(make_ops: MakeOps, make_device: MakeDevice) -> None:
    assert np.isnan(price_ops(make_ops(), make_device()).energy_j).all()
    assert np.isnan(price_ops(make_ops(), make_device(power__max=9.0)).energy_j).all()


def test_energy_lies_between_idle_and_full_power(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = make_device(power__idle=2.0, power__max=10.0)
    cost = price_ops(make_ops(m=[1, 64, 4096]), device)
    power = cost.energy_j / cost.time_s
    assert (power > 2.0).all()
    assert (power <= 10.0 * (1 + 1e-12)).all()


def test_an_interval_joins_shared_and_residual_error(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = replace(make_device(), profile=PROFILE)
    cost = price_ops(make_ops(m=8), device)
    assert cost.shared_log_sd == 0.03
    assert cost.residual_log_sd == pytest.approx(0.04)
    assert np.log(cost.high_s / cost.time_s) == pytest.approx(Z90 * 0.05)
    assert cost.low_s * cost.high_s == pytest.approx(cost.time_s**2)
    assert cost.origin == "profile:p"


def test_shapes_outside_the_measured_range_are_less_certain(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = replace(make_device(), profile=PROFILE)
    cost = price_ops(make_ops(m=[512, 513], k=[64, 64]), device)
    assert cost.residual_log_sd == pytest.approx([0.04, 0.04 * OUTSIDE])
    assert cost.high_s[1] / cost.time_s[1] > cost.high_s[0] / cost.time_s[0]
    assert np.isfinite(cost.time_s).all()


def test_a_datasheet_alone_is_less_certain_than_a_profile(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    bare, fitted = make_device(), replace(make_device(), profile=PROFILE)
    wide, narrow = price_ops(make_ops(), bare), price_ops(make_ops(), fitted)
    assert wide.high_s[0] > narrow.high_s[0]
    assert wide.origin == "datasheet"


@pytest.mark.parametrize("kind", ["gpu"])
def test_forms_without_a_cache_or_call_cost_say_so(make_device: MakeDevice, kind: str) -> None:
    device = make_device(kind)
    assert (miss_share(device, np.array([1.0, 2.0])) == 1).all()
    assert miss_share(device, None) == 1
    assert call_overhead_s(device) == 0.0


def test_the_fixed_time_of_a_call_follows_the_dtype(make_device: MakeDevice) -> None:
    device = make_device(model__call_fp32=1e-4, model__call_bf16=3e-4)
    assert call_overhead_s(device) == 1e-4
    assert call_overhead_s(device, "bf16") == call_overhead_s(device, "fp16") == 3e-4
    assert call_overhead_s(device, "int8") == 1e-4  # only its matrices are int8
    assert call_overhead_s(make_device("tpu")) == pytest.approx(125e-6)


def test_errors_of_distinct_shapes_average_out_and_those_of_one_shape_do_not(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = replace(make_device(), profile=PROFILE)
    ops = make_ops(m=[8, 8, 16, 32], k=64)
    cost = price_ops(ops, device)
    t, r = cost.time_s, cost.residual_log_sd[0]
    found = error_s(cost, ops, np.array([0, 0, 1, 1]), 2)
    assert found[0] == pytest.approx(r * (t[0] + t[1]))
    assert found[1] == pytest.approx(r * np.hypot(t[2], t[3]))


def test_what_measured_networks_were_off_by_holds_what_their_operators_are_off_by(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    """Operators alone keep their own interval; those that nothing measured is like widen both."""
    device = replace(make_device(), profile=replace(PROFILE, network_log_sd=0.02))
    assert network_log_sd(device) == 0.02
    assert network_log_sd(replace(device, profile=PROFILE)) == PROFILE.shared_log_sd
    ops = make_ops(m=[8, 16, 513], k=64)
    cost = price_ops(ops, device)
    inside, across = error_s(cost, ops, np.array([0, 0, 1]), 2)
    assert inside == 0
    assert across == pytest.approx(0.04 * OUTSIDE * cost.time_s[2])
    alone = price_ops(ops, replace(device, profile=PROFILE))
    assert cost.high_s == pytest.approx(alone.high_s)


def test_an_error_of_a_kind_moves_its_shapes_together(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    profile = replace(PROFILE, residual_log_sd={"matmul": 0.0}, kind_log_sd={"matmul": 0.1})
    device = replace(make_device(), profile=profile)
    ops = make_ops(m=[8, 16, 32], k=64)
    cost = price_ops(ops, device)
    found = error_s(cost, ops, np.zeros(3, dtype=np.int64), 1)
    assert found[0] == pytest.approx(0.1 * cost.time_s.sum())
    assert cost.own_log_sd == pytest.approx(0.1)


def test_an_unsure_parameter_moves_what_depends_on_it_and_nothing_else(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    profile = replace(
        PROFILE,
        residual_log_sd={"matmul": 0.0, "host_sync": 0.0},
        uncertain=("node", "sync"),
        log_covariance=((0.04, 0.0), (0.0, 0.01)),
        model={"node": 1.0, "sync": 1.0},
    )
    device = replace(make_device("edge", model__node=1.0, model__sync=1.0), profile=profile)
    assert price_ops(make_ops(m=1, k=1, n=1), device).own_log_sd == pytest.approx(0.2, rel=0.01)
    assert price_ops(make_ops("host_sync"), device).own_log_sd == pytest.approx(0.1, rel=0.01)
    ops = make_ops(m=[1, 2], k=1, n=1)
    cost = price_ops(ops, device)
    joint = error_s(cost, ops, np.zeros(2, dtype=np.int64), 1)
    assert joint[0] == pytest.approx(0.2 * cost.time_s.sum(), rel=0.01)


def test_each_kind_has_a_measured_range_of_its_own(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    profile = replace(PROFILE, covered={"attention_prefill.n": (16.0, 512.0), "m": (1.0, 64.0)})
    device = replace(make_device(), profile=profile)
    assert is_outside(make_ops("attention_prefill", n=[8, 512, 513], m=1024), device).tolist() == [
        True,
        False,
        True,
    ]
    assert is_outside(make_ops(m=[64, 65]), device).tolist() == [False, True]
    assert not is_outside(make_ops(m=10**6), make_device()).any()


def test_shapes_outside_the_measured_range_are_told_by_kind_and_profile(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    bare, fitted = make_device(), replace(make_device(), profile=PROFILE)
    (line,) = outside_warnings(make_ops(m=[512, 513, 9999], k=[64, 64, 64]), fitted)
    assert line.startswith(
        "profile p: some matmul operators lie outside the measured shapes (m from 1 to 512"
    )
    assert outside_warnings(make_ops(m=512, k=64), fitted) == ()
    assert outside_warnings(make_ops(m=10**6), bare) == ()


def test_whoever_prices_shapes_outside_the_measured_range_is_warned_once(
    make_ops: MakeOps, make_device: MakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    device = replace(make_device(), profile=replace(PROFILE, name="warned of once"))
    for m in (64, 513, 9999):
        price_ops(make_ops(m=m, k=64), device)
    (record,) = [r for r in caplog.records if "warned of once" in r.getMessage()]
    assert record.levelname == "WARNING"
    assert "their interval is 2 times as wide" in record.getMessage()


def test_a_format_that_a_profile_did_not_measure_has_the_errors_of_the_form(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    bare = make_device()
    fitted = replace(bare, profile=replace(PROFILE, formats=("bf16",)))
    seen, other = (make_ops(m=64, k=64, dtype=name) for name in ("bf16", "fp32"))
    assert price_ops(seen, fitted).own_log_sd < price_ops(seen, bare).own_log_sd
    assert price_ops(other, fitted).own_log_sd > price_ops(other, bare).own_log_sd
    (line,) = outside_warnings(other, fitted)
    assert line.startswith("profile p: fp32 was not measured, bf16 was;")
    assert outside_warnings(seen, fitted) == ()
