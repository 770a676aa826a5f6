"""Decoders: FLOPs, weights and caches against closed forms and the weights that there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import DTYPES, KIND, InputError, OpTable, count_parameters, load_backbone
from search_spaces.lowering.decoder import (
    lower_beam_step,
    lower_decode_step,
    lower_encode,
    lower_generation,
    lower_lm_head,
    lower_prefill,
    step_lengths,
)
from search_spaces.lowering.experts import expected_experts, lower_exchange
from search_spaces.lowering.heads import lower_token_choice
from search_spaces.lowering.stacks import (
    CallShapes,
    lower_cross_keys,
    lower_skipped_kv,
    lower_stack,
)
from search_spaces.ops import COLLECTIVE
from search_spaces.parameters import attention_values, norm_values, output_values

BF16, FP32, INT4 = (DTYPES.index(d) for d in ("bf16", "fp32", "int4"))
LLAMA, LLAMA3, GPT2 = (load_backbone(n) for n in ("llama2-7b", "llama3-8b", "gpt2"))
MIXTRAL, DEEPSEEK = load_backbone("mixtral-8x7b"), load_backbone("deepseek-moe-16b")
T5, WHISPER = load_backbone("t5-small"), load_backbone("whisper-tiny")
HAT = load_backbone("hat-wmt14-en-de")


def total(table: OpTable, name: str, kind: str | None = None) -> float:
    rows = np.ones(len(table), bool) if kind is None else table.kind == KIND[kind]
    return float((getattr(table, name) * table.count)[rows].sum())


def step(backbone: Any, **changes: Any) -> OpTable:
    return lower_decode_step(backbone, **{"batch": 1, "cached": 127, "dtype": BF16, **changes})


@pytest.mark.parametrize("backbone", [LLAMA, LLAMA3, GPT2, load_backbone("opt-1.3b")])
def test_a_step_reads_every_weight_but_the_embedding_table(backbone: Any) -> None:
    b = backbone
    table = b.vocab_size * b.hidden_size
    positions = b.max_len * b.hidden_size * (b.positions == "learned")
    last = norm_values(b, b.hidden_size)  # charged without its weights, with the embedding
    read = count_parameters(b) - positions - last - (0 if b.tied_embeddings else table)
    assert total(step(b), "weight_bytes") == 2 * read


def test_a_prompt_costs_two_flops_per_weight_and_token_and_its_attention() -> None:
    n, b = 512, LLAMA
    table = lower_prefill(b, batch=2, tokens=n, dtype=BF16, logits="all")
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    assert total(table, "flops", "matmul") == 2 * 2 * n * matrices
    attention = 2 * 32 * 4 * 4096 * n * (n + 1) / 2
    assert total(table, "flops", "attention_prefill") == attention
    last = lower_prefill(b, batch=2, tokens=n, dtype=BF16)
    saved = total(table, "flops", "matmul") - total(last, "flops", "matmul")
    assert saved == 2 * 2 * (n - 1) * 32000 * 4096


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60))
def test_a_prompt_in_two_chunks_computes_what_one_call_does(first: int, second: int) -> None:
    whole = lower_prefill(GPT2, batch=2, tokens=first + second, dtype=FP32, logits="none")
    parts = [
        lower_prefill(GPT2, batch=2, tokens=n, cached=c, dtype=FP32, logits="none")
        for n, c in ((first, 0), (second, first))
    ]
    assert sum(total(p, "flops") for p in parts) == pytest.approx(total(whole, "flops"))


def test_the_cache_that_a_step_reads_is_that_of_its_heads() -> None:
    found = {}
    for b in (LLAMA, LLAMA3):
        near, far = step(b, cached=100), step(b, cached=101)
        found[b.name] = total(far, "activation_bytes") - total(near, "activation_bytes")
        assert found[b.name] == 32 * 2 * b.kv_heads * 128 * 2
    assert found["llama2-7b"] == 4 * found["llama3-8b"]


def test_a_window_stops_the_growth_of_a_step() -> None:
    mistral = load_backbone("mistral-7b")
    far, farther = (total(step(mistral, cached=c), "activation_bytes") for c in (4096, 30000))
    assert far == farther
    assert total(step(mistral, cached=1000), "activation_bytes") < far


def test_int4_reads_a_quarter_of_the_matrices_and_moves_the_same_activations() -> None:
    wide, narrow = step(LLAMA), step(LLAMA, dtype=INT4)
    body = narrow.dtype == INT4
    assert body.sum() == 32 * 4
    np.testing.assert_array_equal(4 * narrow.weight_bytes[body], wide.weight_bytes[body])
    np.testing.assert_array_equal(narrow.activation_bytes, wide.activation_bytes)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_a_step_loads_the_experts_that_its_tokens_ask_for(batch: int) -> None:
    table = step(MIXTRAL, batch=batch)
    experts = table.kind == KIND["grouped_matmul"]
    loaded = float(expected_experts(8, 2, batch))
    up = experts & (table.k == 4096)
    assert up.sum() == 32
    np.testing.assert_allclose(table.batch[up], np.floor(loaded + 0.5))
    one = 2 * 3 * 4096 * 14336
    assert total(table, "weight_bytes", "grouped_matmul") == 32 * one * np.floor(loaded + 0.5)
    assert total(table, "flops", "grouped_matmul") == pytest.approx(batch * 2 * 32 * one, rel=1e-9)


def test_eager_experts_are_calls_of_their_own_and_the_host_waits() -> None:
    table = step(MIXTRAL, batch=4, grouped=False)
    experts = table.kind == KIND["grouped_matmul"]
    assert (table.batch[experts] == 1).all()
    np.testing.assert_allclose(table.count[experts], float(expected_experts(8, 2, 4)))
    assert total(table, "count", "host_sync") == 32
    assert total(step(MIXTRAL), "count", "host_sync") == 0


def test_loaded_experts_that_were_observed_replace_the_expected_ones() -> None:
    def shapes(loaded: float | None) -> CallShapes:
        one = np.array([0])
        return CallShapes(
            layer=one,
            batch=one + 16,
            queries=one + 1,
            cached=one + 9,
            dtype=one + BF16,
            loaded_experts=None if loaded is None else np.array([loaded]),
        )

    few, fair = (lower_stack(MIXTRAL, shapes(x)) for x in (3.0, None))
    assert set(few.batch[few.kind == KIND["grouped_matmul"]].tolist()) == {3}
    assert set(fair.batch[fair.kind == KIND["grouped_matmul"]].tolist()) == {8}


def test_only_layers_with_experts_have_them_and_shared_ones_see_every_token() -> None:
    table = step(DEEPSEEK, batch=2)
    layers = table.layer[table.kind == KIND["grouped_matmul"]]
    assert sorted(set(layers.tolist())) == list(range(1, 28))
    dense = table.take((table.layer == 0) & (table.kind == KIND["matmul"]))
    shared = table.take((table.layer == 1) & (table.kind == KIND["matmul"]))
    assert dense.k.max() == 10944
    assert shared.k.max() == 2816


def test_cross_attention_reads_the_source_and_its_keys_are_made_once() -> None:
    with_source = lower_decode_step(T5, batch=3, cached=4, dtype=FP32, source=20)
    without = lower_decode_step(T5, batch=3, cached=4, dtype=FP32)
    extra = with_source.kind == KIND["attention_decode"]
    assert extra.sum() == 2 * (without.kind == KIND["attention_decode"]).sum() == 12
    assert set(with_source.n[extra].tolist()) == {5, 20}
    encode = lower_encode(T5, batch=3, tokens=20, dtype=FP32, beams=1)
    five = lower_encode(T5, batch=3, tokens=20, dtype=FP32, beams=5)
    keys = 2 * 3 * 20 * 512 * 2 * 512 * 6
    assert total(five, "flops") - total(encode, "flops") == 4 * keys


def test_encoder_and_steps_together_read_every_weight_of_an_encoder_decoder() -> None:
    for b in (T5, HAT):
        read = total(lower_encode(b, batch=1, tokens=8, dtype=FP32), "weight_bytes")
        read += total(
            lower_decode_step(b, batch=1, cached=1, dtype=FP32, source=8), "weight_bytes"
        )
        buckets = b.relative_buckets * sum(s.heads for s in b.stacks())
        last = sum(norm_values(b, s.hidden) for s in b.stacks()) * (b.norm_place == "pre")
        assert read / 4 == count_parameters(b) - buckets - last


def test_sound_passes_two_convolutions_before_the_encoder() -> None:
    table = lower_encode(WHISPER, batch=1, tokens=1500, dtype=FP32, cross_keys=False)
    stem = table.take((table.kind == KIND["matmul"]) & np.isin(table.k, (240, 3 * 384)))
    assert stem.m.tolist() == [3000, 1500]
    assert total(stem, "weight_bytes") == 4 * (80 * 384 * 3 + 384 + 384 * 384 * 3 + 384)
    # published count of multiply-adds of the whole pass (figures of a CPU benchmark of whisper)
    assert total(table, "flops") / 2e9 == pytest.approx(18.469, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 300), st.integers(1, 200), st.integers(1, 12))
def test_lengths_that_stand_for_steps_add_up_to_them(start: int, steps: int, most: int) -> None:
    found = step_lengths(np.array([start]), np.array([steps]), most)
    assert sum(c[0] for _, c in found) == pytest.approx(steps)
    length = sum(n[0] * c[0] for n, c in found)
    assert length == pytest.approx(sum(range(start, start + steps)))


def test_a_generation_is_the_sum_of_its_steps() -> None:
    some = lower_generation(HAT, batch=2, prompt=0, steps=30, dtype=FP32, beams=5, source=23)
    each = [
        lower_decode_step(HAT, batch=10, cached=t, dtype=FP32, source=23) for t in range(30)
    ] + [lower_beam_step(HAT, rows=10, cached=t, dtype=FP32) for t in range(30)]
    for name in ("flops", "weight_bytes", "activation_bytes"):
        assert total(some, name) == pytest.approx(sum(total(t, name) for t in each))
    assert len(some) < 0.6 * sum(len(t) for t in each)


def test_beams_reorder_every_cache_and_the_host_reads_the_choice() -> None:
    table = lower_beam_step(HAT, rows=10, cached=7, dtype=FP32)
    moved = total(table, "activation_bytes", "gather")
    assert moved == 2 * 4 * 6 * 10 * 7 * 2 * 512
    assert total(table, "count", "host_sync") == 1


def test_layers_that_are_skipped_still_get_their_keys_and_values() -> None:
    one = np.array([12])
    shapes = CallShapes(
        layer=one, batch=0 * one + 6, queries=0 * one + 1, cached=one, dtype=0 * one
    )
    table = lower_skipped_kv(LLAMA3, shapes)
    kv = 8 * 128
    assert total(table, "weight_bytes") == 4 * 4096 * 2 * kv
    assert total(table, "flops", "matmul") == 2 * 6 * 4096 * 2 * kv
    whole = step(LLAMA3, batch=6, dtype=FP32)
    at = whole.take(whole.layer == 12)
    assert total(table, "flops") < 0.2 * total(at, "flops")


def test_an_exit_of_a_decoder_pays_for_the_whole_vocabulary_and_the_host() -> None:
    plain, check = (lower_lm_head(LLAMA, rows=3, dtype=BF16, check=c) for c in (False, True))
    assert total(plain, "weight_bytes") == 2 * output_values(LLAMA)
    assert total(check, "count", "host_sync") == 1
    assert total(check, "flops") > total(plain, "flops")
    shallow = step(LLAMA, depth=8)
    assert set(shallow.layer.tolist()) == set(range(8))


def test_rows_of_a_batch_of_networks_are_lowered_as_if_alone() -> None:
    both = step(LLAMA3, batch=[1, 6], cached=[4, 90])
    for i, (batch, cached) in enumerate(((1, 4), (6, 90))):
        alone, mine = step(LLAMA3, batch=batch, cached=cached), both.take(both.candidate == i)
        for name in ("flops", "weight_bytes", "activation_bytes", "count"):
            assert total(mine, name) == total(alone, name)


def test_tokens_travel_to_the_ranks_of_their_experts_and_back() -> None:
    table = lower_exchange(MIXTRAL, tokens=[64, 64], ranks=[8, 1], dtype=BF16)
    assert table.k.tolist() == [COLLECTIVE["dispatch"], COLLECTIVE["combine"]]
    assert table.candidate.tolist() == [0, 0]  # one device needs no travel
    assert table.m.tolist() == [64 * 4096 * 2] * 2
    assert table.weight_bytes.tolist() == [4096 * 2] * 2
    assert table.batch.tolist() == [2, 2]
    few = lower_exchange(MIXTRAL, tokens=1, ranks=8, dtype=BF16, low_latency=True)
    assert few.k.tolist() == [
        COLLECTIVE["dispatch_low_latency"],
        COLLECTIVE["combine_low_latency"],
    ]


def test_a_router_of_tokens_scores_all_and_moves_those_that_enter() -> None:
    table = lower_token_choice(GPT2, layer=3, batch=2, n=64, kept=8, dtype=FP32, restores=True)
    assert total(table, "flops", "matmul") == 2 * 2 * 64 * 768
    assert total(table, "activation_bytes", "gather") == 4 * (2 + 3) * 2 * 8 * 768
    ranked = lower_token_choice(GPT2, layer=3, batch=2, n=64, kept=8, dtype=FP32, scored=False)
    assert total(ranked, "flops", "matmul") == 0


def test_what_has_no_decoder_is_refused() -> None:
    bert = load_backbone("bert-base")
    with pytest.raises(InputError, match="has no decoder"):
        lower_prefill(bert, batch=1, tokens=4, dtype=FP32)
    with pytest.raises(InputError, match="no encoder beside"):
        lower_encode(LLAMA, batch=1, tokens=4, dtype=FP32)
    with pytest.raises(InputError, match="last, all, none"):
        lower_prefill(LLAMA, batch=1, tokens=4, dtype=FP32, logits="some")


def test_keys_of_a_source_cost_what_their_weights_do() -> None:
    one = np.array([0])
    shapes = CallShapes(
        layer=one, batch=one + 1, queries=one + 1, cached=one, dtype=one, source=one + 4
    )
    wide = replace(HAT, decoder_hidden_size=512)
    table = lower_cross_keys(wide, shapes)
    stack = wide.decoder()
    own = attention_values(wide, stack, 640) - attention_values(wide, stack, 0)
    assert total(table, "weight_bytes") == 4 * (own + 2 * 512)
