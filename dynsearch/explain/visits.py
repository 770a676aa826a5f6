"""How often a policy executes each stage, at which live batch and length: counts, no prices.

Four views of the same replay, each per input, as arrays [L, B, G] by stage:

    real      what runs: a batch of b at its longest length
    unpadded  the same executions as if every row had a batch of its own length: 1 / b of an
              execution of b rows for each row in it
    full      moreover as if no batch had ever shrunk or waited: a row that is still live pays
              1 / B of an execution of its whole batch of B rows, a row that is gone pays nothing
    alone     each live row in a batch of its own: what the method itself asks for

Time is linear in these counts, so `real` times the price of every cell is the replayed time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynsearch.quality.trace import Trace
from dynsearch.sim.decide import exit_layers
from dynsearch.sim.layer_cost import SERIAL, WAIT_ALL
from dynsearch.sim.stages import length_weights
from search_spaces.candidate import PolicyBatch
from search_spaces.workload import Workload, batch_order

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

STAGES: tuple[str, ...] = ("embed", "layer", "check", "head", "compact")
VIEWS: tuple[str, ...] = ("real", "unpadded", "full", "alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visits:
    """Executions per input under one policy. `embed` uses layer 0 alone."""

    counts: dict[str, dict[str, F64]]  # view -> stage -> [L, B, G]
    exits: I64  # [N] 0-based layer after which each sample leaves
    batch: int  # samples of a whole batch
    calls: float  # forward passes per input

    @property
    def reach(self) -> F64:
        """Share of samples that enter each layer [L]."""
        layers = self.counts["real"]["layer"].shape[0]
        share: F64 = (self.exits[:, None] >= np.arange(layers)).mean(axis=0)
        return share


def count_visits(trace: Trace, policy: PolicyBatch, workload: Workload, grid: I64) -> Visits:
    """Replay one policy and count what runs.

    Args:
        trace: One pass over N rows.
        policy: One policy; with exit_batching "serial" a batch is one sample.
        workload: Batch and sorting.
        grid: Lengths that are priced [G], ascending, around those of the rows; a length between
            two of them counts for both.
    """
    lengths = trace.lengths
    exits = exit_layers(trace.logits, policy)[0]
    mode = int(policy.exit_batching[0])
    batch = 1 if mode == SERIAL else workload.batch
    order = batch_order(lengths, batch=batch, sort=workload.sort)
    rows = np.pad(order, (0, -order.size % batch), constant_values=-1).reshape(-1, batch)
    distinct, index = np.unique(lengths, return_inverse=True)
    counter = _Counter(
        rows=rows,
        index=np.where(rows >= 0, index[rows], -1),
        change=length_weights(grid, distinct),
        shape=(trace.num_layers, workload.batch, grid.size),
    )
    counter.run(exits, policy, wait=mode == WAIT_ALL)
    counts = {
        view: {stage: array / lengths.size for stage, array in stages.items()}
        for view, stages in counter.counts.items()
    }
    return Visits(counts=counts, exits=exits, batch=batch, calls=len(rows) / lengths.size)


class _Counter:
    """Adds executions up, batch by batch in step."""

    def __init__(self, *, rows: I64, index: I64, change: F64, shape: tuple[int, int, int]) -> None:
        self.rows, self.index, self.change = rows, index, change
        self.counts = {v: {s: np.zeros(shape) for s in STAGES} for v in VIEWS}
        self.size = (rows >= 0).sum(axis=1)  # [batches]

    def run(self, exits: I64, policy: PolicyBatch, *, wait: bool) -> None:
        """Every stage of every batch, in the order of `sim.latencies`."""
        real = self.rows >= 0
        leaves = np.where(real, exits[self.rows], -1)
        live, depth = real, int(policy.depth[0])
        self._add("embed", 0, real, real)
        for layer in range(depth):
            runs = real & live.any(axis=1, keepdims=True) if wait else live
            self._add("layer", layer, runs, live)
            if layer == depth - 1:
                self._add("head", layer, runs, live)
            elif policy.exit_on[0, layer]:
                self._add("check", layer, runs, live)
                stay = live & (leaves > layer)
                shrinks = stay.any(axis=1) & (stay.sum(axis=1) < live.sum(axis=1))
                if not wait:
                    self._whole("compact", layer, stay & shrinks[:, None])
                live = stay

    def _add(self, stage: str, layer: int, runs: Bool, live: Bool) -> None:
        """One execution of all batches; `runs` [batches, batch] are the rows that it computes."""
        self._whole(stage, layer, runs)
        count = np.broadcast_to(runs.sum(axis=1)[:, None], runs.shape)
        size = np.broadcast_to(self.size[:, None], runs.shape)
        for view, rows, batch in (("unpadded", runs, count), ("full", live, size)):
            self._put(view, stage, layer, batch[rows], self.index[rows], 1.0 / batch[rows])
        ones = np.ones(int(live.sum()))
        self._put("alone", stage, layer, ones.astype(np.int64), self.index[live], ones)

    def _whole(self, stage: str, layer: int, runs: Bool) -> None:
        """Executions at the longest length of each batch that has rows."""
        some = runs.any(axis=1)
        longest = np.where(runs, self.index, -1).max(axis=1, initial=-1)
        self._put("real", stage, layer, runs.sum(axis=1)[some], longest[some], np.ones(some.sum()))

    def _put(self, view: str, stage: str, layer: int, batch: I64, index: I64, weight: F64) -> None:
        target = self.counts[view][stage]
        distinct = self.change.shape[1]
        cell = (batch - 1) * distinct + index
        found = np.bincount(cell, weights=weight, minlength=target.shape[1] * distinct)
        target[layer] += found.reshape(target.shape[1], distinct) @ self.change.T
