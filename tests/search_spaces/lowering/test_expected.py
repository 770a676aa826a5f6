from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    Candidate,
    Exits,
    Experts,
    InputError,
    Skim,
    keep_counts,
    load_backbone,
    lower,
    stack,
)
from search_spaces.activity import Assumed
from search_spaces.lowering.decoder import lower_decode_step, lower_prefill
from search_spaces.lowering.expected import lower_cascade, lower_expected
from search_spaces.lowering.recurrent import lower_reader
from search_spaces.ops import KIND, OpTable

BERT = Candidate(backbone=load_backbone("bert-base"), depth=12)
LLAMA = Candidate(backbone=load_backbone("llama2-7b"), depth=32, dtype="bf16", output="text")
MIXTRAL = Candidate(backbone=load_backbone("mixtral-8x7b"), depth=32, dtype="bf16", output="text")
MATRICES = ("matmul", "grouped_matmul", "attention_prefill", "attention_decode")
BF16 = 1


def flops(ops: OpTable, kinds: tuple[str, ...] = MATRICES) -> float:
    chosen = np.isin(ops.kind, [KIND[kind] for kind in kinds])
    return float((ops.flops * ops.count)[chosen].sum())


def test_a_network_without_policy_is_the_one_that_is_lowered_elsewhere() -> None:
    whole = lower(stack([BERT]), lengths=128, batch=3, num_classes=2)
    assert flops(lower_expected(BERT, Assumed(), tokens=128, batch=3)) == flops(whole)
    prompt = lower_prefill(LLAMA.backbone, batch=2, tokens=300, dtype=BF16)
    assert flops(lower_expected(LLAMA, Assumed(), tokens=300, batch=2)) == flops(prompt)
    step = lower_decode_step(LLAMA.backbone, batch=2, cached=300, dtype=BF16)
    found = lower_expected(LLAMA, Assumed(), tokens=300, batch=2, new_tokens=1)
    assert flops(found) == flops(step)
    assert (found.weight_bytes * found.count).sum() == pytest.approx(
        (step.weight_bytes * step.count).sum()
    )


def test_experts_of_a_candidate_cost_what_those_of_a_backbone_do() -> None:
    own = lower_prefill(MIXTRAL.backbone, batch=1, tokens=64, dtype=BF16)
    moe = Experts(
        layers=tuple(range(1, 33)),
        num_experts=(8,) * 32,
        top_k=(2,) * 32,
        granularity="token",
        origin="upcycled",
    )
    told = lower_expected(replace(MIXTRAL, moe=moe), Assumed(), tokens=64)
    assert flops(told) == pytest.approx(flops(own), rel=1e-12)
    assert flops(told, ("grouped_matmul",)) == flops(own, ("grouped_matmul",))


@pytest.mark.parametrize("router", ["hash", "task", "random"])
def test_a_router_that_reads_no_token_has_no_matrix(router: str) -> None:
    moe = Experts(
        layers=(3,),
        num_experts=(64,),
        top_k=(1,),
        granularity="token",
        origin="upcycled",
        num_tasks=64 if router == "task" else None,
        router=router,
    )
    scoring = replace(moe, router="token_choice", num_tasks=None)
    blind, seeing = (
        flops(lower_expected(replace(BERT, moe=m), Assumed(), tokens=40)) for m in (moe, scoring)
    )
    assert seeing - blind == 2 * 40 * 768 * 64


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 11), st.floats(0.0, 1.0))
def test_one_exit_costs_a_mixture_of_the_short_and_the_whole_network(
    layer: int, share: float
) -> None:
    exits = Exits(layers=(layer,), criterion="entropy", thresholds=(-0.1,))
    mixed = lower_expected(replace(BERT, exits=exits), Assumed(exit_share=(share,)), tokens=64)
    short, whole = (
        flops(lower_expected(replace(BERT, depth=d), Assumed(), tokens=64)) for d in (layer, 12)
    )
    head = 2 * (768 * 768 + 768 * 2)
    expected = share * short + (1 - share) * (whole + head)
    assert flops(mixed) == pytest.approx(expected, rel=1e-9)


def test_an_exit_without_shares_is_refused() -> None:
    exits = Exits(layers=(3, 6), criterion="entropy", thresholds=(-0.1, -0.1))
    with pytest.raises(InputError, match="one share per exit: 2"):
        lower_expected(replace(BERT, exits=exits), Assumed(), tokens=64)


def test_a_fixed_exit_is_a_shallower_network() -> None:
    exits = Exits(layers=(5,), criterion="static")
    found = lower_expected(replace(BERT, exits=exits), Assumed(), tokens=64)
    assert flops(found) == flops(lower_expected(replace(BERT, depth=5), Assumed(), tokens=64))


def test_dropped_tokens_are_gone_and_passing_ones_are_back_in_the_next_layer() -> None:
    dropping = Skim(layers=(2,), keep_rate=(0.25,), mechanism="gate", score="learned")
    passing = replace(dropping, point="before_layer", skipped="pass_through")
    kept = int(keep_counts(np.array(64), np.array(0.25)))
    three = replace(BERT, depth=3)

    def layer_flops(skim: Skim) -> list[float]:
        ops = lower_expected(replace(three, skim=(skim,)), Assumed(), tokens=64)
        ffn = (ops.kind == KIND["matmul"]) & (ops.k == 3072)
        return [float(ops.m[ffn & (ops.layer == x)].sum()) for x in range(3)]

    assert layer_flops(dropping) == [64, kept, kept]
    assert layer_flops(passing) == [64, 16, 64]


