"""Attention of serving stacks by batch, lengths and heads (AIConfigurator's two tables).

`q_len` of 1 throughout is decoding, anything else causal prefill. Query heads that share a
cached head are rows `m` of one problem when decoding: `batch` = sequences x cached heads. A
group is a head width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.gpu_rows import DTYPE_OF, dtypes, operators, single, tables_by
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
    """One table for each device and framework; number formats of the cache are mixed."""
    table = read_csv(path, root, COLUMNS, repeats=True)
    decodes = bool((table.integer("q_len") == 1).all())
    return tables_by(table, ("framework",), _decode if decodes else _prefill)


def _finish(table: CsvTable, device: str, ops: OpTable, family: str) -> Measured:
    framework = str(table.text("framework")[0]).split("/")[0]
    group = np.char.add("head width ", table.text("head_dim"))
    return single(table, device, ops, runtime=framework, family=family, group=group)


def _cache_width(table: CsvTable) -> np.ndarray:
    dtypes(table, "kv_dtype")
    return np.array([DTYPE_BYTES[DTYPE_OF[str(t)]] for t in table.text("kv_dtype")])


def _prefill(table: CsvTable, device: str) -> Measured:
    names = ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
    b, q, n, heads, kv, d = (table.integer(name).astype(np.float64) for name in names)
    dtype = dtypes(table, "attn_dtype")
    width = np.array([DTYPE_BYTES[name] for name in DTYPES])[dtype]
    ops = operators(
        "attention_prefill",
        m=q,
        k=d,
        n=n,
        batch=b * heads,
        dtype=dtype,
        activation_bytes=2 * b * d * (width * q * heads + _cache_width(table) * n * kv),
        flops=4.0 * b * heads * d * q * (n - (q - 1) / 2),
    )
    return _finish(table, device, ops, "attention_prefill")


def _decode(table: CsvTable, device: str) -> Measured:
    names = ("batch", "kv_len", "heads", "kv_heads", "head_dim")
    b, n, heads, kv, d = (table.integer(name).astype(np.float64) for name in names)
    dtype = dtypes(table, "attn_dtype")
    width = np.array([DTYPE_BYTES[name] for name in DTYPES])[dtype]
    ops = operators(
        "attention_decode",
        m=np.ceil(heads / kv),
        k=d,
        n=n,
        batch=b * kv,
        dtype=dtype,
        activation_bytes=2 * b * d * (width * heads + _cache_width(table) * n * kv),
        flops=4.0 * b * heads * d * n,
    )
    return _finish(table, device, ops, "attention_decode")
