"""Attention of serving stacks by batch, lengths and heads (AIConfigurator's two tables).

`q_len` of 1 throughout is decoding, anything else causal prefill. Query heads that share a
cached head are rows `m` of one problem when decoding: `batch` = sequences x cached heads. A
group is a geometry: widths and numbers of heads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.gpu_rows import (
    F64,
    I64,
    dtypes,
    joined_names,
    operators,
    single,
    tables_by,
)
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.candidate import DTYPE_BYTES, DTYPES
from search_spaces.ops import OpTable

COLUMNS = frozenset(
    {
        "device",
        "framework",
        "attn_dtype",
        "kv_dtype",
        "batch",
        "q_len",
        "kv_len",
        "heads",
        "kv_heads",
        "head_dim",
    }
)


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device and framework; number formats of the cache are mixed.

    Kernels written in Triton, the frameworks' fall-back, are a runtime of their own.
    """
    table = read_csv(path, root, COLUMNS, repeats=True)
    plain = np.zeros(len(table), dtype=bool)
    if "kernel" in table:
        plain = np.char.find(table.text("kernel"), "triton") >= 0
    decodes = bool((table.integer("q_len") == 1).all())
    build = _decode if decodes else _prefill
    parts = [table.take(rows) for rows in (~plain, plain) if rows.any()]
    return [found for part in parts for found in tables_by(part, ("framework",), build)]


def _finish(table: CsvTable, device: str, tables: list[OpTable], family: str) -> Measured:
    runtime = str(table.text("framework")[0]).split("/")[0]
    if "kernel" in table and "triton" in str(table.text("kernel")[0]):
        runtime += "-triton"
    group = joined_names(*(table.text(name) for name in ("head_dim", "heads", "kv_heads")))
    ops = OpTable.concat(tables)
    return single(table, device, ops, runtime=runtime, family=family, group=group)


def _prefill(table: CsvTable, device: str) -> Measured:
    one = table.integer("q_len") == 1
    tables = [_writes(table, table.number("kv_len"))]
    if one.any():
        tables.append(_decoding(table, np.flatnonzero(one)))
    rows = np.flatnonzero(~one)
    names = ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
    b, q, n, heads, kv, d = (table.number(name)[rows] for name in names)
    width, cached, dtype = (values[rows] for values in _formats(table))
    ops = operators(
        "attention_prefill",
        m=q,
        k=d,
        n=n,
        batch=b * heads,
        dtype=dtype,
        activation_bytes=2 * b * d * (width * q * heads + cached * n * kv),
        flops=4.0 * b * heads * d * q * (n - (q - 1) / 2),
        row=rows,
    )
    return _finish(table, device, [*tables, ops], "attention_prefill")


def _decode(table: CsvTable, device: str) -> Measured:
    tables = [_writes(table, np.ones(len(table))), _decoding(table, np.arange(len(table)))]
    return _finish(table, device, tables, "attention_decode")


def _formats(table: CsvTable) -> tuple[F64, F64, I64]:
    """Bytes of a query value and of a cached one, and the number format of the operator [N].

    Over an 8-bit cache kernels compute in 8 bits or unpack as they go: a type of its own.
    """
    queries, cache = dtypes(table, "attn_dtype"), dtypes(table, "kv_dtype")
    width = np.array([DTYPE_BYTES[name] for name in DTYPES])
    narrow = width[cache] < width[queries]
    return width[queries], width[cache], np.where(narrow, DTYPES.index("fp8"), queries)


def _writes(table: CsvTable, tokens: F64) -> OpTable:
    """What the tables time along: the new keys and values written into the cache."""
    b, kv, d = (table.number(name) for name in ("batch", "kv_heads", "head_dim"))
    width, cached, dtype = _formats(table)
    moved = 2 * b * tokens * kv * d * (width + cached)
    return operators("gather", m=b * tokens, n=kv * d, dtype=dtype, activation_bytes=moved)


def _decoding(table: CsvTable, rows: I64) -> OpTable:
    names = ("batch", "kv_len", "heads", "kv_heads", "head_dim")
    b, n, heads, kv, d = (table.number(name)[rows] for name in names)
    width, cached, dtype = (values[rows] for values in _formats(table))
    return operators(
        "attention_decode",
        m=np.ceil(heads / kv),
        k=d,
        n=n,
        batch=b * kv,
        dtype=dtype,
        activation_bytes=2 * b * d * (width * heads + cached * n * kv),
        flops=4.0 * b * heads * d * n,
        row=rows,
    )
