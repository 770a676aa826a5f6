"""What a training step reads: batches of like length, parts that fit, pieces and joined texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dynsearch.models.tokens import Tokens, ragged

LONG_TOKENS = 128  # where most tokens stand in longer texts, training begins with pieces
CHUNK_TOKENS = 4096  # padded tokens that gradients are taken of at a time


def endless(tokens: Tokens, batch: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Batches of texts of like length, in random order, epoch after epoch."""
    while True:
        order = rng.permutation(len(tokens))
        parts: list[NDArray[np.int64]] = []
        for i in range(0, len(order), batch * 16):
            window = order[i : i + batch * 16]
            window = window[np.argsort(tokens.lengths[window], kind="stable")]
            parts += [window[j : j + batch] for j in range(0, len(window), batch)]
        for i in rng.permutation(len(parts)):
            yield parts[i]


def batch_parts(
    tokens: Tokens, rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], float]]:
    """`rows` in parts of at most CHUNK_TOKENS padded tokens, and the share of each."""
    size = max(1, CHUNK_TOKENS // int(tokens.lengths[rows].max()))
    for i in range(0, rows.size, size):
        part = rows[i : i + size]
        yield part, part.size / rows.size


def take(tokens: Tokens, rows: NDArray[np.int64]) -> Tokens:
    """The texts `rows`, in this order."""
    return at_places(tokens, [tokens.starts[i] + np.arange(tokens.lengths[i]) for i in rows])


def at_places(tokens: Tokens, places: Sequence[NDArray[np.int64]]) -> Tokens:
    """Texts made of the tokens at `places`, a list for each text.

    Token types never fall inside a text: once the second one of a pair has begun, what follows
    belongs to it.
    """
    types = None
    if tokens.types is not None:
        types = [np.maximum.accumulate(tokens.types[p]) for p in places]
    return ragged([tokens.ids[p] for p in places], types)


def piece_tokens(tokens: Tokens) -> int:
    """Length of the pieces that training begins with; 0 where texts are short.

    A quarter of the length that half of all tokens stand in texts of at least.
    """
    lengths = np.sort(tokens.lengths)
    passed = np.cumsum(lengths)
    middle = int(lengths[np.searchsorted(passed, passed[-1] / 2)])
    return middle // 4 if middle > LONG_TOKENS else 0


def pieces(tokens: Tokens, width: int, rng: np.random.Generator) -> Tokens:
    """A stretch of each text at a random place, its first and last token kept: `width` in all."""
    picked = []
    for start, length in zip(tokens.starts, tokens.lengths, strict=True):
        places = start + np.arange(length)
        if length > width:
            at = 1 + int(rng.integers(length - width + 1))
            places = np.concatenate([places[:1], places[at : at + width - 2], places[-1:]])
        picked.append(places)
    return at_places(tokens, picked)


def joined_texts(tokens: Tokens, rng: np.random.Generator) -> Tokens:
    """One text without a label a row: the beginning of text i, the end of another one.

    The two pieces together are about as long as the texts; both keep their special token.
    """
    others = rng.permutation(len(tokens))
    picked = []  # places of the tokens of each joined text
    for i, j in enumerate(others):
        first = tokens.starts[i] + np.arange(tokens.lengths[i])
        second = tokens.starts[j] + np.arange(tokens.lengths[j])
        share = rng.random()
        head = max(1, round(share * (first.size - 1)))
        tail = max(1, round((1.0 - share) * (second.size - 1)))
        picked.append(np.concatenate([first[:head], second[second.size - tail :]]))
    return at_places(tokens, picked)
