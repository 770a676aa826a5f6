"""Exits whose leftovers are regrouped into full batches: a buffer before every stage.

Stages are the layers between two early exits. Samples that stay are held in a buffer until a full
batch of B is there, which runs before anything shallower (dynamic rebatching; Liu, Alexander,
Kakarla, Arzani and Liu, "Dynamic Rebatching for Efficient Early-Exit Inference with DREX"). Here
the source never runs dry and one device serves all stages.

Closed form. Let S_g be the share of samples that reach stage g, p_g = S_g / S_(g-1), and t_g the
mean time of a full batch there. A batch of stage 0 is followed by a batch of stage g with
probability S_g, so B samples take sum S_g t_g. Buffers hold 0..B-1 samples between batches of
stage 0; a batch adds b to a buffer modulo B, and such a sum is uniform in the long run, all
buffers independently, because for given b the step maps states one to one. With b binomial,
E[buffer j after its batch of stage j ran] = p_j (B - 1) / 2 per batch of stage j - 1, else it is
(B - 1) / 2. Counting who is in the system over time gives, by Little's law (Little 1961),

    E[latency] = sum_g S_g t_g (B + (B - 1)/2 (sum_(1<=j<=g) p_j + (G - 1 - g))) / B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.batched_exits import depth_law
from dynsearch.sim.layer_cost import StageTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRegroup:
    """One policy with buffers before its G stages, on D devices."""

    time_per_sample_s: F64  # [D] of the device: 1 / throughput
    latency_s: F64  # [D] start of a sample's first batch to its answer
    pipelined_s: F64  # [D] time per sample with a device for each stage: that of the slowest
    reach: F64  # [G] share of samples that enter each stage


@dataclass(frozen=True, slots=True)
class _Stages:
    """Where stages end, and what a batch costs there."""

    of_layer: I64  # [L] stage in which a sample is that leaves after each layer
    seconds: F64  # [D, G, B, K] by live batch and longest length
    alive: F64  # [G, K] share of samples that reach each stage with at most that length


def expected_regroup(t: StageTable, law: F64, on: Bool, batch: int) -> ExpectedRegroup:
    """Means of one policy in saturation.

    Args:
        t: Seconds at K lengths, ascending; `compact` is paid by every batch behind a buffer.
        law: Share of samples by layer of exit and by length [L, K].
        on: Early exits [L].
        batch: B.
    """
    stages = _stages(t, law, on)
    reach, G = stages.alive[:, -1], len(stages.alive)
    longest = np.diff((stages.alive / reach[:, None]) ** batch, axis=1, prepend=0.0)
    each = reach * np.einsum("dgk,gk->dg", stages.seconds[:, :, batch - 1], longest)
    stay = reach[1:] / reach[:-1]
    ran = np.concatenate([[0.0], np.cumsum(stay)])
    held = batch + (batch - 1) / 2 * (ran + np.arange(G - 1, -1, -1))
    return ExpectedRegroup(
        time_per_sample_s=each.sum(axis=1) / batch,
        latency_s=each @ held / batch,
        pipelined_s=each.max(axis=1) / batch,
        reach=reach,
    )


def simulate_regroup(
    t: StageTable, where: I64, on: Bool, batch: int, length: I64 | None = None
) -> F64:
    """Latency of every sample [D, N]: from the start of its first batch to its answer.

    What is left in buffers at the end leaves in batches that are not full.

    Args:
        t: Seconds at K lengths, ascending.
        where: 0-based layer after which each sample leaves, in order of arrival [N].
        on: Early exits [L].
        batch: B.
        length: Index of each sample's length [N]; None: all alike.
    """
    index = np.zeros(where.size, dtype=np.int64) if length is None else length
    stages = _stages(t, depth_law(where, on.size, index, t.layer.shape[-1]), on)
    last = stages.of_layer[where]
    buffers: list[list[int]] = [[] for _ in stages.alive]
    clock = np.zeros(len(t.layer))
    start, done = np.zeros((2, clock.size, where.size))

    def run(g: int, rows: list[int]) -> None:
        nonlocal clock
        if g == 0:
            start[:, rows] = clock[:, None]
        clock = clock + stages.seconds[:, g, len(rows) - 1, index[rows].max()]
        for row in rows:
            if last[row] == g:
                done[:, row] = clock
            else:
                buffers[g + 1].append(row)

    for first in range(0, where.size, batch):
        run(0, list(range(first, min(first + batch, where.size))))
        for g in range(1, len(buffers)):
            if len(buffers[g]) >= batch:
                rows, buffers[g] = buffers[g][:batch], buffers[g][batch:]
                run(g, rows)
    for g in range(1, len(buffers)):
        while buffers[g]:
            rows, buffers[g] = buffers[g][:batch], buffers[g][batch:]
            run(g, rows)
    return done - start


def _stages(t: StageTable, law: F64, on: Bool) -> _Stages:
    """Stages end at early exits at which some samples leave and some stay."""
    share = law.sum(axis=1)
    final = int(np.flatnonzero(share)[-1])
    ends = [*np.flatnonzero(on[:final] & (share[:final] > 0)), final]
    starts = [0, *(end + 1 for end in ends[:-1])]
    parts = []
    for first, end in zip(starts, ends, strict=True):
        span = slice(first, end + 1)
        seconds = t.layer[:, span].sum(axis=1)
        seconds = seconds + t.check[:, span][:, on[span]].sum(axis=1)
        seconds += t.compact[:, first - 1] if first else t.embed
        parts.append(seconds + t.head[:, end] if end == final else seconds)
    before = np.concatenate([np.zeros((1, law.shape[1])), np.cumsum(law, axis=0)])
    return _Stages(
        of_layer=np.searchsorted(ends, np.arange(on.size)),
        seconds=np.stack(parts, axis=1),
        alive=np.cumsum(law.sum(axis=0) - before[starts], axis=1),
    )
