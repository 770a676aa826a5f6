"""Vector operators of eager PyTorch by rows and columns (as NeuSight's vector_ops has them)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.gpu_rows import dtypes, joined_names, operators, single, tables_by
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.candidate import DTYPE_BYTES, DTYPES

COLUMNS = frozenset({"device", "op", "dtype", "rows", "cols"})
# Values moved for each value of the result, and arithmetic on it (a convention of lowering's).
MOVES = {"add": 3, "mul": 3, "div": 3, "pow": 3}
FLOPS = {"gelu": 8, "tanh": 8, "ln": 8, "softmax": 5}

_WIDTH = np.array([DTYPE_BYTES[name] for name in DTYPES])


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device; a group is an operator and an octave of size."""
    return tables_by(read_csv(path, root, COLUMNS, repeats=True), ("dtype",), _build)


def _build(table: CsvTable, device: str) -> Measured:
    rows, cols = (table.integer(name).astype(np.float64) for name in ("rows", "cols"))
    names, dtype = table.text("op"), dtypes(table)
    values = rows * cols
    ops = operators(
        "elementwise",
        m=rows,
        n=cols,
        dtype=dtype,
        activation_bytes=_WIDTH[dtype] * values * np.array([MOVES.get(str(n), 2) for n in names]),
        flops=values * np.array([FLOPS.get(str(n), 1) for n in names]),
    )
    group = joined_names(names, np.floor(np.log2(values)).astype(np.int64))
    return single(table, device, ops, runtime="torch-eager", family="vector", group=group)
