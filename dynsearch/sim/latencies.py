"""When each sample of a trace gets its answer, under one policy: for percentiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.layer_cost import StageTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def percentiles(latency: F64) -> dict[str, F64]:
    """Mean and the percentiles in SHARES of [..., N], each [...]: some sample's own latency."""
    found = np.quantile(latency, list(SHARES.values()), axis=-1, method="inverted_cdf")
    mean: F64 = latency.mean(axis=-1)
    return {"mean": mean} | dict(zip(SHARES, found, strict=True))


def sample_latencies(
    t: StageTable,
    batches: I64,
    length: I64,
    where: I64,
    on: Bool,
    *,
    wait: bool,
    period: int = 1,
) -> F64:
    """Latency of each sample under one policy [D, N].

    Args:
        t: Seconds at the distinct lengths.
        batches: Row numbers by batch [batches, batch], -1 where a batch is short.
        length: Index of each sample's length [N].
        where: 0-based layer after which each sample leaves [N].
        on: Early exits [L].
        wait: Everyone waits for the last of the batch.
        period: Where nobody waits, the batch shrinks at every so many early exits; in between,
            samples that have left are still computed.
    """
    real = batches >= 0
    leaves = np.where(real, where[batches], -1)  # [batches, batch]
    index = np.where(real, length[batches], -1)
    live = shape = real
    shrinks = compaction_points(on, period) & (not wait)
    clock = t.embed[:, live.sum(axis=1) - 1, index.max(axis=1)]  # [D, batches]
    done = np.zeros((len(clock), length.size))
    for layer in range(int(where.max()) + 1):
        runs = live.any(axis=1)
        b = np.maximum(shape.sum(axis=1) - 1, 0)
        longest = np.where(shape, index, 0).max(axis=1)
        step = t.layer[:, layer, b, longest]
        leaving = live & (leaves == layer)
        if on[layer]:
            step = step + t.check[:, layer, b, longest]
        elif leaving.any():
            step = step + t.head[:, layer, b, longest]
        clock = clock + np.where(runs, step, 0.0)
        done[:, batches[leaving]] = np.repeat(clock[:, :, None], batches.shape[1], axis=2)[
            :, leaving
        ]
        live = live & ~leaving
        if shrinks[layer]:
            b = np.maximum(live.sum(axis=1) - 1, 0)
            longest = np.where(live, index, 0).max(axis=1)
            copies = (shape & ~live).any(axis=1) & live.any(axis=1)
            clock = clock + np.where(copies, t.compact[:, layer, b, longest], 0.0)
            shape = live
    if wait:
        row = np.zeros(length.size, dtype=np.int64)
        row[batches[real]] = np.nonzero(real)[0]
        return np.ascontiguousarray(clock[:, row])
    return done


def compaction_points(on: Bool, period: int) -> Bool:
    """Layers after whose exit the batch shrinks [..., L]: every `period`-th early exit `on`."""
    points: Bool = on & (np.cumsum(on, axis=-1) % period == 0)
    return points
