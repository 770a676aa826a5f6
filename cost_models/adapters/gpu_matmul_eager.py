"""Linear layers and batched matmuls of eager PyTorch (as NeuSight's linear and bmm have them).

A row with b > 1 multiplies b pairs of activations; with b = 1 it is a linear layer. Both are of
one table for each device. A group is an octave of arithmetic: larger shapes are left out whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.gpu_rows import dtypes, joined_names, operators, single, tables_by
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.candidate import DTYPE_BYTES, DTYPES

COLUMNS = frozenset({"device", "dtype", "b", "m", "n", "k", "kernel", "grid"})

_WIDTH = np.array([DTYPE_BYTES[name] for name in DTYPES])


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device and number format."""
    return tables_by(read_csv(path, root, COLUMNS, repeats=True), ("dtype",), _build)


def _build(table: CsvTable, device: str) -> Measured:
    b, m, n, k = (table.integer(name).astype(np.float64) for name in ("b", "m", "n", "k"))
    dtype = dtypes(table)
    linear = b == 1
    flops = 2.0 * b * m * n * k
    ops = operators(
        "matmul",
        m=m,
        k=k,
        n=n,
        batch=b,
        dtype=dtype,
        weight_bytes=_WIDTH[dtype] * linear * k * n,
        activation_bytes=_WIDTH[dtype] * b * (m * k + m * n + ~linear * k * n),
        flops=flops,
    )
    size = np.floor(np.log2(flops)).astype(np.int64)
    group = joined_names(np.where(linear, "linear", "bmm"), size)
    return single(table, device, ops, runtime="torch-eager", family="matmul", group=group)
