"""Matmuls on tensor processors, device time of a profiler: no dispatch in them."""

from __future__ import annotations

from pathlib import Path

from cost_models.adapters import tpu_gemm
from cost_models.adapters.reader import read_csv
from cost_models.measured import Measured

COLUMNS = tpu_gemm.COLUMNS | {"timing_mode"}


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each generation that has a device file.

    Raises:
        InputError: missing columns, a timing mode other than "trace", or wrong values.
    """
    table = read_csv(path, root, COLUMNS)
    wrong = table.text("timing_mode") != "trace"
    table.refuse("timing_mode", wrong, 'use "trace"; leave the column out of host-timed tables')
    return tpu_gemm.gemm_tables(table, runtime="jax-trace", calls=0.0)


def unread(path: Path, root: Path) -> list[str]:
    """What of a file is not read, and why."""
    return tpu_gemm.unread(path, root)
