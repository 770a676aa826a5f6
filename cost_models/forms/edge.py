"""Edge accelerators and embedded graphics processors: a graph of nodes beside a shared memory.

    t = node + max(FLOPs / (peak * efficiency * m / (m + rows_half)) + softmax,
                   weights / (bandwidth * bandwidth_share) + activations)

Weights are fetched while the matrix unit works (double buffering), so the longer of the two
counts. Activations stay in the on-chip memory; what of them exceeds it, or all where a device
states none, crosses the memory, too. Without a fused kernel the attention matrix passes through
the vector unit: `score_flops` says how many matrix operations one of its values costs, and the
two matmuls of attention reach `attention_share` of the rate of dense ones. Elementwise nodes
move their bytes at `move_share` of the memory bandwidth, wherever they lie. All of these are
relative to facts of the device, so that they carry over to a sibling.

A node that the accelerator cannot run is done by the processor beside it. It appears as a
host_sync with `activation_bytes`, what is copied there and back, and with its FLOPs, which run at
`host_flops`. A host_sync without bytes is a result handed to the host. `call` is paid once.

The memory of such a board serves processor and accelerator: `with_cpu_traffic` of
`cost_models.forms.edge_modes` takes away what the processor uses, `in_power_mode` sets clocks.
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
RESIDUAL_LOG_SD = 0.3

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("node", "s", 10e-6, 0.7, "fixed time of a graph node"),
    Parameter("sync", "s", 50e-6, 0.7, "a result handed to the host"),
    Parameter("call", "s", 250e-6, 0.5, "start of one run of the graph"),
    Parameter("efficiency", "number", 0.33, 0.6, "share of the peak of large matmuls", 1.0),
    Parameter("rows_half", "number", 8.0, 0.7, "rows at which half of it is reached"),
    Parameter("attention_share", "number", 0.3, 0.7, "rate of attention beside matmuls", 1.0),
    Parameter("score_flops", "number", 9000.0, 1.0, "operations that one softmax value costs"),
    Parameter("bandwidth_share", "number", 0.6, 0.3, "share of the memory bandwidth", 1.0),
    Parameter("move_share", "number", 0.8, 0.6, "the same for bytes of elementwise nodes"),
    Parameter("fallback", "s", 1e-4, 1.0, "start of a node that the processor has to run"),
    Parameter("host_flops", "flops_per_s", 1e11, 0.7, "rate of the processor in such nodes"),
    Parameter("copy_share", "number", 0.1, 0.7, "share of the bandwidth in copies there and back"),
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
        working_set_bytes: Weights read between two uses of the same ones, one number or [R];
            where they fit the on-chip memory they need not be fetched again.
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
    """`operator_time_s`, told apart; arguments as there."""
    return roofline_terms(*_pieces(ops, device, working_set_bytes))


def _pieces(
    ops: OpTable, device: Device, working_set_bytes: float | NDArray[Any] | None
) -> tuple[F64, F64, F64, F64, F64]:
    """Seconds of start, arithmetic of many rows, of these rows, weights, activations [R]."""
    read = device.parameter
    runs = ops.kind != KIND["host_sync"]
    attention = (ops.kind == KIND["attention_prefill"]) | (
        ops.kind == KIND["attention_importance"]
    )
    peak = device.peak_flops_per_s[ops.dtype]
    rate = peak * read("efficiency") * np.where(attention, read("attention_share"), 1.0)
    softmax = np.where(attention, 1.0 * ops.batch * ops.m * ops.n, 0.0)
    values = softmax * read("score_flops") / peak
    rows = ops.m * np.where(ops.kind == KIND["matmul"], 1, ops.batch)
    arithmetic = ops.executed_flops / rate
    busy = arithmetic * (rows + read("rows_half")) / np.maximum(rows, 1) + values
    weights, activations = _transfers_s(ops, device, working_set_bytes)
    return (
        np.where(runs, read("node"), _host_s(ops, device)),
        arithmetic * runs,
        busy * runs,
        weights * runs,
        activations * runs,
    )


def _transfers_s(
    ops: OpTable, device: Device, working_set_bytes: float | NDArray[Any] | None
) -> tuple[F64, F64]:
    """Seconds of memory traffic for weights and for activations [R]."""
    read = device.parameter
    weights, spilled = ops.weight_bytes, ops.activation_bytes
    vector = (ops.kind == KIND["elementwise"]) | (ops.kind == KIND["reduce"])
    if "cache.on_chip" in device.quantities:
        size = device.get("cache.on_chip")
        spilled = np.maximum(spilled - size, 0.0)
        if working_set_bytes is not None:
            weights = np.where(np.asarray(working_set_bytes) <= size, 0.0, weights)
    bandwidth = device.bandwidth_bytes_per_s * read("bandwidth_share")
    moved = ops.activation_bytes / (device.bandwidth_bytes_per_s * read("move_share"))
    return weights / bandwidth, np.where(vector, moved, spilled / bandwidth)


def _host_s(ops: OpTable, device: Device) -> F64:
    """Seconds of a host_sync [R]: a result handed over, or a node that falls back."""
    read = device.parameter
    copied = ops.activation_bytes / (device.bandwidth_bytes_per_s * read("copy_share"))
    computed = ops.executed_flops / read("host_flops")
    away = ops.activation_bytes > 0
    return np.where(away, read("fallback") + copied + computed, read("sync"))


def call_overhead_s(device: Device, dtype: str = "fp32") -> float:
    """Start of one run of the graph."""
    return device.parameter("call")
