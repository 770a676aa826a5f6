"""What surrounds the layers of an encoder: embedding, exit heads with checks, compaction."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from search_spaces.candidate import POOLING, Backbone
from search_spaces.errors import InputError
from search_spaces.lowering.rows import (
    FLOPS_GELU,
    FLOPS_NORM,
    FLOPS_SOFTMAX,
    FLOPS_TANH,
    Rows,
    as_ints,
    broadcast,
)
from search_spaces.ops import OpTable
from search_spaces.tokens import SCORER_WIDTH

HEADS: tuple[str, ...] = ("pooler_linear", "linear")

_CLS = POOLING.index("cls")


def lower_exit_check(
    backbone: Backbone,
    *,
    layer: ArrayLike,
    batch: ArrayLike,
    n: ArrayLike,
    dtype: ArrayLike,
    num_classes: int,
    head: str = "pooler_linear",
    check: ArrayLike = True,
    pooling: ArrayLike = 0,
) -> OpTable:
    """Classification heads: of an early exit with its check, or the last one of a network.

    Args:
        backbone: Geometry.
        layer: 0-based layer that the head follows [R].
        batch: Live sequences [R].
        n: Padded tokens per sequence at this point [R].
        dtype: Index into DTYPES [R].
        num_classes: C.
        head: "pooler_linear" (h x h, tanh, h x C) or "linear" (h x C).
        check: Whether a score is computed and read by the host [R] or one for all; False for
            the head at a candidate's depth, which always answers.
        pooling: Index into POOLING [R] or one for all.

    Returns:
        Table whose `candidate` is the row r.

    Raises:
        InputError: the backbone is not an encoder or the head is unknown.
    """
    require_encoder(backbone)
    if head not in HEADS:
        raise InputError.one(
            "arguments", "head", head, f"unknown exit head, use one of {', '.join(HEADS)}"
        )
    layers, batches, tokens, dtypes, checks, poolings = np.broadcast_arrays(
        as_ints(layer),
        as_ints(batch),
        as_ints(n),
        as_ints(dtype),
        np.asarray(check, bool),
        as_ints(pooling),
    )
    rows, h = Rows(np.atleast_1d(layers), np.atleast_1d(dtypes)), backbone.hidden_size
    batches, tokens, checks, cls = np.atleast_1d(batches, tokens, checks, poolings == _CLS)
    rows.values("reduce", batches * h, tokens, moves=1, flops=2, where=~cls)  # masked mean
    rows.values("gather", batches, h, moves=2, flops=0, where=cls)
    if head == "pooler_linear":
        rows.matmul(batches, h, h)
        rows.values("elementwise", batches, h, moves=2, flops=FLOPS_TANH)  # tanh
    rows.matmul(batches, h, num_classes)
    rows.values("reduce", batches, num_classes, moves=2, flops=FLOPS_SOFTMAX, where=checks)
    rows.add("host_sync", m=batches, where=checks)
    return rows.table()


def lower_compaction(
    backbone: Backbone,
    *,
    layer: ArrayLike,
    remaining: ArrayLike,
    n: ArrayLike,
    dtype: ArrayLike,
) -> OpTable:
    """The copy of the sequences that stay into a smaller batch.

    Args:
        backbone: Geometry.
        layer: 0-based layer after which samples left [R].
        remaining: Sequences that stay [R].
        n: Padded tokens per sequence [R].
        dtype: Index into DTYPES [R].

    Returns:
        One gather of `remaining * n` rows of h per row r.

    Raises:
        InputError: the backbone is not an encoder.
    """
    require_encoder(backbone)
    layers, stays, tokens, dtypes = np.broadcast_arrays(
        *np.atleast_1d(as_ints(layer), as_ints(remaining), as_ints(n), as_ints(dtype))
    )
    rows = Rows(layers, dtypes)
    rows.values("gather", stays * tokens, backbone.hidden_size, moves=2, flops=0)
    return rows.table()


def lower_token_choice(
    backbone: Backbone,
    *,
    layer: ArrayLike,
    batch: ArrayLike,
    n: ArrayLike,
    kept: ArrayLike,
    dtype: ArrayLike,
    scored: bool = True,
    hidden: int = 0,
    restores: bool = False,
    known: bool = False,
) -> OpTable:
    """Tokens chosen by a learned router: scores, top-k, the kept ones side by side.

    What a layer pays that only some of its tokens enter (mixture of depths, gates): a matmul of
    width 1 and its sigmoid (or a layer of `hidden` units before it), top-k of each sequence, the
    gather of kept rows; and, where skipped tokens stay in the sequence, the weighted sum back
    into their places.

    Args:
        backbone: Geometry.
        layer: 0-based layer [R].
        batch: Sequences [R].
        n: Tokens per sequence before [R].
        kept: Tokens per sequence that enter [R].
        dtype: Index into DTYPES [R].
        scored: Whether a router scores tokens; False: a score is there (attention received).
        hidden: Units of the router's hidden layer; 0: it has none.
        restores: Whether the answers return to their places among the skipped tokens.
        known: Whether it is known beforehand how many stay: where all do, nothing is asked.

    Returns:
        Table whose `candidate` is the row r.
    """
    layers, b, tokens, stay, types = broadcast(layer, batch, n, kept, dtype)
    rows, h = Rows(layers, types), backbone.stacks()[-1].hidden
    there = (stay < tokens) | (not known)
    asks = there & scored
    if hidden:
        rows.matmul(b * tokens, h, hidden, where=asks)
        rows.values("elementwise", b * tokens, hidden, moves=2, flops=FLOPS_GELU, where=asks)
    rows.matmul(b * tokens, hidden or h, 1, where=asks)
    rows.values("elementwise", b * tokens, 1, moves=2, flops=FLOPS_TANH, where=asks)
    rows.values("reduce", b, tokens, moves=2, flops=FLOPS_SOFTMAX, where=there)  # top-k
    rows.values("gather", b * stay, h, moves=2, flops=0, where=there)
    if restores:
        rows.values("gather", b * stay, h, moves=3, flops=2, where=there)
    return rows.table()


def lower_entry(
    backbone: Backbone, *, batch: ArrayLike, n: ArrayLike, kept: ArrayLike, dtype: ArrayLike
) -> OpTable:
    """Embedding and, where fewer tokens enter the first layer, their choice, as layer 0.

    Who stays is decided by a scorer of SCORER_WIDTH units that reads embeddings.

    Args:
        backbone: Geometry.
        batch: Live sequences [R].
        n: Padded tokens per sequence [R].
        kept: Tokens per sequence that enter the first layer [R].
        dtype: Index into DTYPES [R].

    Returns:
        Table whose `candidate` is the row r.

    Raises:
        InputError: the backbone is not an encoder.
    """
    batches, tokens, stay, dtypes = broadcast(batch, n, kept, dtype)
    choice = lower_token_choice(
        backbone,
        layer=0,
        batch=batches,
        n=tokens,
        kept=stay,
        dtype=dtypes,
        hidden=SCORER_WIDTH,
        known=True,
    )
    return OpTable.concat(
        [lower_embedding(backbone, batch=batches, n=tokens, dtype=dtypes), choice]
    )


def lower_embedding(
    backbone: Backbone, *, batch: ArrayLike, n: ArrayLike, dtype: ArrayLike
) -> OpTable:
    """Look-up of word, position and type vectors, their sum and a layer norm, as layer 0.

    Embeddings of another width than the layers are projected to it by a matmul.

    Args:
        backbone: Geometry.
        batch: Live sequences [R].
        n: Padded tokens per sequence [R].
        dtype: Index into DTYPES [R].

    Returns:
        Table whose `candidate` is the row r.

    Raises:
        InputError: the backbone is not an encoder.
    """
    require_encoder(backbone)
    batches, tokens, dtypes = np.broadcast_arrays(
        *np.atleast_1d(as_ints(batch), as_ints(n), as_ints(dtype))
    )
    rows, e = Rows(np.zeros_like(dtypes), dtypes), backbone.embedding_width
    m = batches * tokens
    rows.values("gather", m, e, moves=2, flops=0, count=3.0)
    rows.values("elementwise", m, e, moves=3, flops=1, count=2.0)
    rows.values("elementwise", m, e, moves=2, flops=FLOPS_NORM, weights=2 * e)
    if e != backbone.hidden_size:
        rows.matmul(m, e, backbone.hidden_size)
    return rows.table()


def require_encoder(backbone: Backbone) -> None:
    """Refuse what is not lowered yet.

    Raises:
        InputError: the backbone is not an encoder.
    """
    if backbone.type != "encoder":
        raise InputError.one(
            backbone.name,
            "backbone.type",
            backbone.type,
            "this type can be described but is not lowered yet; use an encoder backbone",
        )
