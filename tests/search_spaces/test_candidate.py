from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    Candidate,
    CandidateBatch,
    Exits,
    Experts,
    PolicyBatch,
    SearchSpace,
    Skim,
    apply_policy,
    keep_counts,
    layer_schedule,
    load_backbone,
    policies_of,
    stack,
    tokens_per_layer,
)

BACKBONE = load_backbone("minilm-l6")
SPACE = SearchSpace.from_dict(
    {
        "dtype": ["fp32", "bf16"],
        "pooling": ["mean", "cls"],
        "skim": {"layers": [1, 3, 6], "keep": [1.0, 0.75, 0.5]},
        "experts": {"groups": [[1, 2], [4, 6]], "granularity": ["token", "sequence"]},
        "exits": {
            "criteria": ["max_prob", "entropy", "patience"],
            "patience": [1, 2],
            "batching": ["serial", "compact"],
            "temperatures": [1.0, 1.5],
        },
    },
    backbone=BACKBONE,
)


def same(a: CandidateBatch | PolicyBatch, b: CandidateBatch | PolicyBatch) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name))
        for f in fields(a)
        if f.name != "backbone"
    )


@given(n=st.integers(3, 512), rate=st.floats(1e-6, 1.0), protected=st.integers(1, 3))
def test_keep_counts_are_those_of_the_contract(n: int, rate: float, protected: int) -> None:
    expected = min(n, max(protected + 1, math.ceil(rate * n - 1e-9)))
    assert int(keep_counts(np.array(n), np.array(rate), protected)) == expected


def test_keep_counts_ignore_rounding_errors_of_the_rate() -> None:
    # 0.1 + 0.2 is above 0.3 in binary; 30 % of ten tokens are three, not four
    assert int(keep_counts(np.array(10), np.array(0.1 + 0.2))) == 3
    assert keep_counts(np.array([2, 3, 4]), np.array(0.01)).tolist() == [2, 2, 2]


@given(lengths=st.lists(st.integers(2, 512), min_size=2, max_size=6), rate=st.floats(0.01, 1.0))
def test_keep_counts_never_depend_on_batch_mates(lengths: list[int], rate: float) -> None:
    together = keep_counts(np.array(lengths), np.array(rate))
    alone = [int(keep_counts(np.array([n]), np.array(rate))[0]) for n in lengths]
    assert together.tolist() == alone


def test_tokens_enter_a_layer_as_they_left_the_feed_forward_network_before() -> None:
    layer, ffn = tokens_per_layer(np.array([8, 20]), np.array([1.0, 0.5, 0.5, 0.25]))
    assert ffn.tolist() == [[8, 4, 4, 2], [20, 10, 10, 5]]
    assert layer.tolist() == [[8, 8, 4, 4], [20, 20, 10, 10]]


@given(seed=st.integers(0, 10_000))
def test_rows_of_a_stack_are_the_originals(seed: int) -> None:
    batch = SPACE.sample(np.random.default_rng(seed), 8)
    records = [batch.row(i) for i in range(len(batch))]
    again = stack(records)
    assert same(again, batch)
    assert [again.row(i) for i in range(len(again))] == records


def test_stack_refuses_what_cannot_be_one_batch() -> None:
    with pytest.raises(ValueError, match="at least one"):
        stack([])
    other = Candidate(backbone=load_backbone("minilm-l12"), depth=6)
    with pytest.raises(ValueError, match="one backbone"):
        stack([SPACE.full(), other])


def test_thresholds_stand_at_their_layers_and_are_infinite_elsewhere() -> None:
    exits = Exits(layers=(2, 4), thresholds=(0.7, 0.9), criterion="margin", temperature=1.5)
    batch = stack([SPACE.full().with_policy(exits=exits)])
    inf = math.inf
    assert batch.thresholds.tolist() == [[inf, 0.7, inf, 0.9, inf, inf]]
    assert batch.exit_on.tolist() == [[False, True, False, True, False, False]]
    assert batch.temperature.tolist() == [1.5]


def test_patience_has_no_thresholds() -> None:
    exits = Exits(layers=(1, 2, 3), criterion="patience", patience=2)
    policies = policies_of([SPACE.full().with_policy(exits=exits)])
    assert np.isinf(policies.thresholds).all()
    assert policies.patience.tolist() == [2]


def test_schedules_of_several_skims_are_joined_by_their_minimum() -> None:
    skims = (
        Skim(layers=(2, 5), keep_rate=(0.8, 0.4)),
        Skim(layers=(2, 4), keep_rate=(0.7, 0.7)),
    )
    schedule = layer_schedule(SPACE.full().with_policy(skim=skims))
    assert schedule["keep_rate"].tolist() == [1.0, 0.7, 0.7, 0.7, 0.4, 0.4]


def test_using_all_experts_is_dense() -> None:
    moe = Experts(layers=(1, 2), num_experts=(4, 4), top_k=(4, 1))
    schedule = layer_schedule(SPACE.full().with_policy(moe=moe))
    assert schedule["num_experts"].tolist() == [1, 4, 1, 1, 1, 1]
    assert schedule["top_k"].tolist() == [1] * 6


def test_a_policy_cuts_the_layers_above_its_depth() -> None:
    outer = Candidate(
        backbone=BACKBONE,
        depth=6,
        skim=(Skim(layers=(1, 5), keep_rate=(0.75, 0.5)),),
        moe=Experts(layers=(5, 6), num_experts=(4, 4), top_k=(1, 2)),
    )
    shallow = apply_policy(outer, policies_of([replace(outer, depth=5)]), 0)
    assert shallow.moe == Experts(layers=(5,), num_experts=(4,), top_k=(1,))
    shallower = apply_policy(outer, policies_of([replace(outer, depth=3)]), 0)
    assert shallower.moe is None
    assert shallower.skim == (Skim(layers=(1,), keep_rate=(0.75,)),)
    skimless = apply_policy(
        replace(outer, skim=(Skim(layers=(5,), keep_rate=(0.5,)),)),
        policies_of([replace(outer, depth=3)]),
        0,
    )
    assert skimless.skim == ()


def test_take_and_concat_of_policies_undo_each_other() -> None:
    policies = SPACE.sample(np.random.default_rng(1), 9).policies()
    parts = [policies.take(np.arange(0, 4)), policies.take(np.arange(4, 9))]
    assert same(PolicyBatch.concat(parts), policies)
    batch = SPACE.sample(np.random.default_rng(1), 9)
    assert same(batch.take(np.arange(9) == 3), stack([batch.row(3)]))
