"""Energy of operators: idle power all the time, the rest as long as the busiest part is busy.

    J = idle * t + (max - idle) * min(t, max(FLOPs / peak, bytes / bandwidth))

A first-order model from two figures of a datasheet. The share of idle power is large on real
machines (a third of the energy of an embedded board under load), so it is never left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cost_models.device import Device
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]


def operator_energy_j(ops: OpTable, time_s: F64, device: Device) -> F64:
    """Joules of one execution of every operator [R]; NaN where the device states no power.

    Args:
        ops: R operators.
        time_s: Seconds of one execution [R].
        device: Any device. Both `power.idle` and `power.max` are needed: missing is never zero.
    """
    idle, top = device.get("power.idle"), device.get("power.max")
    compute = ops.executed_flops / device.peak_flops_per_s[ops.dtype]
    memory = (ops.weight_bytes + ops.activation_bytes) / device.bandwidth_bytes_per_s
    busy = np.minimum(time_s, np.maximum(compute, memory))
    joules: F64 = idle * time_s + (top - idle) * busy
    return joules
