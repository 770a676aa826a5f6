"""Cost of many candidates at once, in closed form: worst case, best case and means.

Thousands of candidates share a few hundred different layers. The shape of each layer is packed
into one integer, distinct shapes are lowered and priced once, and the prices are gathered back.
Means use the reach of layers and the lengths of inputs; percentiles come from replay only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.device import Device
from cost_models.memory import layer_tokens, layer_values, peak_bytes
from cost_models.price import (
    Z90,
    call_overhead_s,
    error_s,
    miss_share,
    network_log_sd,
    price_ops,
)
from search_spaces.candidate import DTYPE_BYTES, DTYPES, EXIT_BATCHING, CandidateBatch
from search_spaces.errors import InputError, Problem
from search_spaces.lowering.encoder import (
    LayerShapes,
    lower_entry,
    lower_exit_check,
    lower_layers,
)
from search_spaces.ops import OpTable
from search_spaces.workload import Workload, batch_order

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SERIAL = EXIT_BATCHING.index("serial")
WAIT_ALL = EXIT_BATCHING.index("wait_all")
MAX_LENGTHS = 8  # lengths that stand for the distribution of the longest input of a batch
_WIDTH = np.array([DTYPE_BYTES[name] for name in DTYPES], dtype=np.float64)
_BITS = {"n_in": 14, "n_ffn": 14, "batch": 12, "drops": 1, "experts": 8, "top_k": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateCosts:
    """Costs of B candidates on D devices. Bounds are 90 %."""

    latency_worst_s: F64  # [D, B] full batch, longest input, every check paid, no exit taken
    worst_low_s: F64  # [D, B]
    worst_high_s: F64  # [D, B]
    latency_best_s: F64  # [D, B] the same batch leaving at the first exit
    latency_mean_s: F64 | None  # [D, B] given reach; None without
    mean_low_s: F64 | None
    mean_high_s: F64 | None
    flops_ideal: F64  # [B] worst case, per batch, what the method asks for
    flops_executed: F64  # [B] the same, what runs
    peak_bytes: F64  # [B]
    origin: tuple[str, ...]  # [D]


@dataclass(frozen=True, slots=True)
class _Case:
    """One way to run all candidates: tokens, live batch and weight of each layer."""

    length: int
    batch: F64  # [B, L] live sequences
    weight: F64  # [B, L] share of this layer's time that counts
    first: F64  # [B] live sequences in the embedding
    miss: F64  # [D, B] share of weights that come from memory


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds [D, B], their residual error in seconds, and FLOPs [B]."""

    seconds: F64
    residual: F64
    ideal: F64
    executed: F64