def test_a_gate_is_paid_by_those_that_come_to_it() -> None:
    gate = Skim(layers=(6,), mechanism="gate", score="learned", gate_width=64, keep_rate=(1.0,))
    exits = Exits(layers=(4,), criterion="static")
    gated, plain = (
        flops(lower_expected(replace(BERT, skim=skim), Assumed(), tokens=64))
        for skim in ((gate,), ())
    )
    assert gated - plain == 2 * 64 * (768 * 64 + 64)
    early = replace(BERT, skim=(gate,), exits=exits)
    assert flops(lower_expected(early, Assumed(), tokens=64)) == flops(
        lower_expected(replace(BERT, exits=exits), Assumed(), tokens=64)
    )


def test_layers_that_a_table_replaces_do_not_run() -> None:
    table = Skim(
        layers=tuple(range(1, 13)),
        mechanism="lookup",
        point="before_layer",
        skipped="alt_path",
        lookup_order=3,
    )
    found = lower_expected(replace(BERT, skim=(table,)), Assumed(), tokens=64)
    assert flops(found) == 2 * (768 * 768 + 768 * 2)
    looked_up = found.take(found.kind == KIND["gather"])
    assert 3 * 64 in looked_up.m


def test_copied_states_still_need_keys_in_the_layers_that_are_skipped() -> None:
    exits = Exits(
        layers=(8,),
        criterion="static",
        granularity="token",
        head="norm_lm",
        kv_policy="copy_state",
    )
    policy = replace(LLAMA, exits=exits)
    found = lower_expected(policy, Assumed(), tokens=100, new_tokens=1)
    eight = lower_decode_step(LLAMA.backbone, batch=1, cached=100, dtype=BF16, depth=8)
    assert flops(found) == pytest.approx(flops(eight) + 24 * 2 * 2 * 4096**2, rel=1e-12)


def test_keys_made_later_save_time_and_no_arithmetic() -> None:
    exits = Exits(
        layers=(8,),
        criterion="max_prob",
        thresholds=(0.8,),
        granularity="token",
        head="norm_lm",
        kv_policy="recompute",
        kv_cap=4,
    )
    found = lower_expected(
        replace(LLAMA, exits=exits), Assumed(exit_share=(0.5,)), tokens=100, new_tokens=1
    )
    plain = lower_decode_step(LLAMA.backbone, batch=1, cached=100, dtype=BF16)
    upper = found.layer >= 8
    upper &= (found.kind == KIND["matmul"]) & (found.n != LLAMA.backbone.vocab_size)
    # 1 + 1/2 + 1/4 + 1/8 + 1/16 tokens are there when the upper layers run: two, in whole ones
    assert set(found.m[upper]) == {2}
    assert set(found.count[upper]) == {0.5}
    head = 2 * 4096 * 32000
    matrices = ("matmul",)
    assert flops(found, matrices) == pytest.approx(flops(plain, matrices) + 0.5 * head, rel=1e-12)


@pytest.mark.parametrize(("acceptance", "yields"), [(0.0, 1.0), (0.5, 1.75), (1.0, 3.0)])
def test_a_cycle_of_drafts_is_shared_by_the_tokens_it_yields(
    acceptance: float, yields: float
) -> None:
    exits = Exits(
        layers=(8,),
        criterion="static",
        granularity="token",
        head="norm_lm",
        kv_policy="self_speculative",
        draft_tokens=2,
    )
    ops = lower_expected(
        replace(LLAMA, exits=exits), Assumed(acceptance=acceptance), tokens=100, new_tokens=1
    )
    body = (ops.kind == KIND["matmul"]) & (ops.n != LLAMA.backbone.vocab_size)
    for layer, count, tokens in ((0, 2 / yields, 1), (31, 1 / yields, 3)):
        here = body & (ops.layer == layer)
        assert set(ops.m[here]) == {tokens}
        assert ops.count[here] == pytest.approx(count)


def test_a_cascade_pays_later_models_by_who_comes_to_them() -> None:
    small = replace(BERT, depth=2)
    one, two = (flops(lower_expected(c, Assumed(), tokens=64)) for c in (small, BERT))
    found = lower_cascade([small, BERT], Assumed(answer_share=(0.75,)), tokens=64)
    assert flops(found) == pytest.approx(one + 0.25 * two, rel=1e-12)


def test_a_reader_s_step_is_one_matrix_per_layer_and_gates() -> None:
    backbone = replace(
        BERT.backbone, type="recurrent", num_layers=2, hidden_size=100, embedding_size=300
    )
    reader = Candidate(backbone=backbone, depth=2)
    found = lower_reader(reader, Assumed(read_share=0.5), batch=1, tokens=40, num_classes=3)
    gates = 4 * 100 * ((300 + 100) + (100 + 100))
    assert flops(found) == pytest.approx(2 * (20 * gates + 100 * 3))
    with pytest.raises(InputError, match="reads no token after another"):
        lower_reader(BERT, Assumed(), batch=1, tokens=40, num_classes=3)
