"""Vector operators of served models (as Vidur's vector_ops has them); a group is a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.gpu_rows import dtypes, operators, single, tables_by
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.candidate import DTYPE_BYTES, DTYPES
from search_spaces.ops import KIND

COLUMNS = frozenset({"device", "model", "op", "tp", "tokens", "hidden", "inter", "heads"})

_WIDTH = np.array([DTYPE_BYTES[name] for name in DTYPES])


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device and number format; operators without a formula are left out."""
    return tables_by(read_csv(path, root, COLUMNS, repeats=True), ("dtype",), _build)


def _build(table: CsvTable, device: str) -> Measured | None:
    names = ("input_layernorm", "post_attention_layernorm", "attn_rope", "mlp_act", "add", "emb")
    table = table.take(np.isin(table.text("op"), names))
    if len(table) == 0:
        return None
    columns = ("tokens", "hidden", "inter", "heads", "kv_heads", "tp")
    t, h, f, heads, kv, tp = (table.number(name) for name in columns)
    op, dtype = table.text("op"), dtypes(table)
    gated = np.where(table.text("gated") == "True", 3.0, 2.0) if "gated" in table else 3.0
    head = h / heads
    local = head * (heads / tp + np.maximum(kv / tp, 1.0))
    cases = [op == "attn_rope", op == "mlp_act", op == "add", op == "emb"]
    wide = np.select(cases, [local, f / tp, h, h], h)
    moves = np.select(cases, [2.0, gated, 3.0, 2.0], 2.0)
    ops = operators(
        "elementwise",
        m=t,
        n=np.maximum(wide, 1),
        dtype=dtype,
        activation_bytes=_WIDTH[dtype] * t * wide * moves,
        flops=t * wide,
    )
    ops.kind[op == "emb"] = KIND["gather"]
    group = table.text("model")
    return single(table, device, ops, runtime="vllm-layer", family="vector", group=group)