def cost_candidates(
    candidates: CandidateBatch,
    *,
    devices: Sequence[Device],
    workload: Workload,
    num_classes: int,
    lengths: NDArray[Any] | None = None,
    reach: F64 | None = None,
    head: str = "pooler_linear",
) -> CandidateCosts:
    """Worst, best and mean latency, FLOPs and peak memory of B candidates on D devices.

    Args:
        candidates: B candidates on one backbone.
        devices: D devices.
        workload: Batch, longest input, threads, sorting.
        num_classes: Classes of every head.
        lengths: Unpadded token counts of sample inputs [N], needed with `reach`.
        reach: Share of samples that enter each layer [B, L]; None: no mean.
        head: As in `search_spaces.lowering.encoder.lower_exit_check`.

    Returns:
        Costs; the mean is that of one sample from the start of its batch to its own answer.

    Raises:
        InputError: `reach` without `lengths` or of the wrong shape.
    """
    _check(candidates, workload, lengths, reach)
    pricer = _Pricer(candidates, devices, workload, num_classes, head)
    size = np.where(candidates.exit_batching == SERIAL, 1, workload.batch).astype(np.float64)
    full = np.broadcast_to(size[:, None], candidates.exit_on.shape)
    below = (np.arange(candidates.backbone.num_layers) < candidates.depth[:, None]).astype(float)
    miss = _miss(candidates, devices, below)
    worst = pricer.run(_Case(workload.max_len, full, below, size, miss))
    shallow = below * _until_first_exit(candidates)
    best = pricer.run(_Case(workload.max_len, full, shallow, size, miss))
    spread = np.array([network_log_sd(d) for d in devices])[:, None]
    low, high = _bounds(worst, spread)
    mean = mean_low = mean_high = None
    if reach is not None and lengths is not None:
        reached = reach * below
        miss = _miss(candidates, devices, reached)
        cases = _mean_cases(candidates, workload, np.asarray(lengths), reached, size, miss)
        runs = [(share, pricer.run(case)) for share, case in cases]
        mean = np.asarray(sum(share * run.seconds for share, run in runs))
        residual = np.asarray(sum(share * run.residual for share, run in runs))
        mean_low, mean_high = _bounds(_Times(mean, residual, worst.ideal, worst.ideal), spread)
    return CandidateCosts(
        latency_worst_s=worst.seconds,
        worst_low_s=low,
        worst_high_s=high,
        latency_best_s=best.seconds,
        latency_mean_s=mean,
        mean_low_s=mean_low,
        mean_high_s=mean_high,
        flops_ideal=worst.ideal,
        flops_executed=worst.executed,
        peak_bytes=peak_bytes(candidates, workload=workload, num_classes=num_classes, head=head),
        origin=tuple(d.origin for d in devices),
    )


def working_set_bytes(candidates: CandidateBatch, reach: F64 | None = None) -> F64:
    """Layer weights read between two uses of the same ones [B].

    Args:
        candidates: B candidates.
        reach: Share of samples that enter each layer [B, L]; None: every layer below the depth.
    """
    b = candidates.backbone
    below = (np.arange(b.num_layers) < candidates.depth[:, None]).astype(np.float64)
    ffn = (2 if b.ffn_kind == "gated" else 1) * b.hidden_size * b.ffn_size
    ffn += b.ffn_size * b.hidden_size
    idle = np.where(candidates.num_experts > 1, 1 - candidates.top_k / candidates.num_experts, 0)
    read = (layer_values(b) - idle * ffn) * (below if reach is None else below * reach)
    total: F64 = read.sum(axis=1) * _WIDTH[candidates.dtype]
    return total


def _check(
    candidates: CandidateBatch, workload: Workload, lengths: Any, reach: F64 | None
) -> None:
    problems = []
    sizes = {
        "max_len": (workload.max_len, _BITS["n_in"]),
        "batch": (workload.batch, _BITS["batch"]),
        "num_experts": (int(candidates.num_experts.max(initial=0)), _BITS["experts"]),
    }
    for name, (value, bits) in sizes.items():
        if value >= 1 << bits:
            message = f"is above {(1 << bits) - 1}, the largest that can be priced; lower it"
            problems.append(Problem("arguments", name, str(value), message))
    if reach is not None and lengths is None:
        problems.append(
            Problem("arguments", "lengths", "", "missing; a mean over reach needs sample lengths")
        )
    if reach is not None and reach.shape != candidates.exit_on.shape:
        problems.append(
            Problem(
                "arguments",
                "reach",
                str(reach.shape),
                f"must have one share per candidate and layer, {candidates.exit_on.shape}",
            )
        )
    if problems:
        raise InputError(problems)


def _miss(candidates: CandidateBatch, devices: Sequence[Device], reach: F64) -> F64:
    """Share of weights that come from memory [D, B], from what is read between two uses."""
    working_set = working_set_bytes(candidates, reach)
    return np.stack([miss_share(d, working_set) for d in devices])


def _until_first_exit(candidates: CandidateBatch) -> F64:
    """1 for layers up to the first exit (or the depth), else 0 [B, L]."""
    before: I64 = np.cumsum(candidates.exit_on, axis=1) - candidates.exit_on
    until: F64 = (before == 0).astype(np.float64)
    return until


