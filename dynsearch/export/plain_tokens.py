"""Texts to token ids from a tokenizer.json with the standard library alone.

Knows what the encoders of this project use: WordPiece behind BERT's normaliser and splitter, and
byte-level BPE (RoBERTa), with the special tokens around one text or two. Answers as the library
`tokenizers` does; whatever else a tokenizer.json may ask for is refused by name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from search_spaces.errors import InputError

Text = str | tuple[str, str]  # one text, or a pair
Encoded = tuple[list[int], list[int]]  # ids, types
# Unicode's White_Space, which Rust goes by; Python's isspace also counts U+001C to U+001F
_WHITE_RANGES = ((9, 13), (0x2000, 0x200A), (0x2028, 0x2029))
_WHITE_SINGLE = "\u0020\u0085\u00a0\u1680\u202f\u205f\u3000"
WHITE = frozenset(_WHITE_SINGLE).union(
    *({chr(c) for c in range(low, high + 1)} for low, high in _WHITE_RANGES)
)
CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
WORDS_KEPT = 65536  # split words that are remembered


@dataclass(frozen=True, slots=True)
class PlainTokenizer:
    """A tokenizer that was read; see `plain_tokenizer`."""

    pieces: Callable[[str], list[int]]  # a text without special tokens -> ids
    normalise: Callable[[str], str]
    raw: Added  # special tokens that are looked for in the text as it is
    normalised: Added  # and in the normalised text
    single: tuple[Slot, ...]
    pair: tuple[Slot, ...]

    def encode(self, texts: Sequence[Text], max_len: int) -> list[Encoded]:
        """Ids and types of texts or pairs, cut to `max_len` tokens, special ones included.

        What is too long loses tokens at the end of the longer text ("longest_first").
        """
        return [self._encode(text, max_len) for text in texts]

    def _encode(self, text: Text, max_len: int) -> Encoded:
        slots = self.single if isinstance(text, str) else self.pair
        parts = [list(self._ids(t)) for t in ((text,) if isinstance(text, str) else text)]
        room = max_len - sum(slot.token is not None for slot in slots)
        for part, size in zip(parts, _cut([len(p) for p in parts], room), strict=True):
            del part[size:]
        ids: list[int] = []
        types: list[int] = []
        for slot in slots:
            found = [slot.token] if slot.token is not None else parts[slot.part]
            ids += found
            types += [slot.kind] * len(found)
        return ids, types

    def _ids(self, text: str) -> Iterator[int]:
        for piece in self.raw.split(text):
            if isinstance(piece, int):
                yield piece
                continue
            for part in self.normalised.split(self.normalise(piece)):
                if isinstance(part, int):
                    yield part
                else:
                    yield from self.pieces(part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place around the texts: a special token, or all of text `part`."""

    kind: int
    part: int = 0
    token: int | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """Tokens that are found whole wherever a text has them."""

    tokens: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def split(self, text: str) -> Iterator[str | int]:
        """Stretches of `text` between such tokens, and the tokens' ids, in order."""
        if not self.tokens or not text:
            if text:
                yield text
            return
        start = 0
        longest_first = sorted(self.tokens, key=len, reverse=True)
        for found in re.finditer("|".join(map(re.escape, longest_first)), text):
            token = self.tokens[found[0]]
            first, end = found.span()
            if first < start or (token["single_word"] and not _stands_alone(text, first, end)):
                continue
            while token["lstrip"] and first > start and text[first - 1] in WHITE:
                first -= 1
            while token["rstrip"] and end < len(text) and text[end] in WHITE:
                end += 1
            if first > start:
                yield text[start:first]
            yield int(token["id"])
            start = end
        if start < len(text):
            yield text[start:]


