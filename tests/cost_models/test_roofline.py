"""The datasheet roofline."""

from __future__ import annotations

import pytest

from cost_models.device import load_device
from cost_models.roofline import roofline_rows, roofline_s

from .calibrate.synthetic import matmuls, table


def test_large_matmuls_are_bound_by_arithmetic_and_single_rows_by_memory() -> None:
    gpu = load_device("nvidia-a100-80g-sxm")
    ops = matmuls([8192, 1], 8192, 8192, "bf16")
    large, small = roofline_s(ops, gpu)
    assert large == pytest.approx(2 * 8192**3 / gpu.get("peak.bf16"))
    moved = 2 * (8192 * 8192 + 2 * 8192)
    assert small == pytest.approx(moved / gpu.bandwidth_bytes_per_s)


def test_a_row_adds_up_its_operators_as_often_as_they_run() -> None:
    gpu = load_device("nvidia-a100-80g-sxm")
    ops = matmuls([64, 64], 512, 512)
    once = roofline_s(ops, gpu)[0]
    ops.candidate[:] = 0
    ops.count[:] = [1, 3]
    assert roofline_rows(table(ops, [1.0], gpu.name), gpu)[0] == pytest.approx(4 * once)
