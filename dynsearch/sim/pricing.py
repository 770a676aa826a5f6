"""Cost of sets of live samples: what the stages between two exits add to every policy.

With the prefix cost C_l (embedding and layers 1..l at the shape of the live set S), a batch whose
live set S stays the same from exit a to exit b costs

    stop(b, S) - resume(a, S)  =  (C_b(S) + check_b(S)) - (C_a(S) - compact_a(S))

where the copy into a smaller batch is paid only if some samples left at a and some stayed. So a
policy costs the sum of `stop` at each of its exits plus the sum of `resume` after each, both
looked up per batch in tables over (live count, longest live length). Row 0, nothing alive, is 0.

Channels are (quantity, warm or miss, device): the latency of samples (a stage counts once for
every sample that waits for it), the time of batches (once), the energy of batches (once).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.layer_cost import SERIAL, WAIT_ALL, LayerCost, StageTable
from dynsearch.sim.layout import Layout, batch_layout, class_layout
from search_spaces.workload import Workload

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

Blocks = tuple[F64, ...]  # the channels of a table, cut into narrow parts

QUANTITIES: tuple[str, ...] = ("latency_mean_s", "time_per_sample_s", "energy_j")


class Pricer(Protocol):
    """Prices live sets of R policies; all results are [R, channels], sums over samples."""

    @property
    def layout(self) -> Layout:
        """Where the bits of its sets stand."""

    def stop(self, layer: int, live: U8, *, final: bool) -> F64:
        """Prefix cost up to the exit after 0-based `layer` with `live`, and its check or head."""

    def resume(self, layer: int, before: U8, after: U8) -> F64:
        """Minus the prefix cost with the set `after`, plus the compaction from `before`."""


def make_pricer(
    cost: LayerCost, lengths: I64, workload: Workload, mode: int, quantities: tuple[str, ...]
) -> Pricer:
    """The pricer of one workload and exit batching.

    Args:
        cost: Stage costs.
        lengths: Unpadded token counts of the samples [N].
        workload: Batch and sorting.
        mode: Index into EXIT_BATCHING; "serial" runs with a batch of 1.
        quantities: Names in QUANTITIES, the outer axis of the channels.
    """
    distinct, length_index = np.unique(lengths, return_inverse=True)
    costs = cost.at_lengths(distinct)
    batch = 1 if mode == SERIAL else workload.batch
    stages = [
        _stage_sums(table, batch, per_sample=name == "latency_mean_s")
        for name in quantities
        for table in _parts(costs, name)
    ]
    tables = _Tables(*(np.concatenate(parts, axis=-1) for parts in zip(*stages, strict=True)))
    if batch == 1:
        return _single_pricer(tables, length_index)
    layout = batch_layout(lengths, batch=batch, sort=workload.sort)
    return _batch_pricer(tables, layout, length_index, distinct.size, wait=mode == WAIT_ALL)


def num_channels(cost: LayerCost, quantities: tuple[str, ...]) -> int:
    """Channels of a pricer over these costs."""
    return len(quantities) * (len(cost.devices) + cost.cached.size)


def combine(
    sums: F64, cost: LayerCost, quantities: tuple[str, ...], shares: F64
) -> dict[str, F64]:
    """Quantities by name [D, P] from channels.

    Args:
        sums: [P, channels] as priced.
        cost: The costs that they were priced with.
        quantities: As given to `make_pricer`.
        shares: Miss shares [D, P].
    """
    D, cached = len(cost.devices), cost.cached
    out = {}
    for name, part in zip(quantities, np.split(sums, len(quantities), axis=1), strict=True):
        values = np.ascontiguousarray(part[:, :D].T)
        values[cached] += shares[cached] * part[:, D:].T
        out[name] = values
    return out


def _parts(costs: LayerCost, quantity: str) -> list[StageTable]:
    """The table with weights in cache and, for devices where it matters, what misses add."""
    joules = quantity == "energy_j"
    warm = costs.joules if joules else costs.seconds
    more = costs.miss_joules if joules else costs.miss_seconds
    return [warm] if more is None else [warm, more.take(costs.cached)]


@dataclass(frozen=True, slots=True)
class _Tables:
    """Rows are live sets by (count, longest length): [L, (B + 1) * K, channels]."""

    check: F64  # C + check
    head: F64  # C + head
    restart: F64  # -C
    compact: F64


def _stage_sums(table: StageTable, batch: int, *, per_sample: bool) -> tuple[F64, F64, F64, F64]:
    """Arrays of `_Tables` for one quantity, D channels."""

    def rows(values: F64) -> F64:  # [D, L, B, K] -> [L, (batch + 1) * K, D]
        values = values[:, :, :batch]
        if per_sample:
            values = values * np.arange(1, batch + 1)[:, None]
        padded = np.concatenate([np.zeros_like(values[:, :, :1]), values], axis=2)
        D, L, B, K = padded.shape  # no "-1": there may be no device whose weights are cached
        return np.ascontiguousarray(padded.reshape(D, L, B * K).transpose(1, 2, 0))

    prefix = table.embed[:, None] + np.cumsum(table.layer, axis=1)
    return (
        rows(prefix + table.check),
        rows(prefix + table.head),
        rows(-prefix),
        rows(table.compact),
    )


@dataclass(frozen=True, slots=True)
class _SinglePricer:
    """Batch 1: counts of live samples by byte, every byte of one length, times its cost."""

    layout: Layout
    check: F64  # [L, num_bytes, channels]
    head: F64
    restart: F64

    def stop(self, layer: int, live: U8, *, final: bool) -> F64:
        table = self.head if final else self.check
        cost: F64 = _counts(live) @ table[layer]
        return cost

    def resume(self, layer: int, before: U8, after: U8) -> F64:
        cost: F64 = _counts(after) @ self.restart[layer]
        return cost


def _counts(live: U8) -> F64:
    return np.bitwise_count(live).astype(np.float64)


def _single_pricer(tables: _Tables, length_index: I64) -> _SinglePricer:
    layout = class_layout(length_index)
    num_lengths = tables.check.shape[1] // 2
    of_byte = np.zeros(layout.num_bytes, dtype=np.int64)
    of_byte[layout.slot // 8] = length_index
    rows = num_lengths + of_byte
    return _SinglePricer(
        layout, tables.check[:, rows], tables.head[:, rows], tables.restart[:, rows]
    )


@dataclass(frozen=True, slots=True)
class _BatchPricer:
    """Batches of any size: every batch's live set is looked up by count and longest length.

    A byte's entry is the row itself where a batch is one byte; else it is the longest length,
    whose maximum over the batch's bytes is joined with the count. Bit 8 of a byte's value says
    that some of its samples have just left.
    """

    layout: Layout
    check: Blocks  # [L, num_rows, channels]
    head: Blocks
    restart: Blocks  # [L, 2 * num_rows, channels]; the upper half adds the compaction
    num_rows: int
    num_lengths: int  # K
    entry: I64  # [num_groups * group_bytes * 512] by byte position and value
    full: I64 | None  # [num_groups] row of the whole batch where all wait for the last, or None

    def stop(self, layer: int, live: U8, *, final: bool) -> F64:
        table = self.head if final else self.check
        return _sum_rows(table, layer, self._rows(live))

    def resume(self, layer: int, before: U8, after: U8) -> F64:
        if self.full is not None:
            return _sum_rows(self.restart, layer, self._rows(after))
        changed = before != after
        if self.layout.group_bytes == 1:
            marked = changed.astype(np.uint16) << 8 | after
            return _sum_rows(self.restart, layer, self._rows(marked))
        shape = (self.layout.num_groups, self.layout.group_bytes, -1)
        left = changed[:, : shape[0] * shape[1]].T.reshape(shape).any(axis=1)
        rows = self._rows(after) + left * np.int64(self.num_rows)
        return _sum_rows(self.restart, layer, rows)

    def _rows(self, live: NDArray[np.integer]) -> I64:
        """Table row of every batch, [num_groups, R], from bytes [R, num_bytes]."""
        groups, size = self.layout.num_groups, self.layout.group_bytes
        values = live[:, : groups * size].T  # [bytes, R]
        where = np.arange(0, 512 * groups * size, 512)[:, None] + values
        rows: I64 = self.entry.take(where, mode="clip")
        if size > 1:
            longest = rows.reshape(groups, size, -1).max(axis=1)
            count = np.bitwise_count(values).reshape(groups, size, -1).sum(axis=1, dtype=np.int64)
            rows = longest + count * self.num_lengths
        return rows if self.full is None else np.where(rows > 0, self.full[:, None], 0)


def _blocks(table: F64) -> Blocks:
    """Columns in blocks of 4, 2 and 1: numpy copies rows of these widths in one move."""
    channels = table.shape[-1]
    cuts: list[int] = []
    while sum(cuts) < channels:
        cuts.append(next(w for w in (4, 2, 1) if w <= channels - sum(cuts)))
    parts = np.split(table, np.cumsum(cuts)[:-1], axis=-1)
    return tuple(np.ascontiguousarray(part) for part in parts)


def _sum_rows(table: Blocks, layer: int, rows: I64) -> F64:
    """Sum over groups of table[layer, rows[group, r]], [R, channels], for rows [groups, R]."""
    sums = [part[layer].take(rows, axis=0, mode="clip").sum(axis=0) for part in table]
    return np.concatenate(sums, axis=1)


def _batch_pricer(
    tables: _Tables, layout: Layout, length_index: I64, num_lengths: int, *, wait: bool
) -> _BatchPricer:
    groups, size = layout.num_groups, layout.group_bytes
    used = groups * size
    of_bit = layout.spread(length_index)[: 8 * used].reshape(used, 8)
    values = np.arange(256)
    highest = np.frexp(values)[1] - 1  # -1 for the empty set
    entry = np.where(values > 0, of_bit[:, highest], 0).astype(np.int64)  # [used, 256]
    num_rows = tables.check.shape[1]
    if size == 1:
        entry += np.bitwise_count(values).astype(np.int64) * num_lengths
    full = None
    if wait:
        group = layout.slot // (8 * size)
        longest = np.zeros(groups, dtype=np.int64)
        np.maximum.at(longest, group, length_index)
        full = np.bincount(group, minlength=groups) * num_lengths + longest
    return _BatchPricer(
        layout=layout,
        check=_blocks(tables.check),
        head=_blocks(tables.head),
        restart=_blocks(np.concatenate([tables.restart, tables.restart + tables.compact], axis=1)),
        num_rows=num_rows,
        num_lengths=num_lengths,
        entry=np.concatenate([entry, entry + num_rows], axis=1).ravel(),
        full=full,
    )
