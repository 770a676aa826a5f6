"""Networks known by a line of geometry only, as operator tables.

    layers, hidden, ffn, heads      of the layers
    q_len, kv_len                   tokens that enter, tokens that are attended
    gmacs, weight_m                 what a forward pass computes and reads

What the first six do not say follows from the seventh: the number of feed-forward matrices (two,
or three where gated), weights that layers share, cross-attention of decoders (query and output
projection; keys and values come from a cache), and what is left is a vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from search_spaces.candidate import DTYPE_BYTES, DTYPES
from search_spaces.lowering.rows import FLOPS_GELU, FLOPS_RESIDUAL_NORM, Rows
from search_spaces.ops import KIND, OpTable

I64 = NDArray[np.int64]
ENOUGH = 0.02  # relative difference of weight counts that rounding explains


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A network: one line of geometry."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    q_len: int
    kv_len: int
    weights: float  # values that one forward pass reads

    @property
    def label(self) -> str:
        """Name of what has equal shapes: weights that layers share do not count."""
        return f"L{self.layers} h{self.hidden} f{self.ffn} q{self.q_len} kv{self.kv_len}"


def network(geometry: Geometry, dtype: str, weight_dtype: str) -> OpTable:
    """The operators of one forward pass of batch 1 as candidate 0.

    Args:
        geometry: Shapes.
        dtype: Of activations and of all that is not a matmul with weights.
        weight_dtype: Of those matmuls; narrower ones are read as such.
    """
    g, rows = geometry, _rows(dtype)
    h, f, count = g.hidden, g.ffn, float(g.layers)
    ups = 2 if _near(g.weights, g.layers * (4 * h * h + 3 * h * f)) else 1
    _matmul(rows, g.q_len, h, 3 * h, count)
    _attention(rows, g.q_len, g.kv_len, g.heads, h // g.heads, count)
    _matmul(rows, g.q_len, h, h, count)
    if g.q_len == 1:
        _matmul(rows, 1, h, h, 2 * count)  # cross-attention: query and output projection
    _residual_norm(rows, g.q_len, h, count * (3 if g.q_len == 1 else 2))
    _matmul(rows, g.q_len, h, ups * f, count)
    rows.values("elementwise", g.q_len, f, moves=ups + 1, flops=FLOPS_GELU, count=count)
    _matmul(rows, g.q_len, f, h, count)
    body = g.layers * ((6 if g.q_len == 1 else 4) * h * h + (ups + 1) * h * f)
    if g.weights > body * (1 + ENOUGH):
        _matmul(rows, g.q_len, h, round((g.weights - body) / h), 1.0)
    table = narrowed(rows.table(), weight_dtype)
    shared = _near(g.weights * g.layers, body) and g.layers > 1
    return _shared(table, g.layers) if shared else table


def mobile_bert(layers: int, tokens: int, dtype: str, weight_dtype: str) -> OpTable:
    """MobileBERT (arXiv:2004.02984): bottlenecks of 128 in layers 512 wide, four FFN a layer."""
    rows, count = _rows(dtype), float(layers)
    wide, narrow = 512, 128
    _matmul(rows, tokens, wide, narrow, 2 * count)  # into the bottleneck, once for q and k
    _matmul(rows, tokens, narrow, narrow, 2 * count)  # q and k
    _matmul(rows, tokens, wide, narrow, count)  # v
    _attention(rows, tokens, tokens, 4, narrow // 4, count)
    _matmul(rows, tokens, narrow, narrow, count)
    _matmul(rows, tokens, narrow, wide, 4 * count)
    rows.values("elementwise", tokens, wide, moves=2, flops=1, count=4 * count)  # ReLU
    _matmul(rows, tokens, wide, narrow, 4 * count)
    _residual_norm(rows, tokens, narrow, 5 * count)
    _matmul(rows, tokens, narrow, wide, count)
    _residual_norm(rows, tokens, wide, count)
    return narrowed(rows.table(), weight_dtype)


def joined_ops(tables: list[OpTable]) -> OpTable:
    """Rows of one measurement each, `candidate` numbered in their order."""
    numbered = [
        replace(table, candidate=np.full(len(table), i, dtype=np.int64))
        for i, table in enumerate(tables)
    ]
    return OpTable.concat(numbered)


def narrowed(table: OpTable, dtype: str) -> OpTable:
    """The table with its matmuls, and their weights, in another type.

    A graph that is quantised to int8 weights has integer activations, too, so that attention is
    integer arithmetic as well; weights narrower than that are widened on their way.
    """
    matmul = table.kind == KIND["matmul"]
    integer = (table.kind == KIND["attention_prefill"]) & (dtype == "int8")
    width = np.array([DTYPE_BYTES[name] for name in DTYPES])
    changed = np.where(matmul | integer, DTYPES.index(dtype), table.dtype)
    return replace(
        table,
        dtype=changed,
        weight_bytes=table.weight_bytes * width[changed] / width[table.dtype],
    )


def on_processor(table: OpTable, nodes: int, tokens: int, width: int, dtype: str) -> OpTable:
    """The table with `nodes` of its graph run by the processor.

    Each copies its rows of `width` values there and back. A graph that leaves the processor at
    least as many nodes as it has matmuls with weights leaves it those (quantised graphs of the
    ONNX runtime do); fewer, or what is more, are small nodes without much arithmetic.
    """
    if nodes == 0:
        return table
    matmul = table.kind == KIND["matmul"]
    linear = int(table.count[matmul].sum() * 3 / 2)  # query, key and value are three nodes
    moved, rows = nodes >= linear, _rows(dtype)
    rows.add("host_sync", m=tokens, n=width, count=float(nodes), activations=2.0 * tokens * width)
    small = rows.table()
    if not moved:
        return OpTable.concat([table, small])
    kind = np.where(matmul, KIND["host_sync"], table.kind)
    small = replace(small, count=small.count - table.count[matmul].sum())
    return OpTable.concat([replace(table, kind=kind), small])


def _rows(dtype: str) -> Rows:
    one = np.zeros(1, dtype=np.int64)
    return Rows(one, np.full(1, DTYPES.index(dtype)))


def _matmul(rows: Rows, m: int, k: int, n: int, count: float) -> None:
    rows.matmul(np.full(1, m), k, n, count=count, body=True)


def _attention(rows: Rows, q: int, kv: int, heads: int, width: int, count: float) -> None:
    """Fused attention; one query is a decode step that reads the cache."""
    kind = "attention_decode" if q == 1 else "attention_prefill"
    moved = 2.0 * heads * width * (q + kv)
    flops = 4.0 * heads * q * kv * width
    rows.add(kind, m=q, k=width, n=kv, batch=heads, count=count, activations=moved, executed=flops)


def _residual_norm(rows: Rows, tokens: int, width: int, count: float) -> None:
    rows.values(
        "elementwise",
        tokens,
        width,
        moves=5,
        flops=FLOPS_RESIDUAL_NORM,
        weights=2 * width,
        count=count,
    )


def _near(value: float, other: float) -> bool:
    return abs(value - other) <= ENOUGH * other


def _shared(table: OpTable, layers: int) -> OpTable:
    """Weights that `layers` executions share, read by the first of them alone."""
    matmul = table.kind == KIND["matmul"]
    return replace(
        table, weight_bytes=np.where(matmul, table.weight_bytes / layers, table.weight_bytes)
    )
