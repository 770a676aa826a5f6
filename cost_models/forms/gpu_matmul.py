"""Matmuls and grouped expert matmuls on a graphics processor.

    t = launch + quantise + min over (tile, split of k) of
        || waves(x) 2 tm tn (k / s + fill) / (peak efficiency tile_share / SMs),
           bytes (1 + saturation / x) / (bandwidth bandwidth_share),
           tile traffic / (l2_per_unit SMs) ||_4,          x = tiles s / SMs

The library picks tile and split; the best of a few stands for its choice. Few tiles ask for too
few bytes at a time, hence `saturation`. Tile traffic passes L2, whose rate grows with the
multiprocessors, not with the memory. fp8 and int8 first turn what enters to 8 bits, row by row.
An expert layer prices the weights of the experts that got tokens, and the tiles of their rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cost_models.forms.gpu_parameters import (
    EXPERT_FILL,
    EXPERT_ROWS,
    EXPERT_WAVES,
    FILLS,
    SPLIT_BYTES,
    SPLIT_INNER,
    SPLIT_MOST,
    TILES,
    WIDE_COLUMNS,
)
from cost_models.forms.gpu_terms import F64, Facts, Parts, Read, missed, soft_max, waves

if TYPE_CHECKING:
    from search_spaces.ops import OpTable

_BLOCK = 8192  # operators priced at a time, so that arrays stay in cache
_LARGEST = 128 * 128


def matmul_parts(
    ops: OpTable, facts: Facts, read: Read, family: str, width: float, working_set: F64 | None
) -> Parts:
    """Parts of R matmuls of one number format.

    Args:
        ops: [R], also batched ones (no weights).
        facts: Of the device and format.
        read: Parameter name -> value.
        family: "fp32", "half" or "fp8".
        width: Bytes of an operand.
        working_set: Bytes between two uses of the same ones [R]; None: cold.
    """
    blocks = []
    for start in range(0, len(ops), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(ops)))
        part = None if working_set is None else working_set[rows]
        blocks.append(_matmul_block(ops.take(rows), facts, read, family, width, part))
    return Parts(
        **{
            name: np.concatenate([getattr(b, name) for b in blocks])
            for name in ("fixed", "body", "busy", "whole")
        }
    )


def _matmul_block(
    ops: OpTable, facts: Facts, read: Read, family: str, width: float, working_set: F64 | None
) -> Parts:
    p = {
        name: read(f"{name}_{family}")
        for name in ("efficiency", "fill", "wave_weight", "tile_power", "l2_per_unit")
    }
    m, n, k, batch = (getattr(ops, c).astype(np.float64) for c in ("m", "n", "k", "batch"))
    values = m * n * batch
    again = np.where(batch > 1, read("batched_output") * width, 0.0) * values
    activations = ops.activation_bytes + again
    moved = ops.weight_bytes + activations
    share = facts.bandwidth * read(f"bandwidth_share_{family}")
    memory = ops.weight_bytes * missed(facts, read("resident"), working_set)
    memory = (memory + activations * missed(facts, read("resident_values"), working_set)) / share
    rate = facts.peak * p["efficiency"]
    slow = 1.0
    if family == "fp32":
        slow = 1.0 + read("wide") * (1.0 - np.exp(-n / WIDE_COLUMNS))
    saturation, split = (
        read(f"saturation_{family}"),
        read("split_fp8" if family == "fp8" else "split"),
    )
    l2 = p["l2_per_unit"] * facts.units
    most = np.minimum(np.maximum(np.floor(k / SPLIT_INNER), 1.0), SPLIT_MOST)
    best, busy = np.full(m.shape, np.inf), np.zeros(m.shape)
    for tm, tn in TILES:
        tiles = np.ceil(m / tm) * np.ceil(n / tn) * batch
        tile = (
            2.0 * tm * tn * facts.units / (rate * min((tm * tn / _LARGEST) ** p["tile_power"], 1))
        )
        for filled in (0.0, *FILLS):
            parts = np.clip(np.floor(filled * facts.units / tiles), 1.0, most) if filled else 1.0
            inner, x = k / parts, tiles * parts / facts.units
            compute = waves(x, p["wave_weight"]) * tile * slow * (inner + p["fill"])
            through = tiles * (tm + tn) * k * width + moved
            if filled:
                again = parts > 1
                compute = compute + split * again
                through = through + values * SPLIT_BYTES * parts * again
            reading, cached = memory * (1.0 + saturation / x), through / l2
            c2, r2, l2_2 = compute * compute, reading * reading, cached * cached
            total = c2 * c2 + r2 * r2 + l2_2 * l2_2
            better = total < best
            best = np.where(better, total, best)
            busy = np.where(better, compute, busy)
    return Parts(
        fixed=read(f"launch_{family}") + _quantise_s(m, k, facts, read, family),
        body=np.sqrt(np.sqrt(best)),
        busy=busy,
        whole=ops.executed_flops / rate,
    )


def _quantise_s(m: F64, k: F64, facts: Facts, read: Read, family: str) -> F64:
    """Seconds to scale rows to 8 bits and round them; each multiprocessor takes one at a time."""
    if family != "fp8":
        return np.zeros(m.shape)
    row = read("quantise_row") + k * read("quantise_value")
    return np.asarray(np.maximum(m / facts.units, 1.0) * row)


def experts_parts(ops: OpTable, facts: Facts, read: Read, family: str, width: float) -> Parts:
    """Parts of R grouped matmuls of one format; of one of their `count` executions each.

    One kernel computes all experts that got tokens, whether they stand as `count` executions of
    one each or as the `batch` of one: launch and waves are shared by them. Where the FLOPs are
    those of `m` whole rows the loads are even, otherwise each expert has part of a tile more.
    """
    r = {
        name: read(f"experts_{name}_{family}")
        for name in ("efficiency", "tile_power", "ragged", "l2_per_unit", "saturation", "move")
    }
    calls = np.maximum(ops.count, 1.0)
    experts = calls * ops.batch
    n, k = ops.n.astype(np.float64), ops.k.astype(np.float64)
    load = ops.executed_flops / (2.0 * n * k * ops.batch)  # rows of one expert
    load = np.where(load > 0, load, ops.m)
    even = np.abs(load - ops.m) < 1e-6 * load
    share = facts.bandwidth * read(f"experts_bandwidth_share_{family}")
    memory = calls * (ops.weight_bytes + ops.activation_bytes) / share
    rate = facts.peak * r["efficiency"]
    best, busy = np.full(n.shape, np.inf), np.zeros(n.shape)
    for rows in EXPERT_ROWS:
        whole = np.ceil(load / rows - 1e-9)
        tiles = np.where(even, whole, np.maximum(load / rows + r["ragged"], 1.0))
        x = experts * tiles * np.ceil(n / 128) / facts.units
        tile = 256.0 * rows * facts.units / (rate * (rows / 128) ** r["tile_power"])
        compute = waves(x, EXPERT_WAVES) * tile * (k + EXPERT_FILL)
        through = x * facts.units * (rows + 128) * k * width
        total = soft_max(
            compute,
            memory * (1.0 + r["saturation"] / x),
            through / (r["l2_per_unit"] * facts.units),
        )
        better = total < best
        best, busy = np.where(better, total, best), np.where(better, compute, busy)
    besides = calls * ops.activation_bytes * r["move"] / share
    return Parts(
        fixed=read(f"experts_launch_{family}") / calls,
        body=(best + besides) / calls,
        busy=busy / calls,
        whole=ops.executed_flops / rate,
    )
