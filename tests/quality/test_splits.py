"""Five disjoint splits that depend on the text alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.quality.data import Examples
from dynsearch.quality.splits import (
    PRESETS,
    SPLITS,
    SplitSizes,
    normalise,
    sizes_for,
    split_examples,
)
from search_spaces.errors import InputError


def examples(texts: list[str]) -> Examples:
    return Examples(texts, [i % 2 for i in range(len(texts))], ("a", "b"))


TEXTS = [f"text number {i}" for i in range(1500)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_splits_do_not_depend_on_the_order_of_the_file(seed):
    shuffled = [TEXTS[i] for i in np.random.default_rng(seed).permutation(len(TEXTS))]
    want, got = split_examples(examples(TEXTS)), split_examples(examples(shuffled))
    for name in SPLITS:
        assert got[name].texts == want[name].texts


def test_splits_are_disjoint_and_cover_all_distinct_texts():
    twice = TEXTS + [t.upper() + "  " for t in TEXTS[:300]]
    got = split_examples(examples(twice))
    seen = [normalise(t) for name in SPLITS for t in got[name].texts]
    assert len(seen) == len(set(seen)) == len(TEXTS)


def test_own_data_is_cut_25_5_20_5_percent():
    assert sizes_for(2000) == SplitSizes(report=500, calibrate=100, search=400, early_stop=100)
    got = split_examples(examples(TEXTS))
    assert [len(got[n]) for n in SPLITS] == [375, 75, 300, 75, 675]


def test_a_split_never_changes_when_training_rows_are_limited():
    whole = split_examples(examples(TEXTS))
    sizes = SplitSizes(report=375, calibrate=75, search=300, early_stop=75, train=200)
    limited = split_examples(examples(TEXTS), sizes)
    assert limited["report"].texts == whole["report"].texts
    assert limited["train"].texts == whole["train"].texts[:200]


def test_too_few_rows_are_refused_with_the_numbers_needed():
    with pytest.raises(InputError, match=r"158 search, 198 report .* 200 of each are needed"):
        split_examples(examples(TEXTS[:792]), file="mine.csv")


def test_presets_are_those_of_the_published_protocol():
    assert PRESETS["sentences"] == SplitSizes(
        report=2000, calibrate=400, search=2000, early_stop=300
    )
    assert PRESETS["reviews"].train == 10000


def test_pairs_are_duplicates_only_where_both_texts_are():
    pairs = [(f"first {i % 40}", f"second {i // 40}") for i in range(1600)]
    again = [(a.upper(), f" {b} ") for a, b in pairs[:300]]
    swapped = [(b, a) for a, b in pairs[:50]]
    got = split_examples(examples([*pairs, *again, *swapped]))
    kept = [t for part in got.values() for t in part.texts]
    assert sorted(kept) == sorted([*pairs, *swapped])
    assert normalise(("a b", "c")) != normalise(("a", "b c"))
    assert normalise(("a\x1fb", "c")) != normalise(("a", "b\x1fc"))