def plain_tokenizer(spec: Mapping[str, Any], file: object = "tokenizer.json") -> PlainTokenizer:
    """The tokenizer that the content of a tokenizer.json describes.

    Args:
        spec: The parsed file.
        file: Name for messages.

    Raises:
        InputError: it asks for a part that is not known here.
    """
    kind, split = _kind(spec, "model"), _kind(spec, "pre_tokenizer")
    norm = _kind(spec, "normalizer")
    if kind == "WordPiece" and split == "BertPreTokenizer" and norm == "BertNormalizer":
        normalise = _bert_normaliser(spec["normalizer"])
        pieces = _word_piece(spec["model"])
    elif kind == "BPE" and split == "ByteLevel" and norm == "":
        normalise, pieces = str, _byte_level(spec["model"], spec["pre_tokenizer"])
    else:
        raise InputError.one(
            file,
            "model.type",
            f"{kind} after {norm or 'no normalizer'} and {split or 'no pre_tokenizer'}",
            "only WordPiece with BertNormalizer and BertPreTokenizer, and BPE with ByteLevel, run "
            "without the library tokenizers; use --format torch",
        )
    added = spec.get("added_tokens") or []
    raw = {t["content"]: t for t in added if not t["normalized"]}
    seen = {normalise(t["content"]): t for t in added if t["normalized"]}
    single, pair = _slots(spec.get("post_processor"), file)
    return PlainTokenizer(pieces, normalise, Added(raw), Added(seen), single, pair)


def _kind(spec: Mapping[str, Any], part: str) -> str:
    return str((spec.get(part) or {}).get("type", ""))


def _stands_alone(text: str, first: int, end: int) -> bool:
    def word(c: str) -> bool:
        return c.isalnum() or c == "_"

    return not (first and word(text[first - 1])) and not (end < len(text) and word(text[end]))


def _cut(sizes: list[int], room: int) -> list[int]:
    """Tokens that each text keeps: the longest loses first, two long ones share what there is."""
    room = max(room, 0)
    if len(sizes) == 1:
        return [min(sizes[0], room)]
    shorter, longer = sorted(sizes)
    if shorter + longer > room:
        longer = shorter if shorter > room else max(shorter, room - shorter)
        if shorter + longer > room:
            shorter, longer = room // 2, room // 2 + room % 2
    return [shorter, longer] if sizes[0] <= sizes[1] else [longer, shorter]


def _slots(spec: Mapping[str, Any] | None, file: object) -> tuple[tuple[Slot, ...], ...]:
    """What stands around one text and around two."""
    kind = "" if spec is None else str(spec["type"])
    if spec is None:
        return (Slot(kind=0),), (Slot(kind=0), Slot(kind=1, part=1))
    if kind in ("BertProcessing", "RobertaProcessing"):
        first, last = Slot(kind=0, token=spec["cls"][1]), Slot(kind=0, token=spec["sep"][1])
        one = (first, Slot(kind=0), last)
        if kind == "RobertaProcessing":
            return one, (*one, last, Slot(kind=0, part=1), last)
        return one, (*one, Slot(kind=1, part=1), Slot(kind=1, token=spec["sep"][1]))
    if kind == "TemplateProcessing":
        return _template(spec["single"], spec), _template(spec["pair"], spec)
    raise InputError.one(
        file, "post_processor.type", kind, "is not known here; use --format torch"
    )


def _template(items: Sequence[Mapping[str, Any]], spec: Mapping[str, Any]) -> tuple[Slot, ...]:
    out: list[Slot] = []
    for item in items:
        ((what, value),) = item.items()
        if what == "Sequence":
            out.append(Slot(kind=value["type_id"], part="AB".index(value["id"])))
        else:
            ids = spec["special_tokens"][value["id"]]["ids"]
            out += [Slot(kind=value["type_id"], token=i) for i in ids]
    return tuple(out)


def _bert_normaliser(spec: Mapping[str, Any]) -> Callable[[str], str]:
    lower = bool(spec["lowercase"])
    strip = lower if spec["strip_accents"] is None else bool(spec["strip_accents"])

    def normalise(text: str) -> str:
        if spec["clean_text"]:
            text = "".join(map(_cleaned, text))
        if spec["handle_chinese_chars"]:
            text = "".join(f" {c} " if _is_chinese(c) else c for c in text)
        if strip:
            apart = unicodedata.normalize("NFD", text)
            text = "".join(c for c in apart if unicodedata.category(c) != "Mn")
        return "".join(c.lower() for c in text) if lower else text  # no final sigma, as there

    return normalise


