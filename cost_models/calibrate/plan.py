"""Which operators `calibrate` measures, and what each of them is as rows of the operator table.

`make_plan` writes the items that `measure.py` executes; `ops_of` says what the same item is in
the vocabulary of the cost model, so that a fit sees (operators, seconds). Chains are several
encoder layers over distinct random weights in one call: they show what operators cost inside a
model, where weights come from memory and shapes change from call to call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from search_spaces.candidate import (
    DTYPE_BYTES,
    DTYPES,
    GRANULARITY,
    PLAIN_DTYPE,
    Backbone,
    keep_counts,
)
from search_spaces.lowering.encoder import (
    LayerShapes,
    lower_embedding,
    lower_exit_check,
    lower_layers,
)
from search_spaces.ops import KIND, OpTable

Item = dict[str, Any]

GENERIC = Backbone(
    name="generic-6x384",
    num_layers=6,
    hidden_size=384,
    num_heads=12,
    ffn_size=1536,
    vocab_size=30522,
    max_len=512,
)
COLD_BYTES = 96 * 2**20  # weights cycled through in the cold variants: above usual caches
COPY_BYTES = 2 * 64 * 2**20  # read and written by the item that shows the memory bandwidth
MEASURED_DTYPES = ("fp32", "bf16", "int8")
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048)
ROWS_COLD = (1, 8, 16, 32, 64, 128)
ROWS_EXPERT = (4, 8, 16, 32, 64, 128)
SEQUENCES = (
    (1, 8),
    (1, 16),
    (1, 32),
    (1, 64),
    (1, 128),
    (1, 256),
    (2, 24),
    (4, 32),
    (8, 8),
    (8, 24),
    (8, 64),
    (8, 256),
)
CHAINS = ((1, 8), (1, 16), (1, 24), (1, 40), (1, 64), (2, 24), (4, 16), (8, 12), (8, 24))
CHAINS_LONG = ((1, 128), (1, 256), (8, 128), (8, 256))
ROUTINGS = ((4, 1, False), (4, 1, True), (8, 2, True))  # experts, of which run, by token


def make_plan(backbone: Backbone | None = None) -> list[Item]:
    """Items to measure for a backbone (default: a 6 x 384 encoder).

    Returns:
        JSON-ready dictionaries; `group` names the family that is left out together when the
        error of the fit is estimated.
    """
    b = backbone or GENERIC
    items: list[Item] = []
    for dtype in MEASURED_DTYPES:
        items += _matmuls(b, dtype) + _chains(b, dtype)
        if PLAIN_DTYPE[dtype] == dtype:  # else these are operators of another type
            items += _attentions(b, dtype) + _small(b, dtype)
    items.append({"op": "copy", "dtype": "fp32", "bytes": COPY_BYTES, "group": "copy"})
    for number, item in enumerate(items):
        item["id"] = number
    return items


def _matmuls(b: Backbone, dtype: str) -> list[Item]:
    h, f = b.hidden_size, b.ffn_size
    items = []

    def add(m: int, k: int, n: int, copies: int, group: str) -> None:
        items.append(
            {"op": "matmul", "dtype": dtype, "m": m, "k": k, "n": n, "copies": copies}
            | {"group": f"{group}/{dtype}/{m}"}
        )

    for k, n in ((h, 3 * h), (h, h), (h, f), (f, h)):
        many = max(2, round(COLD_BYTES / (k * n * DTYPE_BYTES[dtype])))
        for m in ROWS:
            add(m, k, n, 1, "matmul")
        for m in ROWS_COLD:
            add(m, k, n, min(many, 64), "matmul_cold")
    for E in (4, 8):
        for m in ROWS_EXPERT:
            add(m, h, f // E, 1, "matmul_expert")
            add(m, f // E, h, 1, "matmul_expert")
    for m in (1, 8) if PLAIN_DTYPE[dtype] == dtype else ():
        add(m, h, 2, 1, "matmul_head")
        add(m, h, 16, 1, "matmul_head")
    return items


def _attentions(b: Backbone, dtype: str) -> list[Item]:
    items = []
    for batch, tokens in SEQUENCES:
        base = {"dtype": dtype, "batch": batch, "tokens": tokens, "heads": b.num_heads}
        base |= {"head_size": b.head_size}
        shape = f"{dtype}/{batch}x{tokens}"
        items.append(base | {"op": "attention_prefill", "group": f"attention/{shape}"})
        explicit = {"op": "attention_importance", "keep_rate": 0.5}
        items.append(base | explicit | {"group": f"importance/{shape}"})
    return items


def _small(b: Backbone, dtype: str) -> list[Item]:
    """Elementwise, reduce, gather, host decisions, exit checks and expert dispatch."""
    h, f = b.hidden_size, b.ffn_size
    items: list[Item] = []
    for m in (1, 8, 32, 128, 512, 2048):
        items.append({"op": "residual_norm", "m": m, "n": h, "group": f"norm/{dtype}/{m}"})
        items.append({"op": "gelu", "m": m, "n": f, "group": f"gelu/{dtype}/{m}"})
        items.append({"op": "gather", "m": m, "n": h, "group": f"gather/{dtype}/{m}"})
    for batch, tokens in ((1, 8), (1, 64), (8, 16), (8, 64), (8, 256)):
        shape = f"{dtype}/{batch}x{tokens}"
        sizes = {"batch": batch, "tokens": tokens, "hidden": h, "ffn": f}
        items.append(
            {"op": "mean", "batch": batch, "n": tokens, "hidden": h, "group": f"mean/{shape}"}
        )
        items.append(
            sizes | {"op": "exit_check", "copies": 6, "single": True, "group": f"check/{shape}"}
        )
        for E, k in ((4, 1), (4, 2), (8, 2)):
            for by_token in (False, True):
                dispatch = {"experts": E, "top_k": k, "by_token": by_token, "copies": 6}
                where = "token" if by_token else "sequence"
                items.append(
                    sizes
                    | dispatch
                    | {"op": "experts", "single": True}
                    | {"group": f"experts/{where}/{E}/{k}/{shape}"}
                )
    for m in (1, 8):
        items.append({"op": "host_sync", "m": m, "group": f"host/{dtype}/{m}"})
    for item in items:
        item["dtype"] = dtype
    return items


def _chains(b: Backbone, dtype: str) -> list[Item]:
    items = []
    sizes = {"hidden": b.hidden_size, "ffn": b.ffn_size, "heads": b.num_heads, "dtype": dtype}
    sizes |= {"op": "chain", "single": True}
    for batch, tokens in CHAINS:
        shape = {"batch": batch, "tokens": tokens}
        group = {"group": f"chain/{dtype}/{batch}x{tokens}"}
        for depth in (1, 3, 6):
            items.append(sizes | shape | group | {"copies": depth, "depth": depth})
        ends = {"copies": 6, "depth": 1, "ends": True, "vocab": b.vocab_size}
        items.append(sizes | shape | group | ends)
        extra = {"copies": 6, "depth": 6}
        items.append(sizes | shape | group | extra | {"checks": 5})
        items.append(sizes | shape | group | extra | {"drop_after": 2, "keep_rate": 0.5})
        for experts, top_k, by_token in ROUTINGS:
            split = {"experts": experts, "top_k": top_k, "by_token": by_token}
            items.append(sizes | shape | group | extra | split)
    for batch, tokens in CHAINS_LONG:  # dear: two layers show what six would
        shape = {"batch": batch, "tokens": tokens, "copies": 2, "depth": 2}
        group = {"group": f"chain/{dtype}/{batch}x{tokens}"}
        items.append(sizes | shape | group)
        items.append(sizes | shape | group | {"ends": True, "vocab": b.vocab_size, "depth": 1})
        for keep in (0.5, 0.25):
            items.append(sizes | shape | group | {"drop_after": 1, "keep_rate": keep, "checks": 1})
        for experts, top_k, by_token in ROUTINGS[:2]:
            split = {"experts": experts, "top_k": top_k, "by_token": by_token}
            items.append(sizes | shape | group | split)
    return items


def ops_of(item: Item, backbone: Backbone) -> OpTable:
    """The operators that one execution of `item` runs, in the form that lowering writes.

    Args:
        item: From `make_plan`.
        backbone: The one that the plan was made for.
    """
    return _OPS[item["op"]](item, backbone)


def working_set_bytes(item: Item, ops: OpTable) -> float:
    """Weights that are read between two uses of the same ones: what must stay cached, in bytes."""
    once = float((ops.count * ops.weight_bytes).sum())
    if item["op"] == "chain":
        return once
    if item.get("single", False):
        return float("inf")  # timed right after other items: nothing of it is cached
    return once * int(item.get("copies", 1))


def _one(
    kind: str,
    item: Item,
    *,
    m: int,
    k: int = 1,
    n: int = 1,
    weights: float = 0.0,
    moved: float = 0.0,
    flops: float = 0.0,
) -> OpTable:
    """A table of one operator; `weights` and `moved` count values, not bytes."""
    moving = DTYPE_BYTES[PLAIN_DTYPE[item["dtype"]]]

    def ints(value: int) -> Any:
        return np.array([value], dtype=np.int64)

    def floats(value: float) -> Any:
        return np.array([value], dtype=np.float64)

    return OpTable(
        candidate=ints(0),
        layer=ints(0),
        kind=ints(KIND[kind]),
        count=floats(1.0),
        m=ints(m),
        k=ints(k),
        n=ints(n),
        batch=ints(1),
        dtype=ints(DTYPES.index(item["dtype"])),
        weight_bytes=floats(weights * DTYPE_BYTES[item["dtype"]]),
        activation_bytes=floats(moved * moving),
        flops=floats(flops),
        executed_flops=floats(flops),
    )


def _op_matmul(item: Item, b: Backbone) -> OpTable:
    m, k, n = item["m"], item["k"], item["n"]
    moved = float(m * (k + n))
    flops = 2.0 * m * k * n
    return _one("matmul", item, m=m, k=k, n=n, weights=k * n + n, moved=moved, flops=flops)


def _op_gelu(item: Item, b: Backbone) -> OpTable:
    size = float(item["m"] * item["n"])
    return _one("elementwise", item, m=item["m"], n=item["n"], moved=2 * size, flops=8 * size)


def _op_residual_norm(item: Item, b: Backbone) -> OpTable:
    m, n = item["m"], item["n"]
    size = float(m * n)
    return _one("elementwise", item, m=m, n=n, weights=2 * n, moved=5 * size, flops=9 * size)


def _op_gather(item: Item, b: Backbone) -> OpTable:
    m, n = item["m"], item["n"]
    return _one("gather", item, m=m, n=n, moved=2.0 * m * n)


def _op_mean(item: Item, b: Backbone) -> OpTable:
    m, n = item["batch"] * item["hidden"], item["n"]
    return _one("reduce", item, m=m, n=n, moved=float(m * n), flops=2.0 * m * n)


def _op_host(item: Item, b: Backbone) -> OpTable:
    return _one("host_sync", item, m=item["m"])


def _layer_shapes(
    item: Item, layers: int, n_in: list[int], n_ffn: list[int], drops: list[bool]
) -> LayerShapes:
    def full(value: int) -> Any:
        return np.full(layers, value, dtype=np.int64)

    by_token = bool(item.get("by_token", False))
    return LayerShapes(
        layer=np.arange(layers),
        n_in=np.array(n_in),
        n_ffn=np.array(n_ffn),
        batch=full(item["batch"]),
        drops=np.array(drops),
        num_experts=full(item.get("experts", 1)),
        top_k=full(item.get("top_k", 1)),
        granularity=full(GRANULARITY.index("token" if by_token else "sequence")),
        dtype=full(DTYPES.index(item["dtype"])),
    )


def _op_attention(item: Item, b: Backbone) -> OpTable:
    drop = item["op"] == "attention_importance"
    tokens = item["tokens"]
    kept = int(keep_counts(tokens, item["keep_rate"])) if drop else tokens
    ops = lower_layers(b, _layer_shapes(item, 1, [tokens], [kept], [drop]))
    return ops.take(np.isin(ops.kind, [KIND["attention_prefill"], KIND["attention_importance"]]))


def _op_experts(item: Item, b: Backbone) -> OpTable:
    """What an expert layer has and a dense one has not: everything after the first norm."""
    tokens = item["tokens"]
    split = lower_layers(b, _layer_shapes(item, 1, [tokens], [tokens], [False]))
    norms = np.flatnonzero((split.kind == KIND["elementwise"]) & (split.weight_bytes > 0))
    return split.take(np.arange(norms[0] + 1, norms[-1]))


def _op_check(
    item: Item, b: Backbone, layer: int = 0, tokens: int | None = None, check: bool = True
) -> OpTable:
    return lower_exit_check(
        b,
        layer=np.array([layer]),
        batch=np.array([item["batch"]]),
        n=np.array([tokens or item["tokens"]]),
        dtype=np.array([DTYPES.index(item["dtype"])]),
        num_classes=2,
        check=check,
    )


def _op_chain(item: Item, b: Backbone) -> OpTable:
    depth, tokens = item["depth"], item["tokens"]
    at = item.get("drop_after", 0)
    kept = int(keep_counts(tokens, item.get("keep_rate", 1.0)))
    alive = [kept if at and i >= at else tokens for i in range(depth + 1)]
    drops = [i + 1 == at for i in range(depth)]
    parts = [lower_layers(b, _layer_shapes(item, depth, alive[:-1], alive[1:], drops))]
    parts += [
        _op_check(item, b, layer=i, tokens=alive[i + 1]) for i in range(item.get("checks", 0))
    ]
    if item.get("ends", False):
        dtype = np.array([DTYPES.index(item["dtype"])])
        parts.append(
            lower_embedding(b, batch=np.array([item["batch"]]), n=np.array([tokens]), dtype=dtype)
        )
        parts.append(_op_check(item, b, layer=depth - 1, tokens=alive[depth], check=False))
    return OpTable.concat(parts)


_OPS = {
    "matmul": _op_matmul,
    "attention_prefill": _op_attention,
    "attention_importance": _op_attention,
    "gelu": _op_gelu,
    "residual_norm": _op_residual_norm,
    "mean": _op_mean,
    "gather": _op_gather,
    "host_sync": _op_host,
    "experts": _op_experts,
    "exit_check": _op_check,
    "chain": _op_chain,
}
