"""Texts and pairs of texts to token ids, with the model folder's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torch import Tensor

from search_spaces.errors import InputError
from search_spaces.workload import batch_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """N texts as one ragged array: text i is `ids[starts[i] : starts[i] + lengths[i]]`."""

    ids: NDArray[np.int32] | NDArray[np.int8]  # [sum of lengths]
    starts: NDArray[np.int64]  # [N]
    lengths: NDArray[np.int64]  # [N] special tokens included
    types: NDArray[np.int8] | None = None  # token types as `ids`; None: all are 0

    def __len__(self) -> int:
        return int(self.lengths.shape[0])

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        """Ids [B, T] padded with 0 on the right, and lengths [B], of the texts `rows`."""
        lengths = self.lengths[rows]
        out = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
        for i, row in enumerate(rows):
            start = self.starts[row]
            out[i, : lengths[i]] = self.ids[start : start + lengths[i]]
        return torch.from_numpy(out), lengths

    def batch_types(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Token types [B, T] of the texts `rows`, padded as `batch` pads; None where all are 0."""
        if self.types is None:
            return None
        return Tokens(ids=self.types, starts=self.starts, lengths=self.lengths).batch(rows)[0]

    def batches(self, *, batch: int, sort: bool) -> list[NDArray[np.int64]]:
        """Row numbers of each batch, in the order in which they run."""
        order = batch_order(self.lengths, batch=batch, sort=sort)
        return [order[i : i + batch] for i in range(0, len(order), batch)]


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder: `tokenizer.json`, else a WordPiece `vocab.txt`.

    Raises:
        InputError: neither file is there, or it cannot be read.
    """
    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            return Tokenizer.from_file(str(path))
        path = folder / "vocab.txt"
        if path.is_file():
            made: Tokenizer = BertWordPieceTokenizer(str(path), lowercase=True)._tokenizer
            return made
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError.one(path, "", None, f"not a readable tokenizer: {error}") from error
    raise InputError.one(folder, "tokenizer.json", None, "no tokenizer.json and no vocab.txt here")


def tokenize(tokenizer: Tokenizer, texts: Sequence[str | tuple[str, str]], max_len: int) -> Tokens:
    """Token ids of texts or pairs, cut to `max_len` tokens, special ones included.

    A pair is put together as the tokenizer does it, for BERT [CLS] a [SEP] b [SEP] with types 0
    up to the first [SEP] and 1 after it. What is too long loses tokens at the end of the longer
    text of the pair ("longest_first", as in Hugging Face's BERT).
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_len, strategy="longest_first")
    found = tokenizer.encode_batch(list(texts))
    rows = [np.asarray(e.ids, dtype=np.int32) for e in found]
    lengths = np.array([len(r) for r in rows], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    types = np.concatenate([np.asarray(e.type_ids, dtype=np.int8) for e in found])
    return Tokens(
        ids=np.concatenate(rows),
        starts=starts,
        lengths=lengths,
        types=types if types.any() else None,
    )
