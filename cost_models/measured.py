"""Measured times as operators with seconds: what calibration fits and what validation scores.

A row is one timed execution: of one operator, a layer or a whole network. Its operators stand in
an `OpTable` whose `candidate` column is the number of the row, so that every form prices measured
rows exactly as it prices candidates. Where rows come from is told by `adapters`, one file each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.ops import OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Names = NDArray[np.str_]

FAMILIES: tuple[str, ...] = (
    "matmul",
    "attention_prefill",
    "attention_decode",
    "moe",
    "vector",
    "collective",
    "end_to_end",
    "energy",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What N rows took beside their seconds.

    Attributes:
        joules: Of one execution [N].
        idle_w: What the measured system takes when idle, NaN where the source is silent [N].
        devices: Devices that shared a row.
        wall: Whether the power of the whole system was measured, not of the device alone.
    """

    joules: F64
    idle_w: F64
    devices: int = 1
    wall: bool = False

    def take(self, rows: NDArray[Any]) -> Energy:
        """The rows at `rows`."""
        return replace(self, joules=self.joules[rows], idle_w=self.idle_w[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """N measured rows of one source, one device, one runtime and one family.

    Attributes:
        source: File that the rows were read from, relative to the data folder.
        device: Name of a device file.
        runtime: What ran them, such as "torch-eager", "vllm", "onnxruntime".
        family: One of FAMILIES.
        training: Whether the rows are steps of training; they are never pooled with inference.
        ops: Operators of all rows; `candidate` is the row.
        seconds: What one execution took [N].
        calls: Host calls of a row [N]: how often `call_overhead_s` is paid.
        group: What is left out together when errors are estimated [N]: a model, a geometry, a
            range of shapes. Rows of equal shape must share a group.
        task: What a row is an instance of at the coarsest, such as a pair of languages [N]; left
            out whole where errors on unseen tasks are estimated. None: a table of one task.
        threads: Threads that shared an operator (processor cores only).
        weight_is_cached: Whether a loop re-reads the same buffers, so that weights and
            activations that fit are cached; whole networks are cold.
        peer_s: What another predictor said of the same rows, by its name [N], NaN where silent.
        energy: What they took, in tables of the family "energy".
    """

    source: str
    device: str
    runtime: str
    family: str
    training: bool = False
    ops: OpTable
    seconds: F64
    calls: F64
    group: Names
    task: Names | None = None
    threads: int = 1
    weight_is_cached: bool = False
    peer_s: dict[str, F64]
    energy: Energy | None = None

    def __len__(self) -> int:
        return int(self.seconds.shape[0])

    def take(self, rows: NDArray[Any]) -> Measured:
        """The rows at `rows` (indices or mask) [M], renumbered from 0."""
        wanted = np.arange(len(self))[rows]
        place = np.full(len(self), -1, dtype=np.int64)
        place[wanted] = np.arange(wanted.size)
        ops = self.ops.take(place[self.ops.candidate] >= 0)
        ops.candidate[:] = place[ops.candidate]
        changed: dict[str, Any] = {
            "ops": ops,
            "seconds": self.seconds[wanted],
            "calls": self.calls[wanted],
            "group": self.group[wanted],
            "task": None if self.task is None else self.task[wanted],
            "peer_s": {name: values[wanted] for name, values in self.peer_s.items()},
            "energy": None if self.energy is None else self.energy.take(wanted),
        }
        same = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in changed}
        return Measured(**same, **changed)


def row_sums(values: F64, ops: OpTable, rows: int) -> F64:
    """Sums over the operators of each row [N] of `values` [R]."""
    sums: F64 = np.bincount(ops.candidate, weights=values, minlength=rows).astype(np.float64)
    return sums


def joined(parts: Sequence[Measured]) -> Measured:
    """Rows of one device, runtime and family, from several files, as one table.

    Raises:
        ValueError: they differ in device, runtime, family, training or caching, or hold energy.
    """
    if len(parts) > 1 and any(part.energy is not None for part in parts):
        raise ValueError("tables with energy are not joined")
    first = parts[0]
    keys = ("device", "runtime", "family", "training", "threads", "weight_is_cached")
    for part in parts[1:]:
        for key in keys:
            if getattr(part, key) != getattr(first, key):
                raise ValueError(f"{key}: {getattr(part, key)} beside {getattr(first, key)}")
    starts = np.cumsum([0, *(len(part) for part in parts)])
    tables = []
    for part, start in zip(parts, starts, strict=False):
        table = part.ops.take(np.arange(len(part.ops)))
        table.candidate[:] += start
        tables.append(table)
    names = sorted({name for part in parts for name in part.peer_s})
    return Measured(
        source=", ".join(dict.fromkeys(part.source for part in parts)),
        **{key: getattr(first, key) for key in keys},
        energy=first.energy,
        ops=OpTable.concat(tables),
        seconds=np.concatenate([part.seconds for part in parts]),
        calls=np.concatenate([part.calls for part in parts]),
        group=np.concatenate([part.group for part in parts]),
        task=_tasks(parts),
        peer_s={
            name: np.concatenate(
                [part.peer_s.get(name, np.full(len(part), np.nan)) for part in parts]
            )
            for name in names
        },
    )


def _tasks(parts: Sequence[Measured]) -> Names | None:
    told = [part.task for part in parts if part.task is not None]
    return np.concatenate(told) if len(told) == len(parts) else None
