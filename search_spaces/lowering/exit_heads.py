"""Heads of every kind at exits and at the end of a network -> operator table.

linear         [B, h] @ [h, C]
pooler_linear  [B, h] @ [h, h], tanh, [B, h] @ [h, C]
student_attn   [B n, h] @ [h, 128], attention of 128 values over n tokens, then of the first
               token [B, 128] @ [128, 128] and @ [128, C]: 20,987,904 multiply-adds at h = 768
               and n = 128 beside the last matmul (Liu et al. 2020, "FastBERT")
aggregate      two mixers [B, h] @ [h, h], of states so far and of imagined ones, then linear
norm_lm        norm, [B, h] @ [h, V]
mlp_lm         a feed-forward network, then norm_lm
block_lm       a layer of its own, then norm_lm
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search_spaces.backbone import Backbone
from search_spaces.errors import InputError
from search_spaces.lowering.attention import add_attention
from search_spaces.lowering.language import lower_lm_head
from search_spaces.lowering.rows import FLOPS_GELU, FLOPS_SOFTMAX, FLOPS_TANH, Rows
from search_spaces.lowering.stacks import CallShapes, add_ffn, lower_stack
from search_spaces.ops import OpTable
from search_spaces.vocabulary import HEADS, LM_HEADS

I64 = NDArray[np.int64]
STUDENT_WIDTH = 128


def lower_head(
    backbone: Backbone,
    *,
    kind: str,
    layer: I64,
    batch: I64,
    tokens: I64,
    cached: I64,
    dtype: I64,
    num_classes: int,
    check: bool,
) -> OpTable:
    """R heads; `candidate` is the row.

    Args:
        backbone: Geometry; the head reads its last stack.
        kind: Of `vocabulary.HEADS`.
        layer: 0-based layer that the head follows [R].
        batch: Answers asked for [R]: sequences, or tokens where each has one of its own.
        tokens: Tokens of a sequence that a head over all of them reads [R].
        cached: Tokens in the cache, for a block of its own [R].
        dtype: Index into DTYPES [R].
        num_classes: C.
        check: Whether a score is computed and read by the host.

    Raises:
        InputError: an unknown kind.
    """
    if kind not in HEADS:
        raise InputError.one("arguments", "head", kind, f"use one of {', '.join(HEADS)}")
    if kind in LM_HEADS:
        return _language(backbone, kind, layer, batch, cached, dtype, check)
    rows, h = Rows(layer, dtype), backbone.stacks()[-1].hidden
    width = h
    if kind == "student_attn":
        width = STUDENT_WIDTH
        _student(rows, h, batch, tokens)
    elif kind == "pooler_linear":
        rows.matmul(batch, h, h)
        rows.values("elementwise", batch, h, moves=2, flops=FLOPS_TANH)
    elif kind == "aggregate":
        rows.matmul(batch, h, h)
        rows.matmul(batch, h, h)
        rows.values("elementwise", batch, h, moves=3, flops=FLOPS_TANH)
    rows.matmul(batch, width, num_classes)
    if check:
        rows.values("reduce", batch, num_classes, moves=2, flops=FLOPS_SOFTMAX)
        rows.add("host_sync", m=batch)
    return rows.table()


def lower_state_check(
    backbone: Backbone, *, layer: I64, batch: I64, dtype: I64, states: int = 1
) -> OpTable:
    """A score read off the states alone: a linear map (or a cosine of two) that the host reads."""
    rows, h = Rows(layer, dtype), backbone.stacks()[-1].hidden
    rows.matmul(batch, h, states)
    rows.values("elementwise", batch, 1, moves=2, flops=FLOPS_TANH)
    rows.add("host_sync", m=batch)
    return rows.table()


def _student(rows: Rows, h: int, batch: I64, tokens: I64) -> None:
    w, m = STUDENT_WIDTH, batch * tokens
    wide, one = np.full_like(batch, w), np.ones_like(batch)
    rows.matmul(m, h, w)
    rows.matmul(m, w, 3 * w)
    add_attention(
        rows,
        batch=batch,
        queries=tokens,
        keys=tokens,
        pairs=1.0 * tokens * tokens,
        heads=one,
        kv_heads=one,
        head=wide,
        decode=np.zeros(batch.shape, dtype=bool),
    )
    rows.matmul(m, w, w)
    rows.matmul(batch, w, w)
    rows.values("elementwise", batch, w, moves=2, flops=FLOPS_GELU)


def _language(
    backbone: Backbone, kind: str, layer: I64, batch: I64, cached: I64, dtype: I64, check: bool
) -> OpTable:
    parts = []
    if kind == "mlp_lm":
        stack, rows = backbone.decoder(), Rows(layer, dtype)
        add_ffn(
            rows,
            backbone,
            batch,
            np.full_like(batch, stack.hidden),
            np.full_like(batch, stack.ffn),
        )
        parts.append(rows.table())
    elif kind == "block_lm":
        one = np.ones_like(batch)
        shapes = CallShapes(layer=layer, batch=batch, queries=one, cached=cached, dtype=dtype)
        parts.append(lower_stack(backbone, shapes))
    parts.append(lower_lm_head(backbone, rows=batch, dtype=dtype, layer=layer, check=check))
    return OpTable.concat(parts)
