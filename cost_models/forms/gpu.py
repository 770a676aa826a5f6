"""Graphics processors: launch + roofline with whole tiles and partly whole waves.

    t = launch + max(compute, memory)
    compute = waves * 2 tm tn (k + fill) / (peak * efficiency * tile_share / SMs)
    waves   = wave_weight * ceil(x) + (1 - wave_weight) * max(x, 1),   x = tiles / SMs
    memory  = (weights + activations) / (bandwidth * bandwidth_share)

with the best of three square tiles. Defaults are pooled fits of bf16 matmuls on four data-centre
parts; the last row of streaming multiprocessors that has no tile is lost only in part, because
libraries split the inner dimension.
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

SHARED_LOG_SD = 0.35
RESIDUAL_LOG_SD = 0.35
TILES: tuple[int, ...] = (32, 64, 128)

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("launch", "s", 4e-6, 0.5, "fixed time of a kernel"),
    Parameter("sync", "s", 20e-6, 0.7, "a result copied to the host and awaited"),
    Parameter("efficiency", "number", 0.82, 0.2, "share of the peak of a large tile", 1.0),
    Parameter("bandwidth_share", "number", 0.80, 0.2, "share of the memory bandwidth", 1.0),
    Parameter("fill", "number", 120.0, 0.5, "inner steps lost to start and end of a tile"),
    Parameter("wave_weight", "number", 0.2, 0.5, "weight of whole waves", 1.0),
    Parameter("tile_power", "number", 0.35, 0.4, "a tile's efficiency ~ area to this power"),
    Parameter("softmax_per_unit", "per_s", 1e11, 0.7, "attention scores per second and SM"),
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
        device: Of kind "gpu".
        threads: Not used; the host only launches.
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
    """`operator_time_s`, told apart; part tiles and waves are what "few rows" add."""
    return roofline_terms(*_pieces(ops, device))


def _pieces(ops: OpTable, device: Device) -> tuple[F64, F64, F64, F64, F64]:
    """Seconds of start, arithmetic without part tiles, with them, weights, activations [R]."""
    read = device.parameter
    bandwidth = device.bandwidth_bytes_per_s * read("bandwidth_share")
    arithmetic, busy = _compute_s(ops, device)
    runs = ops.kind != KIND["host_sync"]
    return (
        np.where(runs, read("launch"), read("sync")),
        arithmetic * runs,
        busy * runs,
        ops.weight_bytes / bandwidth * runs,
        ops.activation_bytes / bandwidth * runs,
    )


def _compute_s(ops: OpTable, device: Device) -> tuple[F64, F64]:
    """Seconds at the rate of whole tiles and waves, and of the tiles that there are [R]."""
    read = device.parameter
    per_unit = device.peak_flops_per_s[ops.dtype] * read("efficiency") / device.units
    attention = (ops.kind == KIND["attention_prefill"]) | (
        ops.kind == KIND["attention_importance"]
    )
    matmul = (ops.kind == KIND["matmul"]) | (ops.kind == KIND["grouped_matmul"])
    inner = np.where(attention, 2 * ops.k, ops.k) + read("fill")
    best = np.full(len(ops), np.inf)
    for side in TILES:
        tiles = np.ceil(ops.m / side) * np.ceil(ops.n / side) * ops.batch
        x = tiles / device.units
        waves = read("wave_weight") * np.ceil(x) + (1 - read("wave_weight")) * np.maximum(x, 1)
        share = (side * side / TILES[-1] ** 2) ** read("tile_power")
        best = np.minimum(best, waves * 2.0 * side * side * inner / (per_unit * share))
    scores = ops.batch.astype(np.float64) * ops.m * ops.n
    softmax = np.where(attention, scores / (device.units * read("softmax_per_unit")), 0.0)
    whole = ops.executed_flops / (per_unit * device.units)
    charged = matmul | attention
    return np.where(charged, whole + softmax, 0.0), np.where(charged, best + softmax, 0.0)