def _cleaned(c: str) -> str:
    if c in WHITE and (c in "\t\n\r" or unicodedata.category(c) != "Cc"):
        return " "
    dropped = c in "\0\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs")
    return "" if dropped else c


def _is_chinese(c: str) -> bool:
    return c > "\u33ff" and any(low <= ord(c) <= high for low, high in CHINESE)


def _word_piece(model: Mapping[str, Any]) -> Callable[[str], list[int]]:
    vocabulary: Mapping[str, int] = model["vocab"]
    unknown = [vocabulary[model["unk_token"]]]
    prefix, longest = model["continuing_subword_prefix"], model["max_input_chars_per_word"]

    @lru_cache(WORDS_KEPT)
    def of_word(word: str) -> list[int]:
        if len(word) > longest:
            return unknown
        found: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = vocabulary.get((prefix if start else "") + word[start:end])
                if piece is not None:
                    break
            else:
                return unknown
            found.append(piece)
            start = end
        return found

    return lambda text: [i for word in _bert_words(text) for i in of_word(word)]


def _bert_words(text: str) -> Iterator[str]:
    """Words between white space, every punctuation mark on its own."""
    word: list[str] = []
    for c in text:
        if c.isalnum() or not (c in WHITE or _is_punctuation(c)):
            word.append(c)
            continue
        if word:
            yield "".join(word)
            word = []
        if c not in WHITE:
            yield c
    if word:
        yield "".join(word)


def _is_punctuation(c: str) -> bool:
    ascii_mark = "!" <= c <= "~" and not c.isalnum()
    return ascii_mark or unicodedata.category(c).startswith("P")


def _byte_level(model: Mapping[str, Any], split: Mapping[str, Any]) -> Callable[[str], list[int]]:
    vocabulary: Mapping[str, int] = model["vocab"]
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    rank = {pair: i for i, pair in enumerate(pairs)}
    unknown = vocabulary.get(model["unk_token"] or "")
    shown = _shown_bytes()

    @lru_cache(WORDS_KEPT)
    def of_word(word: str) -> list[int]:
        parts = [shown[b] for b in word.encode("utf-8", "surrogatepass")]
        parts = [p for p in parts if p in vocabulary or unknown is not None]
        while len(parts) > 1:
            best = min(
                range(len(parts) - 1),
                key=lambda i: rank.get((parts[i], parts[i + 1]), len(rank)),
            )
            if (parts[best], parts[best + 1]) not in rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        ids = (vocabulary.get(p, unknown) for p in parts)
        return [i for i in ids if i is not None]

    def pieces(text: str) -> list[int]:
        if split["add_prefix_space"] and not text.startswith(" "):
            text = " " + text
        return [i for word in _byte_words(text) for i in of_word(word)]

    return pieces


def _shown_bytes() -> list[str]:
    """The printable character that stands for each byte (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    table = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [table[b] for b in range(256)]


def _byte_words(text: str) -> Iterator[str]:
    r"""GPT-2's split of a text.

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    """
    at, size = 0, len(text)
    while at < size:
        short = next((s for s in _CONTRACTED if text.startswith(s, at)), None)
        if short:
            yield short
            at += len(short)
            continue
        first = at + (text[at] == " " and at + 1 < size and _class(text[at + 1]) != "white")
        kind, end = _class(text[first]), first
        while end < size and _class(text[end]) == kind:
            end += 1
        if kind == "white" and end < size and end - at > 1:
            end -= 1  # the last one goes with what follows, or stands alone
        yield text[at:end]
        at = end


_CONTRACTED = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def _class(c: str) -> str:
    if c in WHITE:
        return "white"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(c)[0], "other")
