"""Peak memory against published parameter counts and a count by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_models.memory import activation_values, peak_bytes, weight_values
from search_spaces.candidate import Backbone, Candidate, Exits, Experts, Skim, stack
from search_spaces.workload import Workload

MINILM = Backbone(
    name="minilm-l6",
    num_layers=6,
    hidden_size=384,
    num_heads=12,
    ffn_size=1536,
    vocab_size=30522,
    max_len=512,
)
FULL = Candidate(backbone=MINILM, depth=6)
LAYER = 1_774_464  # 12 h^2 + 13 h with h = 384
HEAD = 384 * 384 + 384 + 384 * 2 + 2
ONE = Workload(batch=1, max_len=64)


def test_the_full_network_has_the_published_number_of_parameters() -> None:
    # all-MiniLM-L6-v2: 22,713,216 with its pooler; plus a linear head of two classes
    assert weight_values(stack([FULL]), num_classes=2)[0] == 22_713_216 + 384 * 2 + 2


def test_only_layers_above_the_depth_and_unused_heads_are_cut() -> None:
    exits = Exits(layers=(1, 3), thresholds=(0.9, 0.9))
    batch = stack([FULL, replace(FULL, depth=4), replace(FULL, depth=4, exits=exits)])
    full, shallow, exiting = weight_values(batch, num_classes=2)
    assert full - shallow == 2 * LAYER
    assert exiting - shallow == 2 * HEAD


def test_split_experts_add_routers_only() -> None:
    moe = Experts(layers=(2, 5), num_experts=(4, 8), top_k=(1, 2))
    dense, split = weight_values(stack([FULL, replace(FULL, moe=moe)]), num_classes=2)
    assert split - dense == sum(E * (384 + 1) + E * 384 + 384 for E in (4, 8))


def test_half_the_width_is_half_the_memory() -> None:
    fp32, bf16 = peak_bytes(
        stack([FULL, replace(FULL, dtype="bf16")]), workload=ONE, num_classes=2
    )
    assert fp32 == 2 * bf16


def test_int8_shrinks_the_matrices_of_the_layers_and_nothing_else() -> None:
    shallow = replace(FULL, depth=4)
    for c in (FULL, shallow):
        fp32, int8 = peak_bytes(stack([c, replace(c, dtype="int8")]), workload=ONE, num_classes=2)
        assert fp32 - int8 == 3 * c.depth * (LAYER - 4 * 384)  # all but two norms of a layer


def test_activations_are_those_of_the_widest_moment() -> None:
    # feed-forward: 64 tokens x (state and sum 2 x 384, before and after GELU 2 x 1536)
    assert activation_values(stack([FULL]), workload=ONE)[0] == 64 * (2 * 384 + 2 * 1536)
    wide = replace(ONE, batch=8)
    waiting = replace(FULL, exit_batching="wait_all")
    one, eight = activation_values(stack([FULL, waiting]), workload=wide)
    assert eight == 8 * one  # serial runs with a batch of 1


def test_dropping_tokens_needs_the_attention_matrix_of_the_queries_that_rank_them() -> None:
    skim = Skim(layers=(1,), keep_rate=(0.5,))
    workload = Workload(batch=1, max_len=512)
    plain, dropping = activation_values(
        stack([FULL, replace(FULL, skim=(skim,))]), workload=workload
    )
    assert dropping == 512 * 5 * 384 + 2 * 12 * 64 * 512
    assert plain == 512 * 10 * 384  # its feed-forward network is the widest moment


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    batch = stack([FULL, replace(FULL, depth=2), replace(FULL, dtype="bf16", depth=3)])
    together = peak_bytes(batch, workload=ONE, num_classes=5)
    alone = [
        peak_bytes(batch.take(np.array([i])), workload=ONE, num_classes=5)[0] for i in range(3)
    ]
    assert together == pytest.approx(alone, rel=0)
