"""Text to token ids, with the model folder's own tokenizer."""

from __future__ import annotations

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

    ids: NDArray[np.int32]  # [sum of lengths]
    starts: NDArray[np.int64]  # [N]
    lengths: NDArray[np.int64]  # [N] special tokens included

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


def tokenize(tokenizer: Tokenizer, texts: list[str], max_len: int) -> Tokens:
    """Token ids of `texts`, cut to `max_len` tokens, [CLS] and [SEP] included."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_len)
    return ragged([np.asarray(e.ids, dtype=np.int32) for e in tokenizer.encode_batch(texts)])


def ragged(texts: list[NDArray[np.int32]]) -> Tokens:
    """Texts, given as token ids each, as one ragged array."""
    lengths = np.array([ids.size for ids in texts], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    return Tokens(
        ids=np.concatenate(texts) if texts else np.zeros(0, dtype=np.int32),
        starts=starts[: len(texts)],
        lengths=lengths,
    )
