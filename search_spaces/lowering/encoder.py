"""Encoder shapes -> operator table: what the eager runtime of a post-norm encoder executes.

One layer with `n_in` tokens per sequence entering it and `n_ffn` of them entering its
feed-forward network (methods.md C6: tokens are dropped after the attention):

    fused QKV matmul          [B n_in, h] @ [h, (1 + 2 kv / heads) h]
    attention                 B heads sequences of n_in x n_in; where tokens are dropped,
                              explicit, or scores of few queries and fused for those that stay
    output projection         [B n_ffn, h] @ [h, h]
    residual + layer norm     B n_ffn rows of h
    FFN in, GELU, FFN out     B n_ffn rows, dense or by experts
    residual + layer norm     B n_ffn rows of h

Every public function takes arrays with a leading axis R and returns one `OpTable`, whose
`candidate` column holds the row of the input that an operator belongs to. Operators of one kind
of step stand together (step-major), so sums per row are `np.bincount(table.candidate, ...)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.activity import Activity
from search_spaces.candidate import (
    Backbone,
    CandidateBatch,
    keep_counts,
)
from search_spaces.lowering.experts import (
    add_expert_ffn,
    expected_experts,
    lower_expert_overheads,
    up_projections,
)
from search_spaces.lowering.heads import (
    lower_compaction,
    lower_embedding,
    lower_entry,
    lower_exit_check,
    require_encoder,
)
from search_spaces.lowering.rows import (
    FLOPS_GELU,
    FLOPS_RESIDUAL_NORM,
    FLOPS_SOFTMAX,
    Rows,
    as_ints,
)
from search_spaces.ops import OpTable
from search_spaces.skims.attention_received import MAX_QUERIES

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

__all__ = [
    "LayerShapes",
    "expected_experts",
    "lower",
    "lower_compaction",
    "lower_embedding",
    "lower_entry",
    "lower_exit_check",
    "lower_expert_overheads",
    "lower_layers",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShapes:
    """R executions of one encoder layer. All arrays [R].

    `real_*` are what the inputs themselves have, without padding, as means over the batch; they
    enter `flops` only. None means that nothing is padding.
    """

    layer: I64  # 0-based
    n_in: I64  # padded tokens per sequence that enter the layer
    n_ffn: I64  # padded tokens per sequence that enter the feed-forward network
    batch: I64  # live sequences
    drops: Bool  # tokens are dropped here: they are ranked, attention_importance
    num_experts: I64  # 1 = dense
    top_k: I64
    granularity: I64  # index into GRANULARITY
    dtype: I64  # index into DTYPES
    real_in: F64 | None = None  # mean tokens per sequence entering the layer
    real_in_sq: F64 | None = None  # mean of its square
    real_ffn: F64 | None = None  # mean tokens per sequence entering the feed-forward network
    queries: I64 | None = None  # padded tokens that attend; None: n_in, n_ffn where tokens drop

    def __len__(self) -> int:
        return int(self.layer.shape[0])


def lower_layers(backbone: Backbone, shapes: LayerShapes, *, part: str = "layer") -> OpTable:
    """The operators of R encoder layers.

    Args:
        backbone: Geometry; must be of type "encoder".
        shapes: What enters each layer, arrays [R].
        part: The whole "layer", its "attention" or its "ffn", each up to its norm.

    Returns:
        Table whose `candidate` is the row of `shapes`.

    Raises:
        InputError: the backbone is not an encoder.
    """
    require_encoder(backbone)
    rows = Rows(as_ints(shapes.layer), as_ints(shapes.dtype))
    h, own = backbone.hidden_size, backbone.attention_width
    n_in, n_ffn, batch = as_ints(shapes.n_in), as_ints(shapes.n_ffn), as_ints(shapes.batch)
    real_in = 1.0 if shapes.real_in is None else shapes.real_in / n_in
    real_ffn: ArrayLike = 1.0 if shapes.real_ffn is None else shapes.real_ffn / n_ffn
    tokens = batch * n_ffn
    if part != "ffn":
        kv = backbone.kv_heads * backbone.head_size
        rows.matmul(batch * n_in, h, own + 2 * kv, real=real_in, body=True)
        _attention(rows, backbone, shapes)
        rows.matmul(tokens, own, h, real=real_ffn, body=True)
        _residual_norm(rows, tokens, h, real_ffn)
    if part != "attention":
        _dense_ffn(rows, backbone, tokens, real_ffn, as_ints(shapes.num_experts) <= 1)
        add_expert_ffn(rows, backbone, shapes, real_ffn)
        _residual_norm(rows, tokens, h, real_ffn)
    return rows.table()


def lower(
    candidates: CandidateBatch,
    *,
    lengths: ArrayLike,
    batch: int,
    num_classes: int,
    head: str = "pooler_linear",
    reach: Activity | None = None,
) -> OpTable:
    """All operators of B candidates: embedding, layers below the depth, checks, final head.

    Args:
        candidates: What is lowered.
        lengths: Unpadded token counts of the batch [N] or one length; the longest is the padded
            one, because the tokens that survive a skim grow with the length.
        batch: Live sequences, the same at every layer.
        num_classes: C.
        head: As in `lower_exit_check`.
        reach: Where given, its `tokens` [B, L, 2] set the share of the FLOPs that is not
            padding; without it nothing is. `count` is never multiplied by `reach.reach`: the
            caller weights rows by `reach.reach[candidate, layer]`.

    Returns:
        Table whose `candidate` is the row of `candidates`.

    Raises:
        InputError: the backbone is not an encoder or the head is unknown.
    """
    backbone, longest = candidates.backbone, int(np.max(np.asarray(lengths)))
    below = np.arange(backbone.num_layers) < candidates.depth[:, None]  # [B, L]
    n_ffn = keep_counts(np.asarray(longest), candidates.keep_rate)  # [B, L]
    n_in = keep_counts(np.asarray(longest), candidates.keep_before)
    row, layer = np.nonzero(below)
    real = None if reach is None else reach.tokens[row, layer]
    shapes = LayerShapes(
        layer=layer,
        n_in=n_in[row, layer],
        n_ffn=n_ffn[row, layer],
        batch=np.full(row.shape, batch),
        drops=(n_ffn < n_in)[row, layer],
        num_experts=candidates.num_experts[row, layer],
        top_k=candidates.top_k[row, layer],
        granularity=candidates.granularity[row],
        dtype=candidates.dtype[row],
        real_in=None if real is None else real[:, 0],
        real_in_sq=None if real is None else real[:, 1],
        real_ffn=None if real is None else real[:, 0] * (n_ffn / n_in)[row, layer],
    )
    last = layer == candidates.depth[row] - 1
    heads = candidates.exit_on[row, layer] | last
    at, where = row[heads], layer[heads]
    checks = lower_exit_check(
        backbone,
        layer=where,
        batch=batch,
        n=n_ffn[at, where],
        dtype=candidates.dtype[at],
        num_classes=num_classes,
        head=head,
        check=~last[heads],
        pooling=candidates.pooling[at],
    )
    entry = lower_entry(backbone, batch=batch, n=longest, kept=n_in[:, 0], dtype=candidates.dtype)
    return OpTable.concat(
        [
            entry,
            _relabel(lower_layers(backbone, shapes), row),
            _relabel(checks, at),
        ]
    )


def _relabel(table: OpTable, names: I64) -> OpTable:
    relabelled = table.take(np.arange(len(table)))
    relabelled.candidate[:] = names[table.candidate]
    return relabelled


def _attention(rows: Rows, backbone: Backbone, shapes: LayerShapes) -> None:
    """Fused attention; where tokens are dropped, the explicit one that also ranks them.

    Up to MAX_QUERIES tokens, the explicit matrix of B heads n^2 values is written by the scores,
    read and written by the softmax, read by the values and by the column means: 5 moves. Longer
    texts have the scores of MAX_QUERIES queries alone, which the values do not read, and fused
    attention for the n_ffn tokens that stay. The gather moves the context and the residual
    input, B n_ffn rows of h, in and out: 4 moves.
    """
    n, drops = as_ints(shapes.n_in), np.asarray(shapes.drops, dtype=bool)
    problems, head = as_ints(shapes.batch) * backbone.num_heads, backbone.head_size
    long = drops & (n > MAX_QUERIES)
    asked = np.where(long, MAX_QUERIES, n)
    stay = np.where(drops, as_ints(shapes.n_ffn), n)
    if shapes.queries is not None:
        stay = as_ints(shapes.queries)
    pairs = problems.astype(np.float64) * n * asked
    kept = 4.0 * shapes.batch * shapes.n_ffn * backbone.hidden_size
    real: ArrayLike = 1.0
    if shapes.real_in_sq is not None:
        real = shapes.real_in_sq / (n.astype(np.float64) * n)
    rows.add(
        "attention_prefill",
        m=stay,
        k=head,
        n=n,
        batch=problems,
        activations=2.0 * problems * (stay + n) * head,
        executed=4.0 * problems * stay.astype(np.float64) * n * head,
        real=real,
        where=~drops | long,
    )
    rows.add(
        "attention_importance",
        m=asked,
        k=head,
        n=n,
        batch=problems,
        activations=np.where(long, 1.0 * (asked + n), 4.0 * n) * problems * head
        + np.where(long, 4.0, 5.0) * pairs
        + kept,
        executed=(np.where(long, 2.0, 4.0) * head + FLOPS_SOFTMAX + 1) * pairs,
        real=real,
        where=drops,
    )


def _residual_norm(rows: Rows, tokens: I64, h: int, real: ArrayLike) -> None:
    """Add (two reads, a write) and layer norm (a read, a write)."""
    rows.values(
        "elementwise", tokens, h, moves=5, flops=FLOPS_RESIDUAL_NORM, weights=2 * h, real=real
    )


def _dense_ffn(rows: Rows, backbone: Backbone, tokens: I64, real: ArrayLike, dense: Bool) -> None:
    h, f, up = backbone.hidden_size, backbone.ffn_size, up_projections(backbone)
    rows.matmul(tokens, h, up * f, real=real, where=dense, body=True)
    rows.values("elementwise", tokens, f, moves=up + 1, flops=FLOPS_GELU, real=real, where=dense)
    rows.matmul(tokens, f, h, real=real, where=dense, body=True)
