"""Texts and pairs of texts to token ids, with the model folder's own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import RobertaProcessing
from torch import Tensor

from search_spaces.errors import InputError
from search_spaces.workload import batch_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """N texts as one ragged array: text i is `ids[starts[i] : starts[i] + lengths[i]]`."""

    ids: NDArray[np.int32]  # [sum of lengths]
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
        same = replace(self, ids=self.types.astype(np.int32), types=None)
        return same.batch(rows)[0]

    def batches(self, *, batch: int, sort: bool) -> list[NDArray[np.int64]]:
        """Row numbers of each batch, in the order in which they run."""
        order = batch_order(self.lengths, batch=batch, sort=sort)
        return [order[i : i + batch] for i in range(0, len(order), batch)]


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder.

    `tokenizer.json`, else a WordPiece `vocab.txt` (BERT, DistilBERT, ELECTRA), else a byte-level
    BPE `vocab.json` with `merges.txt` (RoBERTa).

    Raises:
        InputError: none of these files is there, or they cannot be read.
    """
    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            return Tokenizer.from_file(str(path))
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path = folder / "vocab.txt"
        if path.is_file():
            lower = bool(settings.get("do_lower_case", True))
            made: Tokenizer = BertWordPieceTokenizer(str(path), lowercase=lower)._tokenizer
            return made
        path = folder / "vocab.json"
        if path.is_file():
            return _byte_level(path, folder / "merges.txt", settings)
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError.one(path, "", None, f"not a readable tokenizer: {error}") from error
    raise InputError.one(
        folder, "tokenizer.json", None, "no tokenizer.json, vocab.txt or vocab.json here"
    )


def _byte_level(vocabulary: Path, merges: Path, settings: dict[str, Any]) -> Tokenizer:
    """RoBERTa's tokenizer from its two files."""
    prefix = bool(settings.get("add_prefix_space", False))
    bpe = ByteLevelBPETokenizer(
        str(vocabulary), str(merges), add_prefix_space=prefix, trim_offsets=True
    )._tokenizer
    first, last = ((name, bpe.token_to_id(name)) for name in ("<s>", "</s>"))
    bpe.post_processor = RobertaProcessing(last, first, trim_offsets=True, add_prefix_space=prefix)
    bpe.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    found: Tokenizer = bpe
    return found


def tokenize(tokenizer: Tokenizer, texts: Sequence[str | tuple[str, str]], max_len: int) -> Tokens:
    """Token ids of texts or pairs, cut to `max_len` tokens, special ones included.

    A pair is put together as the tokenizer does it, for BERT [CLS] a [SEP] b [SEP] with types 0
    up to the first [SEP] and 1 after it. What is too long loses tokens at the end of the longer
    text of the pair ("longest_first", as in Hugging Face's BERT).
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_len, strategy="longest_first")
    found = tokenizer.encode_batch(list(texts))
    types = [np.asarray(e.type_ids, dtype=np.int8) for e in found]
    return ragged(
        [np.asarray(e.ids, dtype=np.int32) for e in found],
        types if any(t.any() for t in types) else None,
    )


def ragged(
    texts: Sequence[NDArray[np.int32]], types: Sequence[NDArray[np.int8]] | None = None
) -> Tokens:
    """Texts, given as token ids each (and types, where they have any), as one ragged array."""
    lengths = np.array([ids.size for ids in texts], dtype=np.int64)
    return Tokens(
        ids=np.concatenate(texts) if texts else np.zeros(0, dtype=np.int32),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        types=None if types is None else np.concatenate(types),
    )
