"""Projections of served models by tokens (as Vidur's gemm table has them); a group is a model."""

from __future__ import annotations

from pathlib import Path

from cost_models.adapters.gpu_gemm import matmuls
from cost_models.adapters.gpu_rows import dtypes, single, tables_by
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured

COLUMNS = frozenset({"device", "model", "op", "dtype", "tp", "m", "n", "k"})


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device and number format."""
    return tables_by(read_csv(path, root, COLUMNS, repeats=True), ("dtype",), _build)


def _build(table: CsvTable, device: str) -> Measured:
    m, n, k = (table.integer(name) for name in ("m", "n", "k"))
    ops = matmuls(m, n, k, dtypes(table))
    group = table.text("model")
    return single(table, device, ops, runtime="vllm-layer", family="matmul", group=group)
