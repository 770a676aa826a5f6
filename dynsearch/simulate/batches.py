"""Inputs in batches, from priced stages and where each leaves: means and simulated latencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.batched_exits import expected_batches
from dynsearch.sim.latencies import sample_latencies
from dynsearch.sim.layer_cost import StageTable
from dynsearch.sim.regroup import expected_regroup, simulate_regroup
from dynsearch.simulate.ledger import EXECUTED, IDEAL, JOULES, SECONDS
from search_spaces.workload import batch_order

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How inputs are put together."""

    mode: str  # of EXIT_BATCHING
    batch: int  # 1 where serial
    period: int = 1
    sort: bool = False

    @property
    def waits(self) -> bool:
        """Whether everyone waits for the last of the batch."""
        return self.mode == "wait_all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batched:
    """Costs of an input; means and a sample of latencies."""

    mean_s: float
    energy_j: float
    flops_ideal: float
    flops_executed: float
    worst_s: float
    latencies: F64


def in_closed_form(t: StageTable, law: F64, on: Bool, serving: Serving) -> Batched:
    """Means over batches of independent inputs.

    Args:
        t: Stages of the four costs.
        law: Share of inputs by layer of exit and class [L, K].
        on: Early exits [L].
        serving: How batches are made.
    """
    alone = expected_batches(t, law[None], on[None], 1).batch_s[:, 0]
    if serving.mode == "regroup" and serving.batch > 1:
        found = expected_regroup(t, law, on, serving.batch)
        each, latency = found.time_per_sample_s, found.latency_s
    else:
        expected = expected_batches(
            t, law[None], on[None], serving.batch, wait=serving.waits, period=serving.period
        )
        each, latency = expected.batch_s[:, 0] / serving.batch, expected.latency_s[:, 0]
    return Batched(
        mean_s=float(latency[SECONDS]),
        energy_j=float(each[JOULES]),
        flops_ideal=float(alone[IDEAL]),
        flops_executed=float(each[EXECUTED]),
        worst_s=float(worst(t, law, on, serving.batch)[SECONDS]),
        latencies=np.zeros(0),
    )


def simulated(
    t: StageTable, where: I64, index: I64, lengths: I64, on: Bool, serving: Serving
) -> Batched:
    """The same of given inputs, batch by batch in their order (sorted where asked for).

    Args:
        t: Stages of the four costs.
        where: 0-based layer after which each input leaves [N].
        index: Class of each [N].
        lengths: Tokens of each [N], by which batches are sorted.
        on: Early exits [L].
        serving: How batches are made.
    """
    L, K = on.size, t.layer.shape[-1]
    law = np.zeros((L, K))
    np.add.at(law, (where, index), 1.0 / where.size)
    ones = np.arange(where.size)[:, None]
    alone = sample_latencies(t, ones, index, where, on, wait=False)[IDEAL].mean()
    order = batch_order(lengths, batch=serving.batch, sort=serving.sort)
    if serving.mode == "regroup" and serving.batch > 1:
        latencies = np.empty((len(t.layer), where.size))
        latencies[:, order] = simulate_regroup(t, where[order], on, serving.batch, index[order])
        each = expected_regroup(t, law, on, serving.batch).time_per_sample_s
    else:
        padded = np.pad(order, (0, -order.size % serving.batch), constant_values=-1)
        batches = padded.reshape(-1, serving.batch)
        latencies = sample_latencies(
            t, batches, index, where, on, wait=serving.waits, period=serving.period
        )
        ends = np.where(batches >= 0, latencies[:, batches], 0.0).max(axis=2)
        each = ends.sum(axis=1) / where.size
    return Batched(
        mean_s=float(latencies[SECONDS].mean()),
        energy_j=float(each[JOULES]),
        flops_ideal=float(alone),
        flops_executed=float(each[EXECUTED]),
        worst_s=float(worst(t, law, on, serving.batch)[SECONDS]),
        latencies=latencies[SECONDS],
    )


def worst(t: StageTable, law: F64, on: Bool, batch: int) -> F64:
    """A full batch of the last class through all layers, every check paid [4]."""
    last = on.size - 1
    b = batch - 1
    total: F64 = t.embed[:, b, -1] + t.layer[:, :, b, -1].sum(axis=1)
    return total + t.check[:, :, b, -1] @ on + t.head[:, last, b, -1]
