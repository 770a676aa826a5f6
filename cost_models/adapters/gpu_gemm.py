"""Matmuls by m, n, k of serving stacks (as AIConfigurator's gemm table has them)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.gpu_rows import dtypes, joined_names, operators, single, tables_by
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.candidate import DTYPE_BYTES, DTYPES, PLAIN_DTYPE
from search_spaces.ops import OpTable

COLUMNS = frozenset({"device", "framework", "dtype", "m", "n", "k"})

_WEIGHT = np.array([DTYPE_BYTES[name] for name in DTYPES])
_PLAIN = np.array([DTYPE_BYTES[PLAIN_DTYPE[name]] for name in DTYPES])


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device, framework and number format; a group is a weight matrix."""
    table = read_csv(path, root, COLUMNS, repeats=True)
    return tables_by(table, ("framework", "dtype"), _build)


def _build(table: CsvTable, device: str) -> Measured:
    n, k = table.integer("n"), table.integer("k")
    ops = matmuls(table.integer("m"), n, k, dtypes(table))
    framework = str(table.text("framework")[0]).split("/")[0]
    group = joined_names(n, k)
    return single(table, device, ops, runtime=framework, family="matmul", group=group)


def matmuls(m: np.ndarray, n: np.ndarray, k: np.ndarray, dtype: np.ndarray) -> OpTable:
    """Matmuls [m, k] @ [k, n] whose operands and results are each moved once, N rows."""
    return operators(
        "matmul",
        m=m,
        k=k,
        n=n,
        dtype=dtype,
        weight_bytes=_WEIGHT[dtype] * k * n,
        activation_bytes=_PLAIN[dtype] * m * (k + n).astype(np.float64),
        flops=2.0 * m * k * n,
    )
