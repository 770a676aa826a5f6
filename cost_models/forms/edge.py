"""Edge accelerators and embedded graphics processors: roofline with a fixed time per graph node.

    t = node + max(FLOPs / (peak * efficiency * m / (m + rows_half)),
                   (weights + activations that spill) / (bandwidth * bandwidth_share))

Activations that fit the on-chip memory stay there; without one stated, all of them move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cost_models.forms import Parameter
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
    read = device.parameter
    rows = ops.m * np.where(ops.kind == KIND["matmul"], 1, ops.batch)
    rate = device.peak_flops_per_s[ops.dtype] * read("efficiency")
    compute = ops.executed_flops / (rate * rows / (rows + read("rows_half")))
    spilled = ops.activation_bytes
    if "cache.on_chip" in device.quantities:
        spilled = np.maximum(spilled - device.get("cache.on_chip"), 0.0)
    memory = (ops.weight_bytes + spilled) / (
        device.bandwidth_bytes_per_s * read("bandwidth_share")
    )
    time = read("node") + np.maximum(compute, memory)
    return np.where(ops.kind == KIND["host_sync"], read("sync"), time)
