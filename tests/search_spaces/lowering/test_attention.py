"""Masks, windows and shared heads against counts by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import DTYPES, KIND
from search_spaces.lowering.attention import FEW_QUERIES, lower_attention, visible_pairs

BF16 = DTYPES.index("bf16")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 60), st.one_of(st.none(), st.integers(1, 70)))
def test_visible_pairs_are_those_of_the_mask(
    queries: int, cached: int, window: int | None
) -> None:
    position = cached + np.arange(queries)[:, None]
    key = np.arange(cached + queries)[None, :]
    mask = (key <= position) & (key > position - (window or 10**6))
    assert visible_pairs(queries, cached, window) == mask.sum()


def one(**changes: object) -> object:
    values = {"batch": 3, "queries": 64, "cached": 0, "heads": 8, "kv_heads": 2, "head": 32}
    return lower_attention(**{**values, "dtype": BF16, **changes})  # type: ignore[arg-type]


def test_a_causal_prefill_computes_half_of_a_full_one_and_the_diagonal() -> None:
    causal, full = one(), one(causal=False)
    assert causal.kind[0] == full.kind[0] == KIND["attention_prefill"]
    assert full.executed_flops[0] == 4 * 64 * 64 * 32 * 3 * 8
    share = causal.executed_flops[0] / (4 * 64 * 64 * 32 * 3 * 8)
    assert share == 65 / 128
    assert (causal.m[0], causal.n[0], causal.k[0], causal.batch[0]) == (64, 64, 32, 24)
    assert causal.activation_bytes[0] == 2 * 3 * 32 * 2 * (8 * 64 + 2 * 64)


def test_a_decode_step_reads_each_key_once_for_the_heads_that_share_it() -> None:
    step = one(queries=1, cached=99)
    assert step.kind[0] == KIND["attention_decode"]
    assert (step.m[0], step.n[0], step.k[0], step.batch[0]) == (4, 100, 32, 6)
    assert step.executed_flops[0] == 4 * 4 * 100 * 32 * 6
    assert step.activation_bytes[0] == 2 * 3 * 32 * 2 * (8 + 2 * 100)


def test_a_draft_is_checked_like_a_step_and_a_chunk_like_a_prompt() -> None:
    draft, chunk = one(queries=5, cached=99), one(queries=FEW_QUERIES + 1, cached=99)
    assert draft.kind[0] == KIND["attention_decode"]
    assert draft.m[0] == 4 * 5
    assert chunk.kind[0] == KIND["attention_prefill"]
    assert chunk.n[0] == 99 + FEW_QUERIES + 1


def test_a_window_bounds_the_keys_that_a_step_reads() -> None:
    step = one(queries=1, cached=5000, window=4096)
    assert step.n[0] == 4096
    assert step.executed_flops[0] == pytest.approx(4 * 4 * 4096 * 32 * 6)
    assert one(queries=1, cached=10, window=4096).n[0] == 11
