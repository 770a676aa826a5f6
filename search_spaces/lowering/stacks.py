"""Layers of encoders and decoders of every published kind -> operator table.

One layer, where T = sequences x new tokens:

    fused QKV matmul       [T, h] @ [h, (heads + 2 kv heads) head]
    rotation of queries and keys, norm of their heads     where the backbone has them
    cache write            T rows of keys and values, in decoders
    attention              causal in decoders, over the cache and the new tokens
    output projection      [T, heads head] @ [heads head, h]
    residual + norm        T rows of h
    cross attention        query matmul, attention over the encoder's states, output, norm
    FFN or experts         as in lowering.encoder, experts of the backbone by loaded experts
    residual + norm        T rows of h

Keys and values of the encoder's states are made once per input (`lower_cross_keys`). Every
function takes arrays with a leading axis R; `candidate` of the table is the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.backbone import Backbone, Stack
from search_spaces.lowering.attention import (
    add_attention,
    is_decode,
    seen_keys,
    visible_pairs,
)
from search_spaces.lowering.experts import add_experts
from search_spaces.lowering.rows import FLOPS_GELU, FLOPS_NORM, FLOPS_RESIDUAL_NORM, Rows, as_ints
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FLOPS_ROTATE = 3  # two multiplications and an addition per value


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Widths of R layers, arrays [R] (rows of one network repeat them)."""

    hidden: I64
    heads: I64
    kv_heads: I64
    head: I64
    ffn: I64
    source: I64  # width of the states that cross attention reads; 0: there is none

    @staticmethod
    def of(stack: Stack, rows: int) -> Widths:
        """The widths of a stack, `rows` times."""
        names = ("hidden", "heads", "kv_heads", "head", "ffn", "source")
        return Widths(**{n: np.full(rows, getattr(stack, n), dtype=np.int64) for n in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShapes:
    """R executions of one layer. All arrays [R]."""

    layer: I64  # 0-based
    batch: I64  # sequences; beams are sequences
    queries: I64  # tokens per sequence that the call adds: a prompt, or one of a decode step
    cached: I64  # tokens per sequence that the cache holds before it; 0 in encoders
    dtype: I64  # index into DTYPES
    source: I64 | None = None  # encoder states per sequence that cross attention reads
    loaded_experts: F64 | None = None  # experts that get tokens; None: expected of a fair router

    def __len__(self) -> int:
        return int(self.layer.shape[0])


def lower_stack(
    backbone: Backbone,
    shapes: CallShapes,
    *,
    is_decoder: bool = True,
    widths: Widths | None = None,
    grouped: bool = True,
    part: str = "layer",
) -> OpTable:
    """The operators of R layers of a decoder (or encoder).

    Args:
        backbone: Geometry and kind.
        shapes: What enters each layer.
        is_decoder: Which of the backbone's stacks the layers belong to.
        widths: In place of the stack's own, where rows differ in width.
        grouped: Whether one call serves all experts of a layer, as in serving kernels; else the
            runtime makes one call per expert and the host waits for the router.
        part: The whole "layer", its "attention" (cross attention too) or its "ffn".

    Raises:
        InputError: the backbone has no decoder and one is asked for.
    """
    stack = backbone.decoder() if is_decoder else backbone.stacks()[0]
    w = widths or Widths.of(stack, len(shapes))
    rows = Rows(as_ints(shapes.layer), as_ints(shapes.dtype))
    tokens = as_ints(shapes.batch) * as_ints(shapes.queries)
    norm = 1 if backbone.norm == "rms" else 2
    if part != "ffn":
        _self_attention(rows, backbone, shapes, w, is_decoder)
        add_residual_norm(rows, tokens, w.hidden, norm)
        if shapes.source is not None and bool((w.source > 0).any()):
            add_cross_attention(rows, backbone, shapes, w)
            add_residual_norm(rows, tokens, w.hidden, norm)
    if part == "attention":
        return rows.table()
    routed = np.array([backbone.has_experts(int(x)) for x in rows.layer], dtype=bool)
    add_ffn(rows, backbone, tokens, w.hidden, w.ffn, where=~routed)
    if routed.any():
        add_experts(
            rows,
            backbone,
            tokens=tokens,
            hidden=w.hidden,
            loaded=shapes.loaded_experts,
            grouped=grouped,
            where=routed,
        )
        if backbone.num_shared_experts:
            shared = np.full_like(w.ffn, backbone.num_shared_experts * backbone.expert_width)
            add_ffn(rows, backbone, tokens, w.hidden, shared, where=routed)
    add_residual_norm(rows, tokens, w.hidden, norm)
    return rows.table()


def lower_cross_keys(
    backbone: Backbone, shapes: CallShapes, *, widths: Widths | None = None
) -> OpTable:
    """Keys and values of the encoder's states of R layers, made once per input.

    Args:
        backbone: An encoder-decoder.
        shapes: `batch` sequences (beams that hold a copy of their own count) of `source` states.
        widths: As in `lower_stack`.

    Raises:
        InputError: the backbone has no decoder.
    """
    w = widths or Widths.of(backbone.decoder(), len(shapes))
    rows = Rows(as_ints(shapes.layer), as_ints(shapes.dtype))
    states = as_ints(shapes.batch) * as_ints(shapes.source if shapes.source is not None else 0)
    kv = w.kv_heads * w.head
    bias = kv * key_biases(backbone)
    where = states > 0
    rows.matmul(states, w.source, 2 * kv, bias=bias, where=where, body=True)
    rows.values("gather", states, 2 * kv, moves=2, flops=0, where=where)
    return rows.table()


def lower_skipped_kv(backbone: Backbone, shapes: CallShapes) -> OpTable:
    """What tokens that left early still owe the layers above: keys and values of a copied state.

    Later tokens look back at every layer, so each skipped one projects the state that left to
    its keys and values and writes them (policy "copy_state"): norm, matmul of both, cache write.

    Args:
        backbone: A decoder.
        shapes: `batch * queries` tokens that skip each of R layers.

    Raises:
        InputError: the backbone has no decoder.
    """
    w = Widths.of(backbone.decoder(), len(shapes))
    rows = Rows(as_ints(shapes.layer), as_ints(shapes.dtype))
    tokens = as_ints(shapes.batch) * as_ints(shapes.queries)
    kv = w.kv_heads * w.head
    if backbone.norm_place == "pre":
        rows.values("elementwise", tokens, w.hidden, moves=2, flops=FLOPS_NORM)
    rows.matmul(tokens, w.hidden, 2 * kv, bias=kv * key_biases(backbone), body=True)
    if backbone.positions == "rotary":
        rows.values("elementwise", tokens, kv, moves=2, flops=FLOPS_ROTATE)
    rows.values("gather", tokens, 2 * kv, moves=2, flops=0)
    return rows.table()


def _self_attention(
    rows: Rows, backbone: Backbone, shapes: CallShapes, w: Widths, causal: bool
) -> None:
    batch, queries, cached = (as_ints(x) for x in (shapes.batch, shapes.queries, shapes.cached))
    tokens, own, kv = batch * queries, w.heads * w.head, w.kv_heads * w.head
    bias = own * (backbone.biases != "none") + kv * key_biases(backbone)
    rows.matmul(tokens, w.hidden, own + 2 * kv, bias=bias, body=True)
    if backbone.query_key_norm:
        rows.values("elementwise", tokens, own + kv, moves=2, flops=FLOPS_NORM)
    if backbone.positions == "rotary":
        rows.values("elementwise", tokens, own + kv, moves=2, flops=FLOPS_ROTATE)
    if causal:
        rows.values("gather", tokens, 2 * kv, moves=2, flops=0)
    window = backbone.sliding_window if causal else None
    add_attention(
        rows,
        batch=batch,
        queries=queries,
        keys=seen_keys(queries, cached, window),
        pairs=visible_pairs(queries, cached, window)
        if causal
        else 1.0 * queries * (queries + cached),
        heads=w.heads,
        kv_heads=w.kv_heads,
        head=w.head,
        decode=is_decode(queries, cached) & causal,
    )
    rows.matmul(tokens, own, w.hidden, bias=w.hidden * out_biases(backbone), body=True)


def add_cross_attention(rows: Rows, backbone: Backbone, shapes: CallShapes, w: Widths) -> None:
    """Queries against the encoder's states: few of them run like a decode against a cache."""
    batch, queries = as_ints(shapes.batch), as_ints(shapes.queries)
    states = as_ints(shapes.source if shapes.source is not None else 0)
    tokens, own, there = batch * queries, w.heads * w.head, states > 0
    more: dict[str, Any] = {"where": there, "body": True}
    rows.matmul(tokens, w.hidden, own, bias=own * (backbone.biases != "none"), **more)
    add_attention(
        rows,
        batch=batch,
        queries=queries,
        keys=states,
        pairs=1.0 * queries * states,
        heads=w.heads,
        kv_heads=w.kv_heads,
        head=w.head,
        decode=is_decode(queries, states),
        where=there,
    )
    rows.matmul(tokens, own, w.hidden, bias=w.hidden * out_biases(backbone), **more)


def add_ffn(rows: Rows, backbone: Backbone, tokens: I64, h: I64, f: I64, **more: Any) -> None:
    """A feed-forward network of f hidden values, its activation between two or three matrices."""
    up, bias = backbone.up_projections, out_biases(backbone)
    rows.matmul(tokens, h, up * f, bias=up * f * bias, body=True, **more)
    rows.values("elementwise", tokens, f, moves=up + 1, flops=FLOPS_GELU, **more)
    rows.matmul(tokens, f, h, bias=h * bias, body=True, **more)


def add_residual_norm(rows: Rows, tokens: I64, h: I64, values: int) -> None:
    """Add (two reads, a write) and norm (a read, a write) with `values` numbers a column."""
    rows.values("elementwise", tokens, h, moves=5, flops=FLOPS_RESIDUAL_NORM, weights=values * h)


def key_biases(backbone: Backbone) -> int:
    """Biases per column of keys and of values together."""
    return {"all": 2, "qkv": 2, "no_key": 1, "none": 0}[backbone.biases]


def out_biases(backbone: Backbone) -> int:
    """Biases per column of output projections and feed-forward networks."""
    return int(backbone.biases in ("all", "no_key"))
