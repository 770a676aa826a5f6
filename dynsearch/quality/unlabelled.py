"""Texts without labels, on which early exits learn to agree with the last one.

They are cut to the length of the labelled ones: whole reviews serve a task of sentences.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from dynsearch.models.tokens import Tokens, ragged, tokenize
from dynsearch.quality.splits import normalise
from search_spaces.errors import InputError

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?:<br\s*/?>\s*)+")
CHUNK = 2000  # texts that are tokenised at a time


def read_texts(path: Path, column: str) -> list[str]:
    """Texts of a file: `.txt` one a line, `.csv` and `.jsonl` those of `column`; no label needed.

    Raises:
        InputError: missing or unreadable file, missing column, no text in it.
    """
    if not path.is_file():
        raise InputError.one(path, "data.unlabelled", None, "no such file")
    try:
        with path.open(encoding="utf-8", newline="") as f:
            texts = list(_texts(path, f, column))
    except UnicodeDecodeError as error:
        raise InputError.one(path, "", None, f"not UTF-8 text: {error}") from error
    except (json.JSONDecodeError, csv.Error) as error:
        raise InputError.one(path, "", None, f"cannot be read: {error}") from error
    if not texts:
        raise InputError.one(path, "", None, "no text in this file")
    return texts


def _texts(path: Path, lines: Iterable[str], column: str) -> Iterable[str]:
    if path.suffix == ".txt":
        yield from (line.strip() for line in lines if line.strip())
        return
    if path.suffix == ".csv":
        csv.field_size_limit(1 << 24)
        rows: Iterable[object] = csv.DictReader(lines)
    elif path.suffix in (".jsonl", ".ndjson"):
        rows = (json.loads(line) for line in lines if line.strip())
    else:
        raise InputError.one(path, "", path.suffix, "give a .txt, a .jsonl or a .csv file")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or column not in row:
            raise InputError.one(path, column, f"row {number}", "this column is missing")
        text = row[column]
        if isinstance(text, str) and text.strip():
            yield text


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlabelled:
    """Texts whose labels are unknown or not used, beside the labelled ones of all splits."""

    texts: list[str]
    labelled: list[str]

    def sha256(self, labelled_sha256: str) -> str:
        """Content hash of these texts and of the labelled ones, whose own hash is given."""
        digest = hashlib.sha256(labelled_sha256.encode())
        for text in self.texts:
            digest.update(f"\1{text}".encode())
        return digest.hexdigest()

    def tokens(
        self, tokenizer: Tokenizer, *, like: NDArray[np.int64], max_len: int, rows: int
    ) -> Tokens:
        """Up to `rows` tokenised pieces of the texts, as long as the labelled texts are.

        Texts longer than 95 % of the labelled ones are cut at the ends of sentences; pieces
        shorter than 95 % of them are left out, and so is every piece that is a labelled text of
        any split. Which come first is decided by content, not by the order of the file.

        Args:
            tokenizer: Of the model.
            like: [N] tokens of the labelled texts.
            max_len: Longest text, in tokens.
            rows: Pieces wanted.

        Raises:
            InputError: nothing is left.
        """
        low, high = (int(q) for q in np.quantile(like, (0.05, 0.95)))
        seen = {_digest(text) for text in self.labelled}
        order = sorted(range(len(self.texts)), key=lambda i: _digest(self.texts[i]))
        found: list[NDArray[np.int32]] = []
        for start in range(0, len(order), CHUNK):
            whole = [self.texts[i] for i in order[start : start + CHUNK]]
            for text, ids in _short_pieces(whole, tokenizer, max_len, high):
                digest = _digest(text)
                if low <= ids.size <= high and digest not in seen:
                    seen.add(digest)
                    found.append(ids)
            if len(found) >= rows:
                break
        if not found:
            raise InputError.one(
                "job",
                "data.unlabelled",
                f"{len(self.texts)} texts",
                f"no piece of them has {low} to {high} tokens, as the labelled texts have, and is "
                "not one of those; give other texts or leave the key out",
            )
        return ragged(found[:rows])


def _short_pieces(
    texts: list[str], tokenizer: Tokenizer, max_len: int, high: int
) -> Iterable[tuple[str, NDArray[np.int32]]]:
    whole = tokenize(tokenizer, texts, max_len)
    short = [text for text, n in zip(texts, whole.lengths, strict=True) if n <= high]
    long = [text for text, n in zip(texts, whole.lengths, strict=True) if n > high]
    short += [piece for text in long for piece in SENTENCE_END.split(text) if piece.strip()]
    tokens = tokenize(tokenizer, short, max_len)
    for text, at, n in zip(short, tokens.starts, tokens.lengths, strict=True):
        yield text, tokens.ids[at : at + n]


def _digest(text: str) -> str:
    return hashlib.sha256(normalise(text).encode()).hexdigest()
