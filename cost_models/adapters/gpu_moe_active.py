"""Expert layers by the number of experts that ran (as LLMServingSim's moe_layer has them)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.gpu_models import SHAPES
from cost_models.adapters.gpu_moe import layer_ops
from cost_models.adapters.gpu_rows import single, tables_by
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.candidate import DTYPES

COLUMNS = frozenset({"device", "model", "tp", "tokens", "activated_experts"})


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device and model; a group is a number of tokens."""
    return tables_by(read_csv(path, root, COLUMNS, repeats=True), ("model",), _build)


def _build(table: CsvTable, device: str) -> Measured | None:
    shape = SHAPES.get(str(table.text("model")[0]))
    if shape is None or shape.experts == 0:
        return None
    tokens, touched = (
        table.integer(name).astype(np.float64) for name in ("tokens", "activated_experts")
    )
    size = np.ones(len(table))
    ops = layer_ops(
        size * shape.hidden,
        shape.expert_inter / table.number("tp"),
        tokens * shape.top_k,
        touched,
        np.full(len(table), DTYPES.index("bf16")),
    )
    group = table.text("tokens")
    return single(table, device, ops, runtime="vllm", family="moe", group=group)
