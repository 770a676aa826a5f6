"""Fused expert layers by tokens, experts and skew (as AIConfigurator's moe table has them).

The layer of one rank: two grouped matmuls over the experts that got tokens (gate and up
projection in one, then down). `tp` cuts the inner width, `ep` the experts. Which experts get
tokens follows `distribution`: evenly, or by loads drawn from a power law (`power_law_loads`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
POWER_LAW = "power_law_"
DRAWS = 5  # as many as the authors average over
# Experts without a gate (squared ReLU): hidden, inner width, experts of the Nemotron 3 family.
UNGATED = ("2688 1856 128", "2048 5120 512", "4096 2688 512", "1024 2688 512")

_WEIGHT = np.array([DTYPE_BYTES[name] for name in DTYPES])
_PLAIN = np.array([DTYPE_BYTES[PLAIN_DTYPE[name]] for name in DTYPES])


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device, framework and number format; a group is a layer's shape.

    Layers that several devices share have a runtime of their own: a rank does other work.
    """
    table = read_csv(path, root, COLUMNS, repeats=True)
    alone = (table.integer("tp") == 1) & (table.integer("ep") == 1)
    keys = ("framework", "dtype")
    return tables_by(table.take(alone), keys, _build) + tables_by(table.take(~alone), keys, _build)


def _build(table: CsvTable, device: str) -> Measured:
    names = ("tokens", "hidden", "inter", "topk", "experts", "tp", "ep")
    t, h, f, top, experts, tp, ep = (table.number(name) for name in names)
    framework = str(table.text("framework")[0]).split("/")[0]
    shape = joined_names(*(table.text(name) for name in ("hidden", "inter", "experts")))
    ungated = np.isin(shape, UNGATED) & (framework == "vllm")
    local = np.maximum(experts / ep, 1.0)
    assigned = np.maximum(t * top / ep, 1.0)
    touched = np.minimum(local, assigned)
    drawn = np.char.startswith(table.text("distribution"), POWER_LAW)
    power = np.array([float(d.removeprefix(POWER_LAW)) for d in table.text("distribution")[drawn]])
    cases = np.stack([t[drawn], experts[drawn], top[drawn], ep[drawn], power], axis=1)
    distinct, case = np.unique(cases, axis=0, return_inverse=True)
    loads = np.array([power_law_loads(*values) for values in distinct]).reshape(-1, 2)
    assigned[drawn], touched[drawn] = loads[case.reshape(-1)].T
    moved = assigned
    if "kernel" in table:  # this one also writes zeros for tokens of experts that are elsewhere
        moved = np.where(np.char.find(table.text("kernel"), "triton") >= 0, t * top, moved)
    ops = layer_ops(
        h,
        np.maximum(f / tp, 1.0),
        assigned,
        touched,
        dtypes(table),
        gates=np.where(ungated, 1.0, 2.0),
        moved=np.maximum(moved, assigned),
    )
    group = joined_names(shape, table.text("topk"))
    shared = bool((tp * ep > 1).any())
    scaled = "-fp8-tensor" if str(table.text("dtype")[0]) == "fp8" else ""  # other kernels
    runtime = f"{framework}{scaled}{'-rank' if shared else ''}"
    return single(table, device, ops, runtime=runtime, family="moe", group=group)


def power_law_loads(
    tokens: float, experts: float, top: float, ep: float, power: float
) -> tuple[float, float]:
    """Assignments to the fullest of `ep` ranks, and its experts that got any: means of DRAWS.

    As the table's authors draw them (AIConfigurator, collector/helper.py): a load for each expert
    from a density ~ x^-power on [1, 0.8 tokens], or on [0.01, 2] where assignments are no more
    than experts; scaled to the assignments and rounded; no expert has more than every token, and
    what is lacking goes to the emptiest ones. The fullest rank is the one that is timed.
    """
    size, total = int(experts), round(tokens * top)
    low, high = (1.0, 0.8 * tokens) if total > size else (0.01, 2.0)
    low, high = low ** (1 - power), high ** (1 - power)
    random = np.random.default_rng(0)
    load = (low + (high - low) * random.random((DRAWS, size))) ** (1 / (1 - power))
    load = np.minimum(np.rint(load * total / load.sum(axis=1, keepdims=True)), tokens)
    lacking = np.maximum(total - load.sum(axis=1), 0).astype(np.int64)
    for drawn, more in zip(load, lacking, strict=True):
        drawn[np.argsort(drawn, kind="stable")] += np.bincount(
            np.arange(more) % size, minlength=size
        )
    ranks = load.reshape(DRAWS, int(ep), -1)
    fullest = ranks[np.arange(DRAWS), ranks.sum(axis=2).argmax(axis=1)]
    found = np.maximum([fullest.sum(axis=1).mean(), (fullest > 0).sum(axis=1).mean()], 1.0)
    return float(found[0]), float(found[1])


def layer_ops(
    h: F64,
    f: F64,
    assigned: F64,
    touched: F64,
    dtype: NDArray[np.int64],
    *,
    gates: F64 | float = 2.0,
    moved: F64 | None = None,
) -> OpTable:
    """Two grouped matmuls for each of N rows; `count` is the experts that got tokens.

    Args:
        h: Hidden width [N].
        f: Inner width of an expert [N].
        assigned: Tokens times experts of each, here [N].
        touched: Experts that got tokens [N].
        dtype: Index into DTYPES [N].
        gates: Up-projections [N], 2 with a gate.
        moved: Rows of activations that the kernels write and read [N]; None: `assigned`.
    """
    load = assigned / touched  # tokens of an expert
    rows = load if moved is None else moved / touched
    return OpTable.concat(
        [
            operators(
                "grouped_matmul",
                m=np.ceil(load - 1e-9),
                k=k,
                n=n,
                count=touched,
                dtype=dtype,
                weight_bytes=_WEIGHT[dtype] * k * n,
                activation_bytes=_PLAIN[dtype] * rows * (k + n),
                flops=2.0 * load * k * n,
            )
            for k, n in ((h, gates * f), (f, h))
        ]
    )
