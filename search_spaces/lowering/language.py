"""What surrounds the layers of a decoder: inputs, scores of the vocabulary, beams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.backbone import Backbone
from search_spaces.lowering.rows import FLOPS_GELU, FLOPS_NORM, FLOPS_SOFTMAX, Rows, broadcast
from search_spaces.ops import OpTable

I64 = NDArray[np.int64]


def lower_beam_step(
    backbone: Backbone, *, rows: ArrayLike, cached: ArrayLike, dtype: ArrayLike
) -> OpTable:
    """What choosing the next beams costs: log softmax, top-k of all, and the caches re-ordered.

    Args:
        backbone: A decoder or encoder-decoder.
        rows: Sentences x beams.
        cached: Tokens per beam in the cache.
        dtype: Index into DTYPES.

    Raises:
        InputError: no decoder.
    """
    stack, V = backbone.decoder(), backbone.vocab_size
    m, n, types = broadcast(rows, cached, dtype)
    table = Rows(np.full_like(m, stack.num_layers - 1), types)
    table.values("elementwise", m, V, moves=2, flops=FLOPS_SOFTMAX)
    table.values("reduce", m, V, moves=1, flops=1)
    table.add("host_sync", m=m)
    kept = n if backbone.sliding_window is None else np.minimum(n, backbone.sliding_window)
    width = 2 * stack.kv_heads * stack.head
    layers = float(stack.num_layers)
    table.values("gather", m * kept, width, moves=2, flops=0, count=layers, where=kept > 0)
    return table.table()


def lower_token_embedding(
    backbone: Backbone, *, batch: ArrayLike, tokens: ArrayLike, dtype: ArrayLike
) -> OpTable:
    """Look-up of words, their positions where a table or a formula is added, and the first norm.

    Embeddings of another width than the layers are projected to it.
    """
    stack = backbone.stacks()[-1]
    b, n, types = broadcast(batch, tokens, dtype)
    rows, e = Rows(np.zeros_like(b), types), backbone.embedding_width
    width = e if stack.hidden == backbone.hidden_size else stack.hidden
    added = backbone.positions in ("learned", "fixed")
    rows.values("gather", b * n, width, moves=2, flops=0, count=2.0 if added else 1.0)
    rows.values("elementwise", b * n, width, moves=3, flops=1, where=np.full_like(b, added, bool))
    if width != stack.hidden:
        rows.matmul(b * n, width, stack.hidden)
    normed = np.full_like(b, backbone.embedding_norm or backbone.norm_place == "pre", bool)
    rows.values("elementwise", b * n, stack.hidden, moves=2, flops=FLOPS_NORM, where=normed)
    return rows.table()


def lower_lm_head(
    backbone: Backbone,
    *,
    rows: ArrayLike,
    dtype: ArrayLike,
    layer: ArrayLike = 0,
    check: bool = False,
) -> OpTable:
    """Scores of the whole vocabulary and the best of them, at the end or at an early exit.

    Args:
        backbone: A decoder or encoder-decoder.
        rows: Positions whose next token is asked for.
        dtype: Index into DTYPES.
        layer: 0-based layer that the head follows.
        check: Whether it is an exit: a norm of its own, the softmax of the scores, and the host
            that reads whether to stop.

    Raises:
        InputError: no decoder.
    """
    stack, V = backbone.decoder(), backbone.vocab_size
    m, types, layers = broadcast(rows, dtype, layer)
    table, h = Rows(layers, types), stack.hidden
    checks = np.full_like(m, check, bool)
    table.values("elementwise", m, h, moves=2, flops=FLOPS_NORM, where=checks)
    width = backbone.embedding_width if backbone.tied_embeddings else h
    if width != h and stack.hidden == backbone.hidden_size:
        table.matmul(m, h, width)
    else:
        width = h
    table.matmul(m, width, V, bias=0)
    table.values("reduce", m, V, moves=1, flops=1)
    table.values("reduce", m, V, moves=2, flops=FLOPS_SOFTMAX, where=checks)
    table.add("host_sync", m=m, where=checks)
    return table.table()


def lower_input(backbone: Backbone, batch: I64, tokens: I64, dtype: I64) -> OpTable:
    """Words, or two convolutions of width 3 over sound, the second halving its frames."""
    if not backbone.input_channels:
        encoder = replace(backbone, type="encoder", num_decoder_layers=0)
        return lower_token_embedding(encoder, batch=batch, tokens=tokens, dtype=dtype)
    rows, h, m = Rows(np.zeros_like(batch), dtype), backbone.hidden_size, batch * tokens
    rows.matmul(2 * m, 3 * backbone.input_channels, h, body=True)
    rows.values("elementwise", 2 * m, h, moves=2, flops=FLOPS_GELU)
    rows.matmul(m, 3 * h, h, body=True)
    rows.values("elementwise", m, h, moves=2, flops=FLOPS_GELU, count=2.0)
    return rows.table()
