"""Tokens of texts under skims, against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.lowering.skimmed import skimmed, stated_counts, whole
from search_spaces.parts import Skim

LENGTHS = np.array([10, 3, 1])


@pytest.mark.parametrize(
    ("skim", "counts"),
    [
        (Skim(layers=(1, 2, 3), keep_count=(8, 4, 4)), [[8, 4, 4], [3, 3, 3], [1, 1, 1]]),
        (Skim(layers=(1, 2), keep_rate=(0.5, 0.1)), [[5, 2], [2, 2], [1, 1]]),
        (
            Skim(layers=(1,), keep_rate=(0.125,), mechanism="topk_router", skipped="pass_through"),
            [[2], [1], [1]],
        ),
        (Skim(layers=(1,), keep_rate=(0.4,), block=8), [[8], [3], [1]]),
        (Skim(layers=(1, 2), mechanism="gate"), [[10, 10], [3, 3], [1, 1]]),
        (Skim(layers=(1,), mechanism="lookup", skipped="alt_path"), [[0], [0], [0]]),
    ],
)
def test_schedules_shares_and_blocks_leave_what_they_say(
    skim: Skim, counts: list[list[int]]
) -> None:
    assert stated_counts(skim, LENGTHS).tolist() == counts


@settings(max_examples=40)
@given(
    point=st.sampled_from(["before_layer", "after_attn"]),
    skipped=st.sampled_from(["drop", "pass_through", "copy_state", "alt_path"]),
    module=st.sampled_from(["block", "attn", "ffn"]),
    learned=st.booleans(),
    layer=st.integers(1, 4),
    rate=st.floats(0.1, 1.0),
)
def test_who_goes_where_follows_from_the_record_token_by_token(
    point: str, skipped: str, module: str, learned: bool, layer: int, rate: float
) -> None:
    module = "block" if skipped == "drop" else module
    score = "learned" if learned else "attention_received"
    skim = Skim(
        layers=(layer,),
        keep_rate=(rate,),
        point=point,
        skipped=skipped,
        module=module,
        score=score,
    )
    n, depth = 12, 4
    left = min(n, max(2 if skipped == "drop" else 1, math.ceil(rate * n - 1e-9)))
    got = skimmed(whole(np.array([n]), depth), skim, stated_counts(skim, np.array([n])))
    for at in range(1, depth + 1):
        gone = skipped == "drop" and (at > layer or (at == layer and point == "before_layer"))
        here = at == layer
        dropped_here = skipped == "drop" and here
        by = skipped != "drop" and here
        want = {
            "alive": n - left if skipped == "drop" and at > layer else 0,
            "entering": n - left
            if gone or (by and module != "ffn" and skipped != "copy_state")
            else 0,
            "asking": n - left
            if gone or (by and module != "ffn") or (dropped_here and not learned)
            else 0,
            "ffn": n - left if gone or dropped_here or (by and module != "attn") else 0,
        }
        for name, missing in want.items():
            assert getattr(got, name)[0, at - 1] == n - missing, (name, at)
