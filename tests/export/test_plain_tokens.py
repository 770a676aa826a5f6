"""Tokens found with the standard library are those that `tokenizers` finds, whatever the text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import byte_vocabulary
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from dynsearch.export.plain_tokens import PlainTokenizer, plain_tokenizer
from dynsearch.models.tokens import load_tokenizer, tokenize
from dynsearch.testing import tiny_model, tiny_texts
from search_spaces.errors import InputError

SEEN = [*(t for t, _ in tiny_texts(30)), "it's the 3rd film, we'll see", "caf\u00e9"]
Both = tuple[Tokenizer, PlainTokenizer]


@pytest.fixture(scope="module", params=["bert", "template", "cased", "roberta", "prefixed"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in ("roberta", "prefixed"):
        byte_vocabulary(folder, SEEN, size=320)
        if request.param == "prefixed":
            (folder / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    else:
        tiny_model(folder)
        words = (folder / "vocab.txt").read_text().split()
        pieces = ["##s", "##ly", "un", "cafe", "caf\u00e9", "\u4e2d", "!", "'", "\u03c3", *"abcde"]
        (folder / "vocab.txt").write_text("\n".join([*words, *pieces]) + "\n")
        if request.param == "cased":
            (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = load_tokenizer(folder)
    if request.param == "template":
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    return tokenizer, plain_tokenizer(json.loads(tokenizer.to_str()))


WORDS = ("good", "unfine", "films", "don't", "'s", "'ll", "!!", "3rd", "x" * 101)
MARKS = (" ", "  ", "\n", "\x85", "\x1c", "\u00a0", "\u200b", "\ufffd", "[SEP]", "<mask>", "</s>")
FOREIGN = ("caf\u00e9", "CAF\u00c9", "e\u0301", "\u4e2d\u6587", "\u03a3\u03a3", "\u0130", "\u00bd")
SNIPPETS = st.sampled_from((*WORDS, *MARKS, *FOREIGN, "\U0001f600"))
ASSIGNED = st.text(
    st.characters(exclude_categories=("Cn", "Cs"), max_codepoint=0x2FFFF), max_size=12
)
TEXTS = st.lists(SNIPPETS | ASSIGNED, max_size=8).map("".join)


def agree(both: Both, texts: list, max_len: int) -> None:
    theirs = tokenize(both[0], texts, max_len)
    ours = both[1].encode(texts, max_len)
    assert [i for ids, _ in ours for i in ids] == theirs.ids.tolist()
    assert [len(ids) for ids, _ in ours] == theirs.lengths.tolist()
    types = [t for _, kinds in ours for t in kinds]
    assert types == ([0] * len(types) if theirs.types is None else theirs.types.tolist())


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, max_len=st.integers(4, 40))
@example(text="", max_len=4)
@example(text="good  \n film ", max_len=40)
def test_one_text_gets_the_same_tokens(both: Both, text: str, max_len: int) -> None:
    agree(both, [text], max_len)


@settings(max_examples=60, deadline=None)
@given(first=TEXTS, second=TEXTS, max_len=st.integers(5, 24))
def test_a_pair_gets_the_same_tokens_and_types_however_it_is_cut(
    both: Both, first: str, second: str, max_len: int
) -> None:
    agree(both, [(first, second)], max_len)


def test_the_texts_of_the_tests_get_the_same_tokens(both: Both) -> None:
    agree(both, SEEN, 16)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", {"type": "Unigram", "vocab": []}),
        ("normalizer", {"type": "Precompiled"}),
        ("post_processor", {"type": "ByteLevel"}),
    ],
)
def test_a_tokenizer_that_is_not_known_is_refused_by_name(
    tmp_path: Path, part: str, value: dict
) -> None:
    spec = json.loads(load_tokenizer(tiny_model(tmp_path)).to_str())
    with pytest.raises(InputError, match=f"{value['type']}.*--format torch"):
        plain_tokenizer(spec | {part: value})
