"""Measured tables gathered by what is calibrated together: one device under one runtime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models.device import Device, device_names, load_device
from cost_models.measured import Measured
from search_spaces.candidate import DTYPES

FEWEST_GROUPS = 3
FIT_ROWS = 2500  # of a subject that one fit looks at


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One device under one runtime, with its tables."""

    device: Device
    runtime: str
    training: bool
    tables: tuple[Measured, ...]

    @property
    def name(self) -> str:
        """As a profile's file is named; training is told apart."""
        return f"{self.device.name}--{self.runtime}" + ("--training" if self.training else "")

    def __len__(self) -> int:
        return sum(len(t) for t in self.tables)


def gather(tables: Iterable[Measured]) -> tuple[list[Subject], list[str]]:
    """Subjects in order of their names, and warnings about devices that have no file.

    Energy and collectives are no form of a device: `energy.py` and `links.py` are their homes.
    """
    found: dict[tuple[str, str, bool], list[Measured]] = {}
    for table in tables:
        if table.family not in ("energy", "collective"):
            key = (table.device, table.runtime, table.training)
            found.setdefault(key, []).append(with_groups(table))
    known = set(device_names())
    unknown = sorted({key[0] for key in found} - known)
    warnings = [f"no device file is named {name}: its rows are not used" for name in unknown]
    subjects = [
        Subject(device=load_device(key[0]), runtime=key[1], training=key[2], tables=tuple(parts))
        for key, parts in sorted(found.items())
        if key[0] in known
    ]
    return subjects, warnings


def with_groups(table: Measured) -> Measured:
    """The table, with groups by size where its own are fewer than three.

    Of one geometry nothing could be left out. Rows are then grouped by the largest operator's
    axis that takes most values, so that whole sizes are left out, never single rows of a size.
    """
    if len(np.unique(table.group)) >= FEWEST_GROUPS or len(table) < FEWEST_GROUPS:
        return table
    ops = table.ops
    order = np.argsort(ops.executed_flops * ops.count, kind="stable")
    main = np.zeros(len(table), dtype=np.int64)
    main[ops.candidate[order]] = order  # the last one written is the largest
    axes = [getattr(ops, axis)[main] for axis in ("n", "m", "k", "batch")]
    values = max(axes, key=lambda axis: len(np.unique(axis)))
    names = np.array([f"{g}/{v}" for g, v in zip(table.group, values, strict=True)])
    return replace(table, group=names)


def row_dtypes(table: Measured) -> NDArray[np.str_]:
    """Number format of each row [N]: that of the operator with most FLOPs."""
    ops = table.ops
    order = np.argsort(ops.executed_flops * ops.count, kind="stable")
    number = np.zeros(len(table), dtype=np.int64)
    number[ops.candidate[order]] = ops.dtype[order]
    return np.array(DTYPES)[number]
