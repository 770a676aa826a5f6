"""Measured rows made ready for many predictions: equal operators are priced once.

Tables of several sources and families become one problem. An operator that occurs in many rows,
or many times in one, is priced once per set of parameters; a sparse matrix adds up the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cost_models.device import Device
from cost_models.learned import unsure
from cost_models.measured import Measured, row_sums
from cost_models.price import (
    EAGER,
    call_overhead_s,
    host_time_s,
    operator_time_s,
)
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
NETWORKS = "end_to_end"
SHORTEST = 1e-12  # seconds; so that a row that costs nothing has a logarithm
_NOT_A_SHAPE = ("candidate", "layer", "count")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """N rows over U distinct operators."""

    ops: OpTable  # [U]
    working_set: F64 | None  # [U] bytes; None: nothing is cached anywhere
    counts: csr_array  # [N, U] executions of an operator in a row
    calls: F64  # [N]
    dtype: I64  # [N] of the first operator of a row, whose call overhead is paid
    seconds: F64  # [N]
    group: I64  # [N] numbers of groups; equal names are one group across tables
    table: I64  # [N] which of the measured tables a row is from
    network: NDArray[np.bool_]  # [N] whether a row is a whole network
    eager: NDArray[np.bool_]  # [N] whether it is one whose host launches every operator
    threads: int

    def __len__(self) -> int:
        return int(self.seconds.shape[0])

    def once(self, device: Device) -> F64:
        """Seconds of one execution of every operator [U]."""
        return operator_time_s(
            self.ops, device, threads=self.threads, working_set_bytes=self.working_set
        )

    def unsure(self, device: Device) -> F64:
        """Log error of every row [N] by what was learned elsewhere than at its sizes."""
        if not device.learned:
            return np.zeros(len(self))
        once = self.once(device)
        wrong: F64 = self.counts @ (once * unsure(self.ops, device.learned))
        return np.asarray(wrong / np.maximum(self.counts @ once, SHORTEST))

    def predict(self, device: Device) -> F64:
        """Seconds of every row [N] with the parameters that the device states."""
        total: F64 = self.counts @ self.once(device)
        if self.eager.any():
            host: F64 = self.counts @ host_time_s(self.ops, device)
            total = np.where(self.eager, np.maximum(total, host), total)
        if self.calls.any():
            start = [
                [call_overhead_s(device, name, eager=e) for name in DTYPES] for e in (False, True)
            ]
            total = total + self.calls * np.array(start)[self.eager.astype(np.int64), self.dtype]
        return np.maximum(total, SHORTEST)

    def take(self, rows: NDArray[np.bool_] | I64) -> Prepared:
        """Some of the rows (indices or mask); operators that none of them runs are dropped."""
        counts = self.counts[np.arange(len(self))[rows]]
        used = np.unique(counts.indices)
        changed = {
            "ops": self.ops.take(used),
            "working_set": None if self.working_set is None else self.working_set[used],
            "counts": csr_array(counts[:, used]),
            "threads": self.threads,
        }
        same = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in changed}
        return Prepared(**changed, **same)


def prepare(measured: Sequence[Measured], *, threads: int | None = None) -> Prepared:
    """Tables of one device as one problem; rows in the order of the tables.

    Args:
        measured: Tables; families, runtimes and sources may differ.
        threads: Threads that shared an operator (processor cores only); None: those of the
            tables, which must agree.

    Raises:
        InputError: no rows at all, or tables of several thread counts.
    """
    if sum(len(part) for part in measured) == 0:
        raise InputError.one(
            "measurements", "rows", "0", "there is nothing to fit or score; give measured rows"
        )
    starts = np.cumsum([0, *(len(part) for part in measured)])
    ops = OpTable.concat([part.ops for part in measured])
    row = np.concatenate(
        [part.ops.candidate + start for part, start in zip(measured, starts, strict=False)]
    )
    size = int(starts[-1])
    working_set = np.concatenate([_working_set(part) for part in measured])
    first, inverse = _distinct(ops, working_set)
    shape = (size, first.size)
    names = np.concatenate([part.group.astype(str) for part in measured])
    return Prepared(
        ops=ops.take(first),
        working_set=working_set[first] if np.isfinite(working_set).any() else None,
        counts=csr_array((ops.count, (row, inverse)), shape=shape),
        calls=np.concatenate([part.calls for part in measured]).astype(np.float64),
        dtype=_first_dtype(ops, row, size),
        seconds=np.concatenate([part.seconds for part in measured]),
        group=np.unique(names, return_inverse=True)[1],
        table=np.repeat(np.arange(len(measured)), [len(part) for part in measured]),
        network=_of_tables(measured, [part.family == NETWORKS for part in measured]),
        eager=_of_tables(
            measured, [part.family == NETWORKS and part.runtime == EAGER for part in measured]
        ),
        threads=_threads(measured) if threads is None else threads,
    )


def _of_tables(measured: Sequence[Measured], values: Sequence[bool]) -> NDArray[np.bool_]:
    """What is true of whole tables, by row [N]."""
    return np.repeat(np.array(values, dtype=bool), [len(part) for part in measured])


def _threads(measured: Sequence[Measured]) -> int:
    counts = sorted({part.threads for part in measured})
    if len(counts) > 1:
        text = "tables of several thread counts; fit each by itself or name one"
        raise InputError.one("measurements", "threads", ", ".join(map(str, counts)), text)
    return counts[0]


def _working_set(part: Measured) -> F64:
    """Bytes that lie between two uses of the same ones, per operator [R]; infinite where cold.

    A loop that repeats one row touches that row's weights and activations before it comes back
    to them; a whole network is cold.
    """
    if not part.weight_is_cached:
        return np.full(len(part.ops), np.inf)
    touched = part.ops.count * (part.ops.weight_bytes + part.ops.activation_bytes)
    return row_sums(touched, part.ops, len(part))[part.ops.candidate]


def _distinct(ops: OpTable, working_set: F64) -> tuple[I64, I64]:
    """Index of one operator of each shape [U], and which shape each operator is [R]."""
    columns = [getattr(ops, f.name) for f in fields(OpTable) if f.name not in _NOT_A_SHAPE]
    table = np.stack([*columns, working_set], axis=1).astype(np.float64)
    _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)


def _first_dtype(ops: OpTable, row: I64, size: int) -> I64:
    found = np.zeros(size, dtype=np.int64)
    found[row[::-1]] = ops.dtype[::-1]
    return found
