"""Fused attention on a graphics processor: prefill by blocks of queries, decoding by items.

Prefill: a block of 64 or 128 queries of one head walks over the keys that it may see (half of
them when causal, told by the executed FLOPs, plus half a block on the diagonal):

    t = launch + || waves(blocks / SMs) (block + rows keys (4 k / matrix rate + 1 / softmax)),
                    bytes / (bandwidth share) ||_4

The softmax costs per score, whatever the head's width: without it narrow heads are priced at
half their time. Decoding: an item is one sequence and cached head with its m query heads; few
items are split over the cache until the multiprocessors are full:

    t = launch + min over splits s of
        || waves(items s / (SMs slots))^0.85 (item + part / stream) + combine,
           bytes (1 + saturation / x) / (bandwidth share), bytes / L2, arithmetic ||_4

Kernels that do not split the cache of plain multi-head attention say so by `decode_unsplit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cost_models.forms.gpu_parameters import (
    DECODE_EFFICIENCY,
    DECODE_L2,
    DECODE_OVERLAP,
    DECODE_WAVES,
    QUERY_ROWS,
    SPLIT_POSITIONS,
)
from cost_models.forms.gpu_terms import F64, Facts, Parts, Read, missed, soft_max, waves

if TYPE_CHECKING:
    from search_spaces.ops import OpTable


def prefill_parts(ops: OpTable, facts: Facts, read: Read, family: str) -> Parts:
    """Parts of R fused attentions of many queries, all of one number format."""
    m, n, k, batch = (getattr(ops, c).astype(np.float64) for c in ("m", "n", "k", "batch"))
    names = ("efficiency", "block", "wave_weight", "tile_power")
    p = {name: read(f"attention_{name}_{family}") for name in names}
    seen = ops.executed_flops / (4.0 * m * n * k * batch)
    rate = facts.peak * p["efficiency"]
    wide = np.maximum(k / 128.0, 1.0) ** read(f"wide_head_{family}")
    softmax = 1.0 / read(f"softmax_per_unit_{family}")
    busy = np.full(m.shape, np.inf)
    for rows in QUERY_ROWS:
        keys = np.maximum(np.minimum(seen * n + rows / 2 * (seen < 1), n), 32.0)
        matrix = 4.0 * k * wide * facts.units / (rate * (rows / 128) ** p["tile_power"])
        block = rows * keys * (matrix + softmax) + p["block"]
        blocks = batch * np.ceil(m / rows)
        busy = np.minimum(busy, waves(blocks / facts.units, p["wave_weight"]) * block)
    share = facts.bandwidth * read(f"attention_bandwidth_share_{family}")
    memory = (ops.weight_bytes + ops.activation_bytes) / share
    return Parts(
        fixed=np.full(m.shape, read(f"attention_launch_{family}")),
        body=soft_max(busy, memory),
        busy=busy,
        whole=ops.executed_flops / rate,
    )


def decode_parts(
    ops: OpTable, facts: Facts, read: Read, family: str, working_set: F64 | None
) -> Parts:
    """Parts of R fused attentions of one query position, all of one number format."""
    m, n, k, items = (getattr(ops, c).astype(np.float64) for c in ("m", "n", "k", "batch"))
    names = ("stream", "slots", "combine", "saturation", "item", "unsplit")
    p = {name: read(f"decode_{name}_{family}") for name in names}
    moved = ops.weight_bytes + ops.activation_bytes
    share = facts.bandwidth * read(f"decode_bandwidth_share_{family}")
    memory = moved * missed(facts, read(f"decode_resident_{family}"), working_set) / share
    cached = moved / (DECODE_L2 * facts.units)
    rate = facts.peak * DECODE_EFFICIENCY
    compute = 4.0 * items * np.ceil(m / 16) * 16 * n * k / rate
    position = moved / np.maximum(items * n, 1.0)  # bytes of a position of one item
    alone, best = np.zeros(m.shape), np.full(m.shape, np.inf)
    for filled in (0.0, 1.0, 2.0, 4.0):
        most = np.maximum(np.floor(n / SPLIT_POSITIONS), 1.0)
        parts = np.clip(np.floor(filled * facts.units / items), 1.0, most)
        x = items * parts / facts.units
        turns = waves(x / p["slots"], DECODE_WAVES) ** DECODE_OVERLAP
        walk = p["item"] + np.ceil(n / parts / 16) * 16 * position / p["stream"]
        total = soft_max(
            turns * walk + (parts > 1) * p["combine"],
            memory * (1.0 + p["saturation"] / x),
            cached,
            compute * np.maximum(1.0 / x, 1.0),
        )
        alone = total if not filled else alone
        best = np.minimum(best, total)
    unsplit = np.where(m <= 1, p["unsplit"], 0.0)
    body = (1.0 - unsplit) * best + unsplit * alone
    return Parts(
        fixed=np.full(m.shape, read(f"decode_launch_{family}")),
        body=body,
        busy=np.minimum(compute, body),
        whole=ops.executed_flops / rate,
    )
