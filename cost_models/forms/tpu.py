"""Tensor processors: whole systolic arrays, on-chip memory, one host dispatch per call.

    t = operator + fill + max(padded FLOPs / (peak * efficiency) + softmax values / vector,
                              bytes / (bandwidth * bandwidth_share))
    padded FLOPs = 2 * ceil(m / 8) 8 * ceil(k / A) A * ceil(n / A) A      (A = array side)

Bytes of a matmul are its operands and its result, with two exceptions that the on-chip memory
(VMEM) makes. Weights whose working set fits its usable share are not read again. A matmul of
which neither operand fits streams both in square tiles of side `block`, so that the operands cross
the memory 2 m k n / block values in all: float32 matmuls of 4096 x 8192 x 8192 take three times
as long as their FLOPs and distinct bytes say, for that reason.

The host pays `dispatch` once per call, not per operator: `price.call_overhead_s` adds it for the
first call, and every decision that the host takes (host_sync) ends a call and starts another.
Elementwise operators and reductions are fused into their neighbours: no time of their own beyond
the vector work. float32 is rounded to bf16 and takes `fp32_passes` passes through the arrays: one
by default (docs.jax.dev, "Matmul precision"), three or six at the higher precisions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cost_models.forms import Parameter, Terms, roofline_terms
from search_spaces.candidate import DTYPES
from search_spaces.ops import KIND

if TYPE_CHECKING:
    from cost_models.device import Device
    from search_spaces.ops import OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SHARED_LOG_SD = 0.2
RESIDUAL_LOG_SD = 0.2
ROW_PAD = 8  # rows of a tile in the sublanes

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("dispatch", "s", 125e-6, 0.3, "host time of one call"),
    Parameter("operator", "s", 0.5e-6, 0.7, "start of one fused operator on the chip"),
    Parameter("efficiency", "number", 0.87, 0.1, "share of the peak of padded shapes", 1.0),
    Parameter("efficiency_int8", "number", 0.77, 0.1, "the same for 8-bit and 4-bit types", 1.0),
    Parameter("bandwidth_share", "number", 0.95, 0.1, "share of the memory bandwidth", 1.0),
    Parameter("vmem_share", "number", 0.7, 0.05, "share of VMEM that operands may keep", 1.0),
    Parameter("block", "number", 1150.0, 0.2, "tile side where neither operand fits VMEM"),
    Parameter("fp32_passes", "number", 1.0, 0.02, "passes through the arrays of a float32"),
    Parameter("vector", "per_s", 2e11, 0.7, "softmax values per second"),
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
    rate = _flops_per_s(device)[ops.dtype]
    weights, activations = _bytes(ops, device, working_set_bytes)
    fused = (ops.kind == KIND["elementwise"]) | (ops.kind == KIND["reduce"])
    bandwidth = device.bandwidth_bytes_per_s * read("bandwidth_share")
    runs = ops.kind != KIND["host_sync"]
    softmax = np.where(_is_attention(ops), 1.0 * ops.batch * ops.m * ops.n, 0.0) / read("vector")
    started = np.where(fused, 0.0, read("operator"))
    return (
        np.where(runs, started, read("dispatch")),
        ops.executed_flops / rate * runs,
        (padded_flops(ops, device) / rate + softmax + _fill_s(ops, device)) * runs,
        weights / bandwidth * runs,
        np.where(fused, 0.0, activations) / bandwidth * runs,
    )


def _flops_per_s(device: Device) -> F64:
    """Sustained rate of padded shapes by dtype, order of DTYPES."""
    read = device.parameter
    share = np.full(len(DTYPES), read("efficiency"))
    for i, name in enumerate(DTYPES):
        if name in ("int8", "int4", "fp8") and f"peak.{name}" in device.quantities:
            share[i] = read("efficiency_int8")
        if name == "fp32":
            share[i] = read("efficiency") / read("fp32_passes")
    rate: F64 = device.peak_flops_per_s * share
    return rate


def _bytes(
    ops: OpTable, device: Device, working_set_bytes: float | NDArray[Any] | None
) -> tuple[F64, F64]:
    """Bytes of weights and of activations that cross the main memory [R]."""
    weights, activations = ops.weight_bytes, ops.activation_bytes
    if "cache.on_chip" not in device.quantities:
        return weights, activations
    room = device.get("cache.on_chip") * device.parameter("vmem_share")
    values = np.maximum(1.0 * ops.k * ops.n, 1.0)
    left = ops.m * ops.k * (weights / values)  # the other operand, in the type of the weights
    streamed = ops.m * (weights * (2.0 / device.parameter("block")))
    tiled = _is_matmul(ops) & (np.minimum(left, weights) > room)
    extra = np.where(tiled, np.maximum(streamed - left - weights, 0.0), 0.0)
    if working_set_bytes is not None:
        weights = np.where(np.asarray(working_set_bytes) <= room, 0.0, weights)
    return weights + extra, activations


def _fill_s(ops: OpTable, device: Device) -> F64:
    """Filling and draining the arrays once per matmul [R]: 3 A - 2 cycles."""
    side = device.get("compute.array")
    cycles_per_s = device.peak_flops_per_s[ops.dtype] / (2.0 * side * side * device.units)
    uses = _is_matmul(ops) | _is_attention(ops)
    return np.where(uses, (3.0 * side - 2.0) / cycles_per_s, 0.0)


def padded_flops(ops: OpTable, device: Device) -> F64:
    """FLOPs [R] on whole arrays: rows to 8, inner and outer width to the array's side."""
    side = device.get("compute.array")
    rows = np.ceil(ops.m / ROW_PAD) * ROW_PAD
    area = rows * np.ceil(ops.k / side) * side * np.ceil(ops.n / side) * side
    per_value = np.where(_is_attention(ops), 4.0, 2.0) * ops.batch
    return np.where(_is_matmul(ops) | _is_attention(ops), per_value * area, ops.executed_flops)


