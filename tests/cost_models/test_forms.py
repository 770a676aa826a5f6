"""The forms against closed answers and against each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cost_models.device import Device
from cost_models.forms import FORM_NAMES, cpu, form_of
from cost_models.forms.tpu import padded_flops
from search_spaces.ops import KINDS, OpTable

MakeOps = Callable[..., OpTable]
MakeDevice = Callable[..., Device]
FIXTURES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def time_of(device: Device, ops: OpTable, **more: object) -> np.ndarray:
    return form_of(device.kind).operator_time_s(ops, device, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FORM_NAMES)
@FIXTURES
@given(
    name=st.sampled_from(KINDS),
    m=st.integers(1, 2000),
    k=st.integers(1, 2000),
    n=st.integers(1, 2000),
    batch=st.integers(1, 64),
    gain=st.floats(1.0, 20.0),
    fact=st.sampled_from(["peak__fp32", "memory__bandwidth"]),
)
def test_a_faster_device_is_never_slower(
    make_ops: MakeOps,
    make_device: MakeDevice,
    kind: str,
    name: str,
    m: int,
    k: int,
    n: int,
    batch: int,
    gain: float,
    fact: str,
) -> None:
    ops = make_ops(name, m=m, k=k, n=n, batch=batch)
    slow = make_device(kind, peak__fp32=1e11, memory__bandwidth=2e10)
    base = {"peak__fp32": 1e11, "memory__bandwidth": 2e10}
    fast = make_device(kind, **(base | {fact: base[fact] * gain}))
    assert time_of(fast, ops)[0] <= time_of(slow, ops)[0] * (1 + 1e-12)
    assert time_of(slow, ops)[0] > 0 or name in ("elementwise", "reduce")


@pytest.mark.parametrize(
    ("kind", "fixed"),
    [("gpu", "launch_fp32"), ("tpu", "operator"), ("edge", "node")],
)
def test_doubling_the_peak_halves_the_time_of_a_large_matmul(
    make_ops: MakeOps, make_device: MakeDevice, kind: str, fixed: str
) -> None:
    ops = make_ops(m=4096, k=4096, n=4096)
    one, two = make_device(kind, peak__fp32=1e11), make_device(kind, peak__fp32=2e11)
    start = one.parameter(fixed)
    assert (time_of(one, ops) - start) == pytest.approx(2 * (time_of(two, ops) - start))


def test_doubling_the_peak_halves_the_arithmetic_term_of_a_core(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    ops = make_ops(m=512, k=512, n=512)
    times = [time_of(make_device(peak__fp32=p), ops)[0] for p in (1e11, 2e11, 1e30)]
    assert times[0] - times[2] == pytest.approx(2 * (times[1] - times[2]))


def test_a_cold_matmul_costs_the_warm_one_plus_its_bytes_from_memory(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = make_device(model__stream_share=0.5)
    ops = make_ops(m=[1, 16, 256], k=384, n=1536)
    cold, warm = time_of(device, ops), time_of(device, ops, working_set_bytes=0.0)
    assert cold - warm == pytest.approx(384 * 1536 * 4 / (0.5 * 2e10))


def test_times_are_linear_in_the_share_of_missed_weights(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device, ops = make_device(cache__l3=2.0**24), make_ops(m=[1, 64])
    cold, warm = time_of(device, ops), time_of(device, ops, working_set_bytes=0.0)
    for working_set in (1e5, 1e6, 1e7, 1e8, np.inf):
        miss = cpu.miss_share(device, working_set)
        mixed = time_of(device, ops, working_set_bytes=working_set)
        assert mixed == pytest.approx(warm + miss * (cold - warm))
    shares = cpu.miss_share(device, np.array([0.0, 1e6, 1e7, 1e8, np.inf]))
    assert (np.diff(shares) > 0).all()
    assert (shares[0], shares[-1]) == (pytest.approx(0, abs=1e-9), 1.0)


def test_ramp_is_exact_at_its_knots_and_between_them_in_between(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    bent = make_device(model__ramp_16_fp32=0.5, peak__fp32=1e9)
    flat = make_device(peak__fp32=1e9)
    ops = make_ops(m=[8, 12, 16, 24, 32, 5000], k=1000, n=1000)
    extra = (time_of(bent, ops) - time_of(flat, ops)) / ops.executed_flops
    assert extra[[0, 4, 5]] == pytest.approx(0, abs=1e-20)
    assert extra[2] == pytest.approx(1 / (1e9 / 4 * 0.85))
    assert 0 < extra[1] < extra[2] > extra[3] > 0


def test_threads_divide_arithmetic_by_their_gain(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = make_device(model__contention=0.2, model__thread_start=0.0, peak__fp32=1e6)
    ops = make_ops(m=512)
    one, four = (time_of(device, ops, threads=t, working_set_bytes=0.0)[0] for t in (1, 4))
    assert one / four == pytest.approx(4 / (1 + 0.2 * 3), rel=1e-3)


def test_fewer_bytes_per_number_stream_faster(make_ops: MakeOps, make_device: MakeDevice) -> None:
    device = make_device(peak__bf16=1e11)
    narrow, wide = make_ops(m=1, dtype="bf16"), make_ops(m=1)
    cold = [time_of(device, ops)[0] for ops in (narrow, wide)]
    warm = [time_of(device, ops, working_set_bytes=0.0)[0] for ops in (narrow, wide)]
    assert cold[0] - warm[0] == pytest.approx((cold[1] - warm[1]) / 2)


def test_a_tile_is_paid_whole_and_a_wave_in_part(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = make_device(
        "gpu",
        peak__fp32=1e10,
        compute__units=4.0,
        memory__bandwidth=1e15,
        model__tile_power_fp32=0.0,
    )
    rows = np.arange(1, 400)
    times = time_of(device, make_ops(m=rows, k=1024, n=64))
    steps = np.flatnonzero(np.diff(times) > 0) + 1  # last row before each step
    assert (np.diff(times) >= -1e-15).all()
    assert set(steps % 32) == {0}  # the smallest tile has 32 rows
    assert len(np.unique(times[:32])) == 1


def test_a_last_wave_costs_its_weight(make_ops: MakeOps, make_device: MakeDevice) -> None:
    device = make_device(
        "gpu",
        peak__fp32=1e10,
        compute__units=2.0,
        memory__bandwidth=1e15,
        model__wave_weight_fp32=0.5,
        model__launch_fp32=0.0,
        model__tile_power_fp32=9.0,  # small tiles do not pay
    )
    times = time_of(device, make_ops(m=[128, 256, 384, 512], k=1024, n=128))
    assert times / times[0] == pytest.approx([1, 1, 0.5 * 2 + 0.5 * 1.5, 2])


def test_a_systolic_array_pads_rows_to_8_and_widths_to_its_side(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = make_device("tpu")
    ops = make_ops(m=[1, 8, 9], k=[128, 129, 1], n=[128, 128, 257])
    assert padded_flops(ops, device) == pytest.approx(
        [2 * 8 * 128 * 128, 2 * 8 * 256 * 128, 2 * 16 * 128 * 384]
    )


def test_every_decision_of_the_host_is_one_dispatch_on_a_tpu(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = make_device("tpu")
    assert time_of(device, make_ops("host_sync"))[0] == device.parameter("dispatch")


def test_weights_that_stay_on_chip_are_not_read_again(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = make_device(
        "tpu",
        cache__on_chip=2e6,
        memory__bandwidth=1e6,
        peak__fp32=1e15,
        model__vmem_share=0.5,
        model__bandwidth_share=0.95,
    )
    ops = make_ops(m=1)
    inside, outside = (time_of(device, ops, working_set_bytes=w)[0] for w in (1e6, 1.1e6))
    assert outside - inside == pytest.approx(256 * 256 * 4 / (1e6 * 0.95))


def test_edge_activations_spill_only_beyond_the_on_chip_memory(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    ops = make_ops("gather", m=1000, k=0, n=1000)  # 4 MB moved, no arithmetic
    base = {"memory__bandwidth": 1e9, "model__bandwidth_share": 1.0, "model__node": 0.0}
    assert time_of(make_device("edge", **base), ops)[0] == pytest.approx(4e-3)
    half = make_device("edge", **base, cache__on_chip=2e6)
    assert time_of(half, ops)[0] == pytest.approx(2e-3)
