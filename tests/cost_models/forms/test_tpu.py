"""Systolic cycles against a simulator, and what the on-chip memory of a TPU changes."""

from __future__ import annotations

import csv
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.device import Device
from cost_models.forms import tpu
from search_spaces.ops import OpTable

from ..shared_data import DATA, needs_data

MakeOps = Callable[..., OpTable]
MakeDevice = Callable[..., Device]
SIZES = st.integers(1, 3000)


@needs_data
def test_systolic_cycles_equal_those_of_scale_sim_on_every_row() -> None:
    path = DATA / "tpu/scalesim-systolic/scalesim_ws_gemm.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = ("m", "k", "n", "array_rows", "total_cycles")
    m, k, n, side, cycles = (np.array([int(row[c]) for row in rows]) for c in columns)
    assert len(rows) > 200
    np.testing.assert_array_equal(tpu.systolic_cycles(m, k, n, side), cycles)


def cycles_one_part_after_another(m: int, k: int, n: int, side: int) -> int:
    """Load side rows of weights, push m rows in, wait until the last leaves; count from zero."""
    total = 0
    for _ in range(0, n, side):
        for _ in range(0, k, side):
            total += side + (m + 2 * side - 2)
    return total - 1


@given(m=SIZES, k=SIZES, n=SIZES, side=st.sampled_from([8, 16, 128, 256]))
def test_systolic_cycles_are_those_of_parts_in_a_row(m: int, k: int, n: int, side: int) -> None:
    assert tpu.systolic_cycles(m, k, n, side) == cycles_one_part_after_another(m, k, n, side)


@given(m=SIZES, k=SIZES, n=SIZES, side=st.sampled_from([8, 128]))
def test_loading_weights_during_the_pass_before_never_costs_more(
    m: int, k: int, n: int, side: int
) -> None:
    plain = tpu.systolic_cycles(m, k, n, side)
    hidden = tpu.systolic_cycles(m, k, n, side, overlapped=True)
    assert np.ceil(n / side) * np.ceil(k / side) * m <= hidden <= plain + 1


def stationary(make_device: MakeDevice, **more: float) -> Device:
    """A device bound by memory, with 2 MB of which half may hold operands."""
    facts = {
        "cache__on_chip": 2e6,
        "model__vmem_share": 0.5,
        "memory__bandwidth": 1e9,
        "model__bandwidth_share": 1.0,
        "peak__fp32": 1e18,
        "model__operator": 0.0,
        "model__block": 100.0,
    }
    return make_device("tpu", **(facts | more))


def seconds(ops: OpTable, device: Device, **more: float) -> np.ndarray:
    return tpu.operator_time_s(ops, device, **more)


def test_operands_cross_the_memory_once_while_one_of_them_fits_on_chip(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    ops = make_ops(m=400, k=500, n=4000)  # 0.8 MB beside 8 MB of weights
    assert seconds(ops, stationary(make_device)) == pytest.approx(
        (ops.weight_bytes + ops.activation_bytes) / 1e9
    )


def test_operands_are_streamed_in_tiles_where_neither_fits_on_chip(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    ops = make_ops(m=1000, k=500, n=4000)  # 2 MB beside 8 MB
    streamed = 2 * 4 * 1000 * 500 * 4000 / 100  # operands, tiles of 100 x 100
    assert seconds(ops, stationary(make_device)) == pytest.approx(
        (streamed + 4 * 1000 * 4000) / 1e9
    )
    two_chips = stationary(make_device, cache__on_chip=4e6)
    assert seconds(ops, two_chips)[0] < seconds(ops, stationary(make_device))[0] / 3


def test_higher_precision_of_float32_takes_its_passes(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    ops = make_ops(m=4096, k=4096, n=4096)
    base = {"memory__bandwidth": 1e18, "model__operator": 0.0, "compute__array": 8.0}
    one, six = (
        seconds(ops, make_device("tpu", model__fp32_passes=float(p), **base))[0] for p in (1, 6)
    )
    assert six / one == pytest.approx(6, rel=1e-3)


def test_a_type_without_a_rate_of_its_own_runs_at_that_of_bf16(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    without = make_device("tpu", peak__fp32=1e12, peak__bf16=1e12)
    twice = make_device("tpu", peak__fp32=1e12, peak__bf16=1e12, peak__int8=2e12)
    wide, narrow = (
        make_ops(m=4096, k=512, n=512, dtype="bf16"),
        make_ops(m=4096, k=512, n=512, dtype="int8"),
    )
    assert seconds(narrow, without)[0] == pytest.approx(seconds(wide, without)[0], rel=1e-3)
    share = without.parameter("efficiency") / without.parameter("efficiency_int8")
    assert seconds(narrow, twice)[0] / seconds(wide, twice)[0] == pytest.approx(
        share / 2, rel=0.01
    )
