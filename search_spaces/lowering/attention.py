"""Attention of any stack as one operator: full, causal or sliding, with shared keys or a cache.

A mask reaches the form through FLOPs: `executed_flops` counts the (query, key) pairs that a
kernel does not skip, so that `executed_flops / (4 m n k batch)` is the share of the score matrix
that is computed, and a square causal prefill has about half of it. Heads that share keys show in
the bytes of a prefill, and in `m` and `batch` of a decode (see `search_spaces.ops`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.lowering.rows import Rows, as_ints
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

FEW_QUERIES = 16  # up to so many new tokens against a cache run in the kernels of decoding


def visible_pairs(queries: ArrayLike, cached: ArrayLike, window: int | None = None) -> F64:
    """(Query, key) pairs per head of a causal call.

    Query i of q = 1..queries sees min(cached + i, window) keys, itself included.

    Args:
        queries: New tokens, any shape.
        cached: Tokens before them, broadcasts.
        window: Keys that a query sees at most; None: all.
    """
    q = np.asarray(queries, dtype=np.float64)
    before = np.asarray(cached, dtype=np.float64)
    if window is None:
        return q * before + q * (q + 1) / 2
    growing = np.clip(window - before, 0, q)  # queries that still see everything
    return growing * before + growing * (growing + 1) / 2 + (q - growing) * window


def add_attention(
    rows: Rows,
    *,
    batch: I64,
    queries: I64,
    keys: I64,
    pairs: ArrayLike,
    heads: I64,
    kv_heads: I64,
    head: I64,
    decode: Bool,
    where: Bool | None = None,
) -> None:
    """Scores, softmax and weighted values of R calls; all arrays [R].

    Args:
        rows: Where the operators go.
        batch: Sequences.
        queries: Query tokens per sequence.
        keys: Key tokens per sequence that are read.
        pairs: (Query, key) pairs per head that are computed.
        heads: Query heads.
        kv_heads: Heads of keys and values, a divisor of `heads`.
        head: Width of one head.
        decode: Calls that run as attention_decode; the others are attention_prefill.
        where: Calls that there are; None: all.
    """
    there = np.ones(rows.row.shape, dtype=bool) if where is None else where
    width = head.astype(np.float64) * batch
    more: dict[str, Any] = {
        "activations": 2.0 * width * (heads * queries + kv_heads * keys),
        "executed": 4.0 * width * heads * np.asarray(pairs, dtype=np.float64),
        "k": head,
        "n": keys,
    }
    rows.add("attention_prefill", m=queries, batch=batch * heads, where=there & ~decode, **more)
    group = heads // kv_heads
    rows.add(
        "attention_decode",
        m=group * queries,
        batch=batch * kv_heads,
        where=there & decode,
        **more,
    )


def lower_attention(
    *,
    batch: ArrayLike,
    queries: ArrayLike,
    cached: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head: ArrayLike,
    dtype: ArrayLike,
    causal: bool = True,
    window: int | None = None,
) -> OpTable:
    """Attention alone, as kernels are measured; arguments broadcast to [R].

    Args:
        batch: Sequences.
        queries: Query tokens per sequence.
        cached: Keys before the first query: total keys = cached + queries.
        heads: Query heads.
        kv_heads: Heads of keys and values.
        head: Width of one head.
        dtype: Index into DTYPES of queries and keys.
        causal: Whether a query sees only what is before it.
        window: Keys that a causal query sees at most; None: all.

    Returns:
        One operator per row: attention_decode where at most `FEW_QUERIES` queries meet a cache,
        else attention_prefill.
    """
    fields = (batch, queries, cached, heads, kv_heads, head, dtype)
    b, q, before, a, kv, width, types = np.broadcast_arrays(
        *(np.atleast_1d(as_ints(x)) for x in fields)
    )
    rows = Rows(np.zeros_like(b), types)
    add_attention(
        rows,
        batch=b,
        queries=q,
        keys=seen_keys(q, before, window),
        pairs=visible_pairs(q, before, window) if causal else 1.0 * q * (before + q),
        heads=a,
        kv_heads=kv,
        head=width,
        decode=is_decode(q, before),
    )
    return rows.table()


def seen_keys(queries: I64, cached: I64, window: int | None) -> I64:
    """Keys that a causal call reads [R]: the cache as far as the first query sees it."""
    if window is None:
        return cached + queries
    return np.minimum(cached, window - 1) + queries


def is_decode(queries: I64, cached: I64) -> Bool:
    """Calls of few new tokens: one, or several (drafts, pending tokens) against a cache [R]."""
    found: Bool = (queries == 1) | ((queries <= FEW_QUERIES) & (cached > 0))
    return found
