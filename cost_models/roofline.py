"""The plain datasheet roofline: what everybody can compute, and what validation stands beside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cost_models.device import Device
from cost_models.measured import Measured, row_sums
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]


def roofline_s(ops: OpTable, device: Device) -> F64:
    """max(FLOPs / peak, bytes / bandwidth) of every operator [R], one execution.

    No efficiency, no overhead, no cache (Williams, Waterman and Patterson, "Roofline", CACM 2009).
    """
    compute = ops.executed_flops / device.peak_flops_per_s[ops.dtype]
    memory = (ops.weight_bytes + ops.activation_bytes) / device.bandwidth_bytes_per_s
    return np.maximum(compute, memory)


def roofline_rows(measured: Measured, device: Device) -> F64:
    """Roofline seconds of every measured row [N]."""
    ops = measured.ops
    return row_sums(roofline_s(ops, device) * ops.count, ops, len(measured))