def _is_matmul(ops: OpTable) -> NDArray[np.bool_]:
    return np.isin(ops.kind, (KIND["matmul"], KIND["grouped_matmul"]))


def _is_attention(ops: OpTable) -> NDArray[np.bool_]:
    return np.isin(ops.kind, (KIND["attention_prefill"], KIND["attention_importance"]))


def systolic_cycles(
    m: ArrayLike, k: ArrayLike, n: ArrayLike, array: ArrayLike, *, overlapped: bool = False
) -> I64:
    """Cycles of [m, k] @ [k, n] on one weight-stationary square array, without memory stalls.

    Every part of A x A weights is loaded in A cycles, then m rows pass through the array and
    leave it 2 A - 2 cycles later; parts follow one another:

        ceil(n / A) * ceil(k / A) * (3 A + m - 2) - 1

    This equals the cycles of SCALE-Sim 3 (weight-stationary, compute bound) on every shape that
    was compared. An array with a second set of weight registers loads the next part while the
    rows of this one pass; every part but the last then takes max(m, A), and the fill is paid once.

    Args:
        m: Rows (tokens); any shape that broadcasts with the others.
        k: Inner width.
        n: Columns.
        array: Side A of the array.
        overlapped: Whether weights are loaded during the pass before.

    Returns:
        Cycles, of the broadcast shape.
    """
    rows, inner, outer, side = (np.asarray(v, dtype=np.int64) for v in (m, k, n, array))
    parts = -(-outer // side) * -(-inner // side)
    if overlapped:
        found: I64 = (parts - 1) * np.maximum(rows, side) + 3 * side + rows - 3
        return found
    cycles: I64 = parts * (3 * side + rows - 2) - 1
    return cycles


def call_overhead_s(device: Device, dtype: str = "fp32") -> float:
    """Host time of the first call of a forward pass."""
    return device.parameter("dispatch")
