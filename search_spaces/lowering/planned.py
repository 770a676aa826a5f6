"""Layers of a plan -> operator table: fewer tokens, experts of a policy, keys of tokens that left.

As `lowering.stacks`, but attention, feed-forward network and keys of one layer may have different
numbers of tokens, and experts are those of the candidate (`Experts`), layer by layer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from search_spaces.backbone import Backbone
from search_spaces.candidate import DTYPES, Candidate
from search_spaces.folded import folded, shared_width
from search_spaces.lowering.attention import add_attention, is_decode, seen_keys, visible_pairs
from search_spaces.lowering.decoder import times
from search_spaces.lowering.encoder import LayerShapes, lower_layers
from search_spaces.lowering.experts import add_experts
from search_spaces.lowering.heads import lower_token_choice
from search_spaces.lowering.plan import LayerPlan
from search_spaces.lowering.rows import FLOPS_NORM, Rows
from search_spaces.lowering.skimmed import scores
from search_spaces.lowering.stacks import (
    FLOPS_ROTATE,
    CallShapes,
    Widths,
    add_cross_attention,
    add_ffn,
    add_residual_norm,
    key_biases,
    lower_skipped_kv,
    out_biases,
)
from search_spaces.ops import KIND, OpTable

I64 = NDArray[np.int64]

# Routers that read no score of the token: no matmul of their own.
_BLIND = ("hash", "task", "random")


def lower_plan(
    candidate: Candidate,
    plan: LayerPlan,
    *,
    stack: str,
    batch: int,
    cached: int = 0,
    source: int = 0,
) -> OpTable:
    """Every layer of a stack; `count` is how often it is expected to run.

    Args:
        candidate: Whose experts and dtype they have.
        plan: Tokens in each layer.
        stack: "encoder" or "decoder".
        batch: Sequences.
        cached: Tokens per sequence in the cache before the call.
        source: States of an encoder per sequence that cross attention reads.
    """
    there = np.flatnonzero((plan.queries > 0) & (plan.reach > 0))
    ranked = plan.ranks[there] & _is_plain(candidate.backbone, candidate, stack)
    parts = []
    if ranked.any():
        parts.append(_ranked(candidate, plan, there[ranked], batch))
    if not ranked.all() or not there.size:
        parts.append(_layers(candidate, plan, there[~ranked], stack, batch, cached, source))
    table = times(OpTable.concat(parts), plan.reach)
    parts = [table, *_gates(candidate, plan, batch)]
    owing = np.flatnonzero(plan.owed > 0)
    if owing.size:
        parts.append(times(_owed(candidate, owing, batch, cached), plan.owed))
    return OpTable.concat(parts)


def _is_plain(backbone: Backbone, candidate: Candidate, stack: str) -> bool:
    """Layers that `lowering.encoder` knows, without experts."""
    kind = (backbone.norm_place, backbone.norm, backbone.ffn_kind, backbone.positions)
    plain = kind == ("post", "layer", "mlp", "learned") and candidate.moe is None
    return plain and backbone.type == "encoder" and stack == "encoder"


def _ranked(candidate: Candidate, plan: LayerPlan, at: I64, batch: int) -> OpTable:
    """Layers of an encoder that rank tokens by the attention that they receive."""
    one = np.ones_like(at)
    shapes = LayerShapes(
        layer=at,
        n_in=plan.entering[at],
        n_ffn=plan.ffn[at],
        batch=one * batch,
        drops=plan.ffn[at] < plan.entering[at],
        num_experts=one,
        top_k=one,
        granularity=one,
        dtype=one * DTYPES.index(candidate.dtype),
    )
    table = lower_layers(candidate.backbone, shapes)
    return replace(table, candidate=table.layer)


def _layers(
    candidate: Candidate,
    plan: LayerPlan,
    at: I64,
    stack: str,
    batch: int,
    cached: int,
    source: int,
) -> OpTable:
    one, backbone = np.ones_like(at), candidate.backbone
    dtype = one * DTYPES.index(candidate.dtype)
    causal = stack == "decoder"
    own = backbone.decoder() if causal else backbone.stacks()[0]
    w, rows = Widths.of(own, at.size), Rows(at, dtype)
    calls = CallShapes(
        layer=at,
        batch=one * batch,
        queries=plan.queries[at],
        cached=one * cached,
        dtype=dtype,
        source=one * source,
    )
    _attention(rows, backbone, calls, w, plan.only_keys[at], causal)
    norm = 1 if backbone.norm == "rms" else 2
    add_residual_norm(rows, batch * plan.queries[at], w.hidden, norm)
    if source and bool((w.source > 0).any()):
        add_cross_attention(rows, backbone, calls, w)
        add_residual_norm(rows, batch * plan.queries[at], w.hidden, norm)
    tokens = batch * plan.ffn[at]
    layered = [folded(candidate, int(layer), stack) for layer in at]
    routed = np.array([b.has_experts(int(x)) for b, x in zip(layered, at, strict=True)], bool)
    add_ffn(rows, backbone, tokens, w.hidden, w.ffn, where=~routed & (tokens > 0))
    add_residual_norm(rows, tokens, w.hidden, norm)
    tables = [rows.table()]
    for kind in dict.fromkeys(b for b, yes in zip(layered, routed, strict=True) if yes):
        chosen = np.array([b == kind for b in layered]) & routed
        tables.append(
            _experts(candidate, kind, at[chosen], dtype[chosen], tokens[chosen], w.hidden[chosen])
        )
    table = OpTable.concat(tables)
    return replace(table, candidate=table.layer)


def _attention(
    rows: Rows, backbone: Backbone, calls: CallShapes, w: Widths, only_keys: I64, causal: bool
) -> None:
    batch, queries, cached = calls.batch, calls.queries, calls.cached
    tokens, own, kv = batch * queries, w.heads * w.head, w.kv_heads * w.head
    key_bias = kv * key_biases(backbone)
    bias = own * (backbone.biases != "none") + key_bias
    rows.matmul(tokens, w.hidden, own + 2 * kv, bias=bias, body=True)
    rows.matmul(batch * only_keys, w.hidden, 2 * kv, bias=key_bias, where=only_keys > 0, body=True)
    if backbone.query_key_norm:
        rows.values("elementwise", tokens, own + kv, moves=2, flops=FLOPS_NORM)
    if backbone.positions == "rotary":
        rows.values("elementwise", tokens, own + kv, moves=2, flops=FLOPS_ROTATE)
    if causal:
        rows.values("gather", tokens, 2 * kv, moves=2, flops=0)
    window = backbone.sliding_window if causal else None
    seen = queries + only_keys
    add_attention(
        rows,
        batch=batch,
        queries=queries,
        keys=seen_keys(seen, cached, window),
        pairs=visible_pairs(queries, cached, window) if causal else 1.0 * queries * seen,
        heads=w.heads,
        kv_heads=w.kv_heads,
        head=w.head,
        decode=is_decode(queries, cached) & causal,
    )
    rows.matmul(tokens, own, w.hidden, bias=w.hidden * out_biases(backbone), body=True)


def _experts(
    candidate: Candidate, layered: Backbone, layer: I64, dtype: I64, tokens: I64, hidden: I64
) -> OpTable:
    rows, moe = Rows(layer, dtype), candidate.moe
    every = np.ones(layer.shape, dtype=bool)
    add_experts(
        rows, layered, tokens=tokens, hidden=hidden, loaded=None, grouped=True, where=every
    )
    table = rows.table()
    if moe is not None and moe.router in _BLIND:
        table = table.take(table.kind != KIND["matmul"])
    width = shared_width(candidate, layered)
    if not width:
        return table
    shared = Rows(layer, dtype)
    add_ffn(shared, layered, tokens, hidden, np.full_like(hidden, width))
    return OpTable.concat([table, shared.table()])


def _gates(candidate: Candidate, plan: LayerPlan, batch: int) -> list[OpTable]:
    """What decides by learned scores, and what brings tokens of skipped layers back."""
    parts, h = [], candidate.backbone.stacks()[-1].hidden
    for skim in candidate.skim:
        at = np.array([x - 1 for x in skim.layers if x <= plan.gated.size], dtype=np.int64)
        at = at[plan.gated[at] > 0]
        dtype = np.full_like(at, DTYPES.index(candidate.dtype))
        if skim.mechanism == "lookup" and at.size:
            rows, moved = Rows(at[:1], dtype[:1]), batch * plan.gated[at[:1]]
            rows.values("gather", moved * (skim.lookup_order or 1), h, moves=2, flops=1)
            parts.append(rows.table())
        elif at.size:
            passes = skim.skipped != "drop"
            kept = plan.ffn[at]
            if passes and skim.module != "ffn":
                kept = plan.queries[at]
            elif not passes and skim.point == "before_layer":
                kept = plan.entering[at]
            parts.append(
                lower_token_choice(
                    candidate.backbone,
                    layer=at,
                    batch=batch,
                    n=plan.gated[at],
                    kept=np.minimum(kept, plan.gated[at]),
                    dtype=dtype,
                    scored=scores(skim),
                    hidden=skim.gate_width,
                    restores=passes,
                    known=skim.mechanism == "fixed_schedule" and not passes,
                )
            )
    return [times(replace(part, candidate=part.layer), plan.alive) for part in parts]


def _owed(candidate: Candidate, at: I64, batch: int, cached: int) -> OpTable:
    one = np.ones_like(at)
    shapes = CallShapes(
        layer=at,
        batch=one * batch,
        queries=one,
        cached=one * cached,
        dtype=one * DTYPES.index(candidate.dtype),
    )
    table = lower_skipped_kv(candidate.backbone, shapes)
    return replace(table, candidate=table.layer)
