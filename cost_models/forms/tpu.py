"""Tensor processors: whole systolic arrays, on-chip fusion, one host dispatch per call.

    t = max(padded FLOPs / (peak * efficiency), bytes / (bandwidth * bandwidth_share))
    padded FLOPs = 2 * ceil(m / 8) 8 * ceil(k / A) A * ceil(n / A) A      (A = array side)

The host pays `dispatch` once per call, not per operator: `price.call_overhead_s` adds it for the
first call, and every decision that the host takes (host_sync) ends a call and starts another.
Elementwise operators and reductions are fused into their neighbours: no time of their own beyond
the vector work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cost_models.forms import Parameter, Terms, roofline_terms
from search_spaces.ops import KIND

if TYPE_CHECKING:
    from cost_models.device import Device
    from search_spaces.ops import OpTable

F64 = NDArray[np.float64]

SHARED_LOG_SD = 0.4
RESIDUAL_LOG_SD = 0.35
ROW_PAD = 8  # rows of a tile in the sublanes

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("dispatch", "s", 115e-6, 0.3, "host time of one call"),
    Parameter("operator", "s", 0.5e-6, 0.7, "start of one fused operator on the chip"),
    Parameter("efficiency", "number", 0.85, 0.2, "share of the peak of padded shapes", 1.0),
    Parameter("bandwidth_share", "number", 0.95, 0.2, "share of the memory bandwidth", 1.0),
)


def operator_time_s(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> F64:
    """Seconds of one execution of every operator [R].

    Args:
        ops: R operators.
        device: Of kind "tpu".
        threads: Not used.
        working_set_bytes: Weights read between two uses; where they fit the on-chip memory
            that the device states, weights need not come from main memory.
    """
    fixed, _, busy, weights, activations = _pieces(ops, device, working_set_bytes)
    return fixed + np.maximum(busy, weights + activations)


def operator_terms(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> Terms:
    """`operator_time_s`, told apart; part arrays are what "few rows" add."""
    return roofline_terms(*_pieces(ops, device, working_set_bytes))


def _pieces(
    ops: OpTable, device: Device, working_set_bytes: float | NDArray[Any] | None
) -> tuple[F64, F64, F64, F64, F64]:
    """Seconds of start, arithmetic, arithmetic of whole arrays, weights, activations [R]."""
    read = device.parameter
    peak = device.peak_flops_per_s[ops.dtype] * read("efficiency")
    weights = ops.weight_bytes
    if working_set_bytes is not None and "cache.on_chip" in device.quantities:
        weights = np.where(
            np.asarray(working_set_bytes) <= device.get("cache.on_chip"), 0.0, weights
        )
    fused = (ops.kind == KIND["elementwise"]) | (ops.kind == KIND["reduce"])
    bandwidth = device.bandwidth_bytes_per_s * read("bandwidth_share")
    runs = ops.kind != KIND["host_sync"]
    return (
        np.where(runs, np.where(fused, 0.0, read("operator")), read("dispatch")),
        ops.executed_flops / peak * runs,
        padded_flops(ops, device) / peak * runs,
        weights / bandwidth * runs,
        np.where(fused, 0.0, ops.activation_bytes) / bandwidth * runs,
    )


def padded_flops(ops: OpTable, device: Device) -> F64:
    """FLOPs [R] on whole arrays: rows to 8, inner and outer width to the array's side."""
    side = device.get("compute.array")
    rows = np.ceil(ops.m / ROW_PAD) * ROW_PAD
    area = rows * np.ceil(ops.k / side) * side * np.ceil(ops.n / side) * side
    attention = (ops.kind == KIND["attention_prefill"]) | (
        ops.kind == KIND["attention_importance"]
    )
    matmul = (ops.kind == KIND["matmul"]) | (ops.kind == KIND["grouped_matmul"])
    per_value = np.where(attention, 4.0, 2.0) * ops.batch
    return np.where(matmul | attention, per_value * area, ops.executed_flops)


def call_overhead_s(device: Device, dtype: str = "fp32") -> float:
    """Host time of the first call of a forward pass."""
    return device.parameter("dispatch")
