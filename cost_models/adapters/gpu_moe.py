"""Fused expert layers by tokens, experts and skew (as AIConfigurator's moe table has them).

The layer of one rank: two grouped matmuls over the experts that got tokens (gate and up
projection in one, then down). `tp` cuts the inner width, `ep` the experts. Which experts get
tokens follows `distribution`: evenly, or by loads that fall with a power of the rank.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.gpu_rows import F64, dtypes, joined_names, operators, single, tables_by
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.candidate import DTYPE_BYTES, DTYPES, PLAIN_DTYPE
from search_spaces.ops import OpTable

COLUMNS = frozenset(
    {
        "device",
        "framework",
        "dtype",
        "tokens",
        "hidden",
        "inter",
        "topk",
        "experts",
        "tp",
        "ep",
        "distribution",
    }
)
SKEW = 0.45  # share of even routing that power-law loads reach in `active`; fitted, see there

_WEIGHT = np.array([DTYPE_BYTES[name] for name in DTYPES])
_PLAIN = np.array([DTYPE_BYTES[PLAIN_DTYPE[name]] for name in DTYPES])


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device, framework and number format; a group is a layer's shape."""
    table = read_csv(path, root, COLUMNS, repeats=True)
    return tables_by(table, ("framework", "dtype"), _build)


def _build(table: CsvTable, device: str) -> Measured:
    names = ("tokens", "hidden", "inter", "topk", "experts", "tp", "ep")
    t, h, f, top, experts, tp, ep = (table.integer(name).astype(np.float64) for name in names)
    even = table.text("distribution") == "balanced"
    local = np.maximum(experts / ep, 1.0)
    assigned = np.maximum(t * top / ep, 1.0)
    touched = active(local, assigned, even)
    ops = layer_ops(h, np.maximum(f / tp, 1.0), assigned, touched, dtypes(table))
    group = joined_names(*(table.text(name) for name in ("hidden", "inter", "topk", "experts")))
    framework = str(table.text("framework")[0]).split("/")[0]
    return single(table, device, ops, runtime=framework, family="moe", group=group)


def active(experts: F64, assigned: F64, even: np.ndarray) -> F64:
    """Experts that get at least one of `assigned` tokens [N].

    Evenly routed, as many as there are tokens for. With skewed loads E (1 - exp(-SKEW A / E)):
    the popular ones take what others would have got.
    """
    skewed = experts * (1 - np.exp(-SKEW * assigned / experts))
    return np.where(even, np.minimum(experts, assigned), np.maximum(skewed, 1.0))


def layer_ops(h: F64, f: F64, assigned: F64, touched: F64, dtype: np.ndarray) -> OpTable:
    """Two grouped matmuls for each of N rows; `count` is the experts that got tokens."""
    rows = assigned / touched  # tokens of an expert
    return OpTable.concat(
        [
            operators(
                "grouped_matmul",
                m=np.ceil(rows - 1e-9),
                k=k,
                n=n,
                count=touched,
                dtype=dtype,
                weight_bytes=_WEIGHT[dtype] * k * n,
                activation_bytes=_PLAIN[dtype] * rows * (k + n),
                flops=2.0 * rows * k * n,
            )
            for k, n in ((h, 2 * f), (f, h))
        ]
    )
