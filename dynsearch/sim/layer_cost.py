"""What every stage of one outer setting costs, on every device, batch size and length.

A stage is the embedding, one layer, an early exit's check, the last head, or the copy of the
sequences that stay into a smaller batch. Costs are tabulated over the live batch b = 1..B and
over the longest *original* length in it: how many tokens of the longest sample reach a layer is
a monotone function of its original length, so that length alone decides every padded shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cost_models.device import Device
from cost_models.price import (
    OpCosts,
    call_overhead_s,
    error_s,
    has_miss_share,
    miss_share,
    network_log_sd,
    price_ops,
)
from dynsearch.sim.stages import (
    Stages,
    layer_weight_bytes,
    length_grid,
    length_weights,
    lower_stages,
)
from search_spaces.candidate import EXIT_BATCHING, Candidate, PolicyBatch
from search_spaces.errors import InputError
from search_spaces.ops import OpTable
from search_spaces.workload import Workload

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SERIAL, WAIT_ALL, COMPACT, REGROUP = (
    EXIT_BATCHING.index(name) for name in ("serial", "wait_all", "compact", "regroup")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTable:
    """One quantity (seconds or joules) of every stage. D devices, L layers, B batch, G lengths.

    Index b - 1 holds a live batch of b; the last axis is the longest original length in it.
    """

    embed: F64  # [D, B, G] embedding of the whole batch
    layer: F64  # [D, L, B, G] one layer
    check: F64  # [D, L, B, G] early exit after layer l: pooling, head, score, host decision
    head: F64  # [D, L, B, G] the head at depth l + 1, which always answers and checks nothing
    compact: F64  # [D, L, B, G] after layer l, copy of the b sequences that remain

    def map(self, change: F64) -> StageTable:
        """Every array times a matrix [G, K] over lengths: the same stages at K lengths."""
        return StageTable(**{f.name: getattr(self, f.name) @ change for f in fields(self)})

    def take(self, devices: I64) -> StageTable:
        """The same stages on the devices at these indices."""
        return StageTable(**{f.name: getattr(self, f.name)[devices] for f in fields(self)})

    def plus(self, share: F64, more: StageTable) -> StageTable:
        """The sum of this and `share` [D] times `more`."""

        def joined(name: str) -> F64:
            first: F64 = getattr(self, name)
            second: F64 = share.reshape(-1, *[1] * (first.ndim - 1)) * getattr(more, name)
            return first + second

        return StageTable(**{f.name: joined(f.name) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """Stage costs of one outer setting on D devices.

    Costs are linear in the share of weights that must come from memory again, which depends on
    how many layers a policy cycles through: `seconds` holds with all weights in cache, and
    `miss_seconds` is what comes on top with none there (None: it makes no difference).

    The 90 % interval of any sum of stages is `value * exp(-+1.645 * log_sd[d])`: what is wrong
    with a device's parameters is wrong in all its stages.
    """

    devices: tuple[str, ...]  # [D] names
    lengths: I64  # [G] ascending original lengths that were priced
    seconds: StageTable
    joules: StageTable  # NaN where a device states no power
    log_sd: F64  # [D] standard deviation of log(true / predicted)
    miss_seconds: StageTable | None = None
    miss_joules: StageTable | None = None
    layer_bytes: F64 | None = None  # [L] weights that one execution of a layer reads
    miss: Callable[[F64], F64] | None = None  # working sets [P] in bytes -> shares [D, P]

    @property
    def num_layers(self) -> int:
        """L."""
        return int(self.seconds.layer.shape[1])

    @property
    def max_batch(self) -> int:
        """B."""
        return int(self.seconds.layer.shape[2])

    @property
    def cached(self) -> I64:
        """Indices of the devices on which it matters whether weights are in cache."""
        if self.miss_seconds is None:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(self.miss_seconds.layer.any(axis=(1, 2, 3)))

    def miss_shares(self, reach: F64) -> F64:
        """Share of weights from memory [D, P], given how often batches enter layers [P, L]."""
        if self.miss is None or self.layer_bytes is None:
            return np.zeros((len(self.devices), len(reach)))
        return self.miss(reach @ self.layer_bytes)

    def with_misses(self, shares: F64) -> StageTable:
        """Seconds at these miss shares [D]."""
        if self.miss_seconds is None:
            return self.seconds
        return self.seconds.plus(shares, self.miss_seconds)

    def at_lengths(self, lengths: ArrayLike) -> LayerCost:
        """The same costs at these lengths [K]; straight lines between priced lengths.

        Raises:
            InputError: a length lies outside the priced ones.
        """
        wanted = np.asarray(lengths, dtype=np.int64)
        if wanted.size and (wanted.min() < self.lengths[0] or wanted.max() > self.lengths[-1]):
            raise InputError.one(
                "arguments",
                "lengths",
                f"{wanted.min()}..{wanted.max()}",
                f"priced for {self.lengths[0]}..{self.lengths[-1]} tokens: build the layer cost "
                "with a workload whose max_len covers the longest text",
            )
        change = length_weights(self.lengths, wanted)
        tables = {
            name: None if table is None else table.map(change)
            for name, table in (
                ("seconds", self.seconds),
                ("joules", self.joules),
                ("miss_seconds", self.miss_seconds),
                ("miss_joules", self.miss_joules),
            )
        }
        return replace(self, lengths=wanted, **tables)  # type: ignore[arg-type]

    def worst_s(self, policies: PolicyBatch, *, batch: int, max_len: int) -> F64:
        """Seconds of a full batch at the longest length, every check paid, no exit taken.

        Args:
            policies: P policies; those with exit_batching "serial" run with a batch of 1.
            batch: The workload's batch.
            max_len: The workload's longest input in tokens.

        Returns:
            [D, P] seconds.
        """
        cost = self.at_lengths([max_len])
        worst = _worst(cost.seconds, policies, batch)
        if cost.miss_seconds is not None:
            below = np.arange(self.num_layers) < policies.depth[:, None]
            shares = self.miss_shares(below.astype(np.float64))
            worst += shares * _worst(cost.miss_seconds, policies, batch)
        return worst


def build_layer_cost(
    outer: Candidate,
    devices: Sequence[Device],
    *,
    workload: Workload,
    num_classes: int,
    head: str = "pooler_linear",
) -> LayerCost:
    """Price every stage of an outer setting by lowering the shapes that run.

    Args:
        outer: The setting at full depth; its own exits do not matter.
        devices: D devices.
        workload: Largest batch, longest input, threads.
        num_classes: Classes of every head.
        head: As in `search_spaces.lowering.encoder.lower_exit_check`.

    Returns:
        Costs for batches of 1 to `workload.batch` and lengths of 1 to `workload.max_len`.

    Raises:
        InputError: the backbone is not an encoder or the head is unknown.
    """
    grid = length_grid(workload.max_len)
    stages, layer_kind = lower_stages(outer, workload.batch, grid, num_classes, head)
    ops = OpTable.concat([table for table, _ in stages])
    both: list[list[StageTable]] = [[], [], [], []]  # warm s, cold s, warm J, cold J
    log_sd = []
    for device in devices:
        for i, working_set in enumerate((0.0 if has_miss_share(device) else None, None)):
            cost = price_ops(ops, device, threads=workload.threads, working_set_bytes=working_set)
            start = call_overhead_s(device, outer.dtype)
            both[i].append(_stage_table(cost.time_s, stages, layer_kind, start))
            both[2 + i].append(_stage_table(cost.energy_j, stages, layer_kind, 0.0))
        log_sd.append(float(np.hypot(network_log_sd(device), _stage_error(cost, ops, stages))))
    warm_s, cold_s, warm_j, cold_j = (_joined(tables) for tables in both)
    minus = -np.ones(len(devices))
    return LayerCost(
        devices=tuple(d.name for d in devices),
        lengths=grid,
        seconds=warm_s,
        joules=warm_j,
        log_sd=np.array(log_sd),
        miss_seconds=cold_s.plus(minus, warm_s),
        miss_joules=cold_j.plus(minus, warm_j),
        layer_bytes=layer_weight_bytes(outer),
        miss=partial(_miss_shares, tuple(devices)),
    )


def _stage_error(cost: OpCosts, ops: OpTable, stages: Stages) -> float:
    """Relative error of a stage on top of `network_log_sd`, the mean by time.

    Stages of one network repeat shapes, so their errors do not average out.
    """
    counts = [int(table.candidate.max(initial=-1)) + 1 for table, _ in stages]
    starts = np.repeat(np.cumsum([0, *counts[:-1]]), [len(table) for table, _ in stages])
    error = error_s(cost, ops, ops.candidate + starts, sum(counts))
    return float(error.sum() / cost.time_s.sum())


def _miss_shares(devices: tuple[Device, ...], working_sets: F64) -> F64:
    shares = [np.broadcast_to(miss_share(d, working_sets), working_sets.shape) for d in devices]
    return np.stack(shares)


def _stage_table(values: F64, stages: Stages, layer_kind: I64, start: float) -> StageTable:
    """Sums over the operators of each row, for one device: axis D has length 1."""
    out: list[F64] = []
    at = 0
    for table, shape in stages:
        part = values[at : at + len(table)]
        at += len(table)
        sums = np.bincount(table.candidate, weights=part, minlength=int(np.prod(shape)))
        out.append(sums.astype(np.float64).reshape(shape))
    embed, *others = out
    layer, check, head, compact = (x[None, layer_kind] for x in others)
    return StageTable(
        embed=embed[None] + start, layer=layer, check=check, head=head, compact=compact
    )


def _joined(tables: list[StageTable]) -> StageTable:
    """One table from tables of one device each."""
    return StageTable(
        **{
            f.name: np.concatenate([getattr(t, f.name) for t in tables])
            for f in fields(StageTable)
        }
    )


def _worst(table: StageTable, policies: PolicyBatch, batch: int) -> F64:
    """Sum of all stages of a full batch at the table's only length [D, P]."""
    b = np.where(policies.exit_batching == SERIAL, 1, batch) - 1  # [P]
    last = policies.depth - 1
    layers = np.cumsum(table.layer[..., 0], axis=1)[:, last, b]
    checks = np.einsum("pl,dlp->dp", policies.exit_on, table.check[..., 0][:, :, b])
    worst: F64 = table.embed[:, b, 0] + layers + checks + table.head[:, last, b, 0]
    return worst