def _bounds(times: _Times, shared: F64) -> tuple[F64, F64]:
    relative = times.residual / np.maximum(times.seconds, 1e-300)
    spread = np.exp(Z90 * np.hypot(shared, relative))
    return times.seconds / spread, times.seconds * spread


def _mean_cases(
    candidates: CandidateBatch,
    workload: Workload,
    lengths: I64,
    reach: F64,
    size: F64,
    miss: F64,
) -> list[tuple[F64, _Case]]:
    """(weight [B], case) whose weighted sum is the mean latency of a sample.

    A sample pays for the layers that it enters, with the mates that are still there: all of them
    under wait_all (and until the last one leaves), (batch - 1) reach of them otherwise.
    """
    mates = (size - 1)[:, None]
    waits = (candidates.exit_batching == WAIT_ALL)[:, None]
    anyone = 1 - (1 - reach) ** size[:, None]
    batch = np.where(waits, size[:, None], 1 + np.floor(mates * reach + 0.5))
    weight = np.where(waits, anyone, reach)
    cases = []
    for serial in (True, False):
        chosen = (candidates.exit_batching == SERIAL) == serial
        if not chosen.any():
            continue
        longest = lengths if serial else _longest_of_batches(lengths, workload)
        for length, share in _representatives(longest):
            cases.append((chosen * share, _Case(length, batch, weight, size, miss)))
    return cases


def _longest_of_batches(lengths: I64, workload: Workload) -> I64:
    """Longest input of each batch, once per sample of the batch."""
    order = batch_order(lengths, batch=workload.batch, sort=workload.sort)
    starts = np.arange(0, order.size, workload.batch)
    sizes = np.diff(np.append(starts, order.size))
    return np.repeat(np.maximum.reduceat(lengths[order], starts), sizes)


def _representatives(values: I64) -> list[tuple[int, float]]:
    """At most MAX_LENGTHS (length, share): means of equal parts of the sorted values."""
    parts = np.array_split(np.sort(values), min(MAX_LENGTHS, values.size))
    return [(int(np.ceil(part.mean())), part.size / values.size) for part in parts]


