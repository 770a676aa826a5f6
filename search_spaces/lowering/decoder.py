"""Decoders and encoder-decoders -> operator table: prompts, decode steps, whole generations.

A network runs in calls. `lower_prefill` adds a prompt to an empty cache, `lower_decode_step` adds
one token per sequence (or several: drafts, pending tokens), `lower_encode` runs the encoder of
an encoder-decoder and makes the keys of its states once, `lower_generation` adds up a whole
answer. Beams are sequences: a step of 4 sentences with 5 beams has `batch` 20, and
`lower_beam_step` is what choosing among them costs.

All arguments broadcast to [R]; `candidate` of a table is the row.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.backbone import Backbone
from search_spaces.errors import InputError
from search_spaces.lowering.language import (
    lower_beam_step,
    lower_input,
    lower_lm_head,
    lower_token_embedding,
)
from search_spaces.lowering.rows import broadcast
from search_spaces.lowering.stacks import CallShapes, lower_cross_keys, lower_stack
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

__all__ = [
    "lower_beam_step",
    "lower_decode_step",
    "lower_encode",
    "lower_generation",
    "lower_lm_head",
    "lower_prefill",
    "lower_token_embedding",
]

LOGITS: tuple[str, ...] = ("last", "all", "none")  # positions whose next token is asked for
CACHE_LENGTHS = 8  # cache lengths that stand for all steps of a generation


def lower_prefill(
    backbone: Backbone,
    *,
    batch: ArrayLike,
    tokens: ArrayLike,
    dtype: ArrayLike,
    cached: ArrayLike = 0,
    depth: ArrayLike | None = None,
    source: ArrayLike = 0,
    logits: str = "last",
    grouped: bool = True,
) -> OpTable:
    """One call of a decoder that adds `tokens` tokens per sequence to its cache.

    Args:
        backbone: A decoder or encoder-decoder.
        batch: Sequences (beams are sequences).
        tokens: New tokens per sequence.
        dtype: Index into DTYPES.
        cached: Tokens per sequence that are in the cache before: a later chunk of a prompt.
        depth: Layers that run; None: all.
        source: States of the encoder per sequence that cross attention reads.
        logits: "last" position, "all" of them, or "none": whose next token is asked for.
        grouped: As in `lower_stack`.

    Raises:
        InputError: no decoder, or an unknown `logits`.
    """
    if logits not in LOGITS:
        raise InputError.one(
            "arguments", "logits", logits, f"unknown; use one of {', '.join(LOGITS)}"
        )
    stack = backbone.decoder()
    top = stack.num_layers if depth is None else depth
    b, n, types, before, layers, states = broadcast(batch, tokens, dtype, cached, top, source)
    calls = CallShapes(
        layer=np.zeros_like(b), batch=b, queries=n, cached=before, dtype=types, source=states
    )
    parts = [
        lower_token_embedding(backbone, batch=b, tokens=n, dtype=types),
        over_layers(backbone, calls, layers, grouped=grouped),
    ]
    if logits != "none":
        asked = b * n if logits == "all" else b
        parts.append(lower_lm_head(backbone, rows=asked, dtype=types, layer=layers - 1))
    return OpTable.concat(parts)


def lower_decode_step(
    backbone: Backbone,
    *,
    batch: ArrayLike,
    cached: ArrayLike,
    dtype: ArrayLike,
    queries: ArrayLike = 1,
    depth: ArrayLike | None = None,
    source: ArrayLike = 0,
    grouped: bool = True,
) -> OpTable:
    """One step: `queries` new tokens per sequence against `cached` ones, and their logits.

    Args:
        backbone: A decoder or encoder-decoder.
        batch: Sequences x beams.
        cached: Tokens per sequence in the cache before the step.
        dtype: Index into DTYPES.
        queries: New tokens per sequence: 1, or those of a draft that is verified.
        depth: Layers that run; None: all. Layers above it that later tokens look back at cost
            `lower_skipped_kv`.
        source: As in `lower_prefill`.
        grouped: As in `lower_stack`.

    Raises:
        InputError: no decoder.
    """
    return lower_prefill(
        backbone,
        batch=batch,
        tokens=queries,
        dtype=dtype,
        cached=cached,
        depth=depth,
        source=source,
        logits="all",
        grouped=grouped,
    )


def lower_encode(
    backbone: Backbone,
    *,
    batch: ArrayLike,
    tokens: ArrayLike,
    dtype: ArrayLike,
    beams: ArrayLike = 1,
    cross_keys: bool = True,
) -> OpTable:
    """The encoder of an encoder-decoder over its input, then the keys of its states.

    Args:
        backbone: An encoder-decoder.
        batch: Sequences.
        tokens: Tokens per sequence, or frames of sound after the convolutions.
        dtype: Index into DTYPES.
        beams: Copies of keys and values per sequence that the runtime makes; 1: beams share.
        cross_keys: Whether the keys of every decoder layer are made here.

    Raises:
        InputError: not an encoder-decoder.
    """
    if backbone.type != "enc_dec":
        raise InputError.one(
            backbone.name, "backbone.type", backbone.type, "has no encoder beside a decoder"
        )
    b, n, types, copies = broadcast(batch, tokens, dtype, beams)
    zero = np.zeros_like(b)
    calls = CallShapes(layer=zero, batch=b, queries=n, cached=zero, dtype=types)
    parts = [
        lower_input(backbone, b, n, types),
        over_layers(backbone, calls, np.full_like(b, backbone.num_layers), is_decoder=False),
    ]
    if cross_keys:
        keys = replace(calls, batch=b * copies, source=n)
        row, layer = _row_layers(np.full_like(b, backbone.num_decoder_layers))
        table = lower_cross_keys(backbone, _at(keys, row, layer))
        parts.append(_relabel(table, row))
    return OpTable.concat(parts)


def lower_generation(
    backbone: Backbone,
    *,
    batch: ArrayLike,
    prompt: ArrayLike,
    steps: ArrayLike,
    dtype: ArrayLike,
    beams: int = 1,
    source: ArrayLike = 0,
    lengths: int = CACHE_LENGTHS,
    grouped: bool = True,
) -> OpTable:
    """All decode steps of a generation; the prompt itself is a call of its own.

    Args:
        backbone: A decoder or encoder-decoder.
        batch: Sentences.
        prompt: Tokens in the cache before the first step.
        steps: Tokens that are written per sentence.
        dtype: Index into DTYPES.
        beams: Beams per sentence; above 1 each step ends with `lower_beam_step`.
        source: States of the encoder per sentence.
        lengths: Cache lengths that stand for all steps, each in the middle of its stretch: the
            sum of a cost that is linear in the length is exact.
        grouped: As in `lower_stack`.

    Raises:
        InputError: no decoder.
    """
    b, start, total, types, states = broadcast(batch, prompt, steps, dtype, source)
    parts = []
    for cached, share in step_lengths(start, total, lengths):
        tables = [
            lower_decode_step(
                backbone,
                batch=b * beams,
                cached=cached,
                dtype=types,
                source=states,
                grouped=grouped,
            )
        ]
        if beams > 1:
            tables.append(lower_beam_step(backbone, rows=b * beams, cached=cached, dtype=types))
        parts += [times(table, share) for table in tables]
    return OpTable.concat(parts)


def over_layers(
    backbone: Backbone,
    calls: CallShapes,
    depth: I64,
    *,
    is_decoder: bool = True,
    grouped: bool = True,
) -> OpTable:
    """The first `depth` [R] layers of a stack for R calls, whose own layer numbers are ignored."""
    row, layer = _row_layers(depth)
    shapes = _at(calls, row, layer)
    table = lower_stack(backbone, shapes, is_decoder=is_decoder, grouped=grouped)
    return _relabel(table, row)


def step_lengths(start: I64, steps: I64, most: int) -> list[tuple[I64, F64]]:
    """Cache lengths [R] that stand for steps, with the steps that each stands for [R].

    Step t of 0..steps-1 finds start + t tokens. Up to `most` stretches of nearly equal length
    are stood for by their middle, rounded down, and by the next length as far as it lies between.
    """
    found = []
    stretches = max(1, min(most, int(steps.max(initial=1))))
    for part in range(stretches):
        first = steps * part // stretches
        size = steps * (part + 1) // stretches - first
        middle = start + first + (size - 1) / 2
        low = np.maximum(np.floor(middle), 0).astype(np.int64)
        upper = (middle - low) * size
        found.append((low, (size - upper).astype(np.float64)))
        if (upper > 0).any():
            found.append((low + 1, upper))
    return found


def times(table: OpTable, count: F64) -> OpTable:
    """The table with `count` [R] executions of every call; calls that never run are left out."""
    scaled = replace(table, count=table.count * count[table.candidate])
    return scaled.take(scaled.count > 0)


def _row_layers(depth: I64) -> tuple[I64, I64]:
    """Rows and 0-based layers below the depth, row-major."""
    row = np.repeat(np.arange(depth.size), depth)
    layer = np.arange(row.size) - np.repeat(np.cumsum(depth) - depth, depth)
    return row, layer


def _at(calls: CallShapes, row: I64, layer: I64) -> CallShapes:
    """The calls of `row`, once for each layer."""
    return CallShapes(
        layer=layer,
        batch=calls.batch[row],
        queries=calls.queries[row],
        cached=calls.cached[row],
        dtype=calls.dtype[row],
        source=None if calls.source is None else calls.source[row],
        loaded_experts=None if calls.loaded_experts is None else calls.loaded_experts[row],
    )


def _relabel(table: OpTable, names: I64) -> OpTable:
    return replace(table, candidate=names[table.candidate])
