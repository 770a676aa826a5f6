"""Matmuls on tensor processors, timed by the host: one dispatch in every time.

The loop of such a benchmark multiplies the same buffers again and again, so that operands which
fit the on-chip memory stay there. Operators are read by `gemm_table`, which serves traces, too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.device import device_names
from cost_models.measured import Measured
from search_spaces.candidate import DTYPE_BYTES, DTYPES
from search_spaces.ops import KIND, OpTable

COLUMNS = frozenset({"device", "tpu_gen", "dtype", "m", "n", "k", "latency_us"})
TYPES = {
    "bfloat16": "bf16",
    "float32": "fp32",
    "int8": "int8",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
}
RESULT_BYTES = {"int8": 4.0}  # int8 products are added up, and returned, as int32


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each generation that has a device file.

    Raises:
        InputError: missing columns, unknown types or wrong values.
    """
    return gemm_tables(read_csv(path, root, COLUMNS), runtime="jax", calls=1.0)


def unread(path: Path, root: Path) -> list[str]:
    """What of a file is not read, and why: generations without a device file."""
    generations = np.unique(read_csv(path, root, COLUMNS).text("tpu_gen"))
    missing = [g for g in generations if device_of(str(g)) not in device_names()]
    return [f"{path.name}: TPU {g} has no device file {device_of(str(g))}.toml" for g in missing]


def device_of(generation: str) -> str:
    """Name of the device file of a generation such as "v6e"."""
    return f"google-tpu-{generation}"


def gemm_tables(table: CsvTable, *, runtime: str, calls: float) -> list[Measured]:
    """Rows of matmuls as one table for each generation.

    Args:
        table: Columns tpu_gen, dtype, m, n, k, latency_us.
        runtime: What timed them.
        calls: Host calls in each time.

    Raises:
        InputError: unknown types or wrong values.
    """
    table.refuse("dtype", ~np.isin(table.text("dtype"), list(TYPES)), f"use {', '.join(TYPES)}")
    names = table.text("tpu_gen")
    found = []
    for generation in np.unique(names):
        if device_of(str(generation)) not in device_names():
            continue
        part = table.take(names == generation)
        m, k, n = (part.integer(axis) for axis in ("m", "k", "n"))
        shapes = zip(m, k, n, strict=True)
        found.append(
            Measured(
                source=table.file,
                device=device_of(str(generation)),
                runtime=runtime,
                family="matmul",
                ops=matmuls(m, k, n, [TYPES[str(name)] for name in part.text("dtype")]),
                seconds=part.seconds("latency"),
                calls=np.full(len(part), calls),
                group=np.array([f"{a}x{b}x{c}" for a, b, c in shapes]),
                weight_is_cached=True,
                peer_s={},
            )
        )
    return found


def matmuls(
    m: NDArray[np.int64], k: NDArray[np.int64], n: NDArray[np.int64], dtypes: list[str]
) -> OpTable:
    """One matmul a row [m, k] @ [k, n], results as wide as the type returns them."""
    width = np.array([DTYPE_BYTES[name] for name in dtypes], dtype=np.float64)
    result = np.array([RESULT_BYTES.get(name, DTYPE_BYTES[name]) for name in dtypes])
    flops = 2.0 * m.astype(np.float64) * k * n
    rows = m.shape[0]
    return OpTable(
        candidate=np.arange(rows),
        layer=np.zeros(rows, dtype=np.int64),
        kind=np.full(rows, KIND["matmul"]),
        count=np.ones(rows),
        m=m,
        k=k,
        n=n,
        batch=np.ones(rows, dtype=np.int64),
        dtype=np.array([DTYPES.index(name) for name in dtypes]),
        weight_bytes=width * k * n,
        activation_bytes=width * m * k + result * m * n,
        flops=flops,
        executed_flops=flops,
    )
