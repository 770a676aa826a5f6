"""Edge accelerators and embedded graphics processors: roofline with a fixed time per graph node.

    t = node + max(FLOPs / (peak * efficiency * m / (m + rows_half)),
                   (weights + activations that spill) / (bandwidth * bandwidth_share))

Activations that fit the on-chip memory stay there; without one stated, all of them move.
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

SHARED_LOG_SD = 0.5
RESIDUAL_LOG_SD = 0.4

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("node", "s", 10e-6, 0.7, "fixed time of a graph node"),
    Parameter("sync", "s", 50e-6, 0.7, "a result handed to the host"),
    Parameter("efficiency", "number", 0.4, 0.5, "share of the peak of large operators", 1.0),
    Parameter("rows_half", "number", 32.0, 0.7, "rows at which half of it is reached"),
    Parameter("bandwidth_share", "number", 0.7, 0.3, "share of the memory bandwidth", 1.0),
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
        device: Of kind "edge".
        threads: Not used; the accelerator runs one graph.
        working_set_bytes: Not used; weights are taken to come from memory.
    """
    fixed, _, busy, weights, activations = _pieces(ops, device)
    return fixed + np.maximum(busy, weights + activations)


def operator_terms(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> Terms:
    """`operator_time_s`, told apart; arguments as there."""
    return roofline_terms(*_pieces(ops, device))


def _pieces(ops: OpTable, device: Device) -> tuple[F64, F64, F64, F64, F64]:
    """Seconds of start, arithmetic of many rows, of these rows, weights, activations [R]."""
    read = device.parameter
    rows = ops.m * np.where(ops.kind == KIND["matmul"], 1, ops.batch)
    rate = device.peak_flops_per_s[ops.dtype] * read("efficiency")
    arithmetic = ops.executed_flops / rate
    busy = ops.executed_flops / (rate * rows / (rows + read("rows_half")))
    spilled = ops.activation_bytes
    if "cache.on_chip" in device.quantities:
        spilled = np.maximum(spilled - device.get("cache.on_chip"), 0.0)
    bandwidth = device.bandwidth_bytes_per_s * read("bandwidth_share")
    runs = ops.kind != KIND["host_sync"]
    return (
        np.where(runs, read("node"), read("sync")),
        arithmetic * runs,
        busy * runs,
        ops.weight_bytes / bandwidth * runs,
        spilled / bandwidth * runs,
    )