class _Pricer:
    """Prices cases over the same candidates and devices."""

    def __init__(
        self,
        candidates: CandidateBatch,
        devices: Sequence[Device],
        workload: Workload,
        num_classes: int,
        head: str,
    ) -> None:
        self.candidates, self.devices, self.workload = candidates, devices, workload
        self.num_classes, self.head = num_classes, head

    def run(self, case: _Case) -> _Times:
        """Weighted sums over layers, checks, the last head and the embedding."""
        c = self.candidates
        n_in, n_ffn, drops = layer_tokens(c, case.length)
        row, layer = np.nonzero(case.weight > 0)
        batch = case.batch.astype(np.int64)
        weight = case.weight[row, layer]
        parts = [
            self._sum(case, self._layers(row, layer, n_in, n_ffn, batch, drops), row, weight),
            self._sum(case, *self._heads(case, n_ffn, batch)),
            self._sum(case, self._entry(case, n_in[:, 0]), np.arange(len(c)), np.ones(len(c))),
        ]
        start = np.array([[call_overhead_s(d, name) for name in DTYPES] for d in self.devices])
        return _Times(
            sum(p.seconds for p in parts) + start[:, c.dtype],
            np.asarray(sum(p.residual for p in parts)),
            np.asarray(sum(p.ideal for p in parts)),
            np.asarray(sum(p.executed for p in parts)),
        )

    def _layers(
        self, row: I64, layer: I64, n_in: I64, n_ffn: I64, batch: I64, drops: NDArray[Any]
    ) -> tuple[OpTable, I64]:
        """Operators of the distinct layers and which of them each (row, layer) is."""
        c = self.candidates
        fields = {
            "n_in": n_in[row, layer],
            "n_ffn": n_ffn[row, layer],
            "batch": batch[row, layer],
            "drops": drops[row, layer].astype(np.int64),
            "experts": c.num_experts[row, layer],
            "top_k": c.top_k[row, layer],
        }
        key = c.dtype[row] * 2 + c.granularity[row]
        for name, values in fields.items():
            key = (key << _BITS[name]) | values
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        shapes = LayerShapes(
            layer=np.zeros(first.size, dtype=np.int64),
            n_in=fields["n_in"][first],
            n_ffn=fields["n_ffn"][first],
            batch=fields["batch"][first],
            drops=fields["drops"][first].astype(bool),
            num_experts=fields["experts"][first],
            top_k=fields["top_k"][first],
            granularity=c.granularity[row[first]],
            dtype=c.dtype[row[first]],
        )
        return lower_layers(c.backbone, shapes), inverse

    def _heads(self, case: _Case, n_ffn: I64, batch: I64) -> tuple[tuple[OpTable, I64], I64, F64]:
        """Checks of early exits and the head at the depth, where the case gets that far."""
        c = self.candidates
        last = np.arange(c.backbone.num_layers) == c.depth[:, None] - 1
        row, layer = np.nonzero((c.exit_on | last) & (case.weight > 0))
        check = ~last[row, layer]
        fields = (n_ffn[row, layer], batch[row, layer], c.dtype[row], c.pooling[row], check)
        key = np.zeros(row.size, dtype=np.int64)
        for values, bits in zip(fields, (14, 12, 3, 2, 1), strict=True):
            key = (key << bits) | values
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        ops = lower_exit_check(
            c.backbone,
            layer=np.zeros(first.size, dtype=np.int64),
            batch=fields[1][first],
            n=fields[0][first],
            dtype=fields[2][first],
            num_classes=self.num_classes,
            head=self.head,
            check=check[first],
            pooling=fields[3][first],
        )
        return (ops, inverse), row, case.weight[row, layer]

    def _entry(self, case: _Case, kept: I64) -> tuple[OpTable, I64]:
        c = self.candidates
        key = (case.first.astype(np.int64) << 3) | c.dtype
        key = (key << _BITS["n_in"]) | kept
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        batch = case.first[first].astype(np.int64)
        ops = lower_entry(
            c.backbone, batch=batch, n=case.length, kept=kept[first], dtype=c.dtype[first]
        )
        return ops, inverse

    def _sum(self, case: _Case, shapes: tuple[OpTable, I64], row: I64, weight: F64) -> _Times:
        """Price distinct shapes on every device, gather, add up by candidate.

        Errors of operators inside a layer add up as `error_s` says; layers repeat shapes, so
        their errors are taken to be the same and add up plainly.
        """
        ops, inverse = shapes
        B, U = len(self.candidates), int(inverse.max(initial=-1)) + 1

        def unique(values: F64) -> F64:
            return np.bincount(ops.candidate, weights=values, minlength=U).astype(np.float64)

        def add(values: F64) -> F64:
            found = np.bincount(row, weights=weight * values[inverse], minlength=B)
            return found.astype(np.float64)

        seconds, residual = [], []
        for i, device in enumerate(self.devices):
            both = []
            for working_set in (0.0, None):
                cost = price_ops(
                    ops,
                    device,
                    threads=self.workload.threads,
                    working_set_bytes=working_set,
                )
                both.append((unique(cost.time_s), error_s(cost, ops, ops.candidate, U)))
            (warm, warm_sd), (cold, cold_sd) = both
            miss = case.miss[i]
            seconds.append(add(warm) + miss * add(cold - warm))
            residual.append(add(warm_sd) + miss * add(cold_sd - warm_sd))
        return _Times(
            np.stack(seconds),
            np.stack(residual),
            add(unique(ops.flops * ops.count)),
            add(unique(ops.executed_flops * ops.count)),
        )
