"""Routers against plain Python, closed forms and published loads."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dynsearch.conformance_tokens import check_router
from search_spaces import Experts, InputError
from search_spaces.routers import router, routers
from search_spaces.routers.balanced_assignment import balanced
from search_spaces.routers.base import Assignment, Router, Routing, capacity, routing_of
from search_spaces.routers.hash import balanced_table, hashed_expert, hashed_ranking
from search_spaces.routers.kernels import device_sums, executed_rows, expert_devices

LOADS = arrays(np.int64, (3, 6), elements=st.integers(0, 40))
RNG = np.random.default_rng(5)
SCORES = RNG.normal(size=(2, 30, 4)) + np.array([1.0, 0.5, 0.0, 0.0])


def experts(kind: str, k: int = 1, E: int = 4, **fields: object) -> Experts:
    return Experts(layers=(1,), num_experts=(E,), top_k=(k,), router=kind, **fields)  # type: ignore[arg-type]


def assign(moe: Experts, scores: np.ndarray = SCORES, **more: object) -> Assignment:
    return router(moe.router).assign(routing_of(moe, 0, scores, **more))


@pytest.mark.parametrize("kind", sorted(routers()))
def test_every_router_conforms(kind: str) -> None:
    check_router(routers()[kind])


def test_routers_that_lie_about_themselves_do_not_conform() -> None:
    def mean(routing: Routing) -> Assignment:
        centred = routing.scores - routing.scores.mean(axis=-2, keepdims=True)
        return routers()["token_choice"].assign(replace(routing, scores=centred))

    def all_kept(routing: Routing) -> Assignment:
        done = routers()["token_choice"].assign(routing)
        return replace(done, kept=done.sent)

    def by_task(routing: Routing) -> Assignment:
        return routers()["task"].assign(routing)

    for rule, words in (
        (mean, "other mates"),
        (all_kept, "more than its cap"),
        (by_task, "tasks"),
    ):
        with pytest.raises(AssertionError, match=words):
            check_router(Router(kind="user", assign=rule))


def by_hand(moe: Experts, scores: np.ndarray) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Pairs sent and kept of one step by the rule: rank by rank, token by token."""
    T, E = scores.shape
    k, factor = moe.top_k[0], moe.capacity_factor
    size = moe.routing_group_size or T
    sent, kept = set(), set()
    for start in range(0, T, size):
        group = range(start, min(start + size, T))
        room = [math.inf if factor is None else math.ceil(factor * k * len(group) / E)] * E
        for rank in range(k):
            for t in group:
                e = sorted(range(E), key=lambda e: (-scores[t, e], e))[rank]
                sent.add((t, e))
                if room[e] > 0:
                    kept.add((t, e))
                room[e] -= 1
    return sent, kept


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("factor", [None, 0.5, 1.0, 1.25])
@pytest.mark.parametrize("size", [None, 7])
def test_token_choice_fills_experts_rank_by_rank_and_token_by_token(
    k: int, factor: float | None, size: int | None
) -> None:
    moe = experts("token_choice", k, capacity_factor=factor, routing_group_size=size)
    done = assign(moe)
    for step in range(2):
        sent, kept = by_hand(moe, SCORES[step])
        assert set(zip(*np.nonzero(done.sent[step]), strict=True)) == sent
        assert set(zip(*np.nonzero(done.kept[step]), strict=True)) == kept


def test_gates_are_what_their_norm_says() -> None:
    p = np.exp(SCORES) / np.exp(SCORES).sum(axis=-1, keepdims=True)
    for norm in ("softmax_all", "softmax_topk", "sigmoid", "dselect"):
        done = assign(experts("token_choice", 2, gate_norm=norm))
        if norm == "softmax_all":
            assert done.gates[done.sent] == pytest.approx(p[done.sent])
        elif norm == "sigmoid":
            assert done.gates[done.sent] == pytest.approx(1 / (1 + np.exp(-SCORES[done.sent])))
        else:
            kept = np.where(done.sent, p, 0.0)
            assert done.gates == pytest.approx(kept / kept.sum(axis=-1, keepdims=True))


def test_a_second_expert_is_used_as_often_as_twice_its_share_of_both() -> None:
    scores = np.tile(np.log(np.array([0.7, 0.2, 0.1])), (1, 40_000, 1))
    done = assign(experts("token_choice", 2, 3, second_expert="random"), scores)
    share, want = done.sent[0, :, 1].mean(), 2 * 0.2 / 0.9
    assert abs(share - want) < 4 * math.sqrt(want * (1 - want) / 40_000)
    assert done.sent[0, :, 0].all()


def test_groups_of_experts_each_give_their_best() -> None:
    done = assign(experts("token_choice", 2, expert_groups=2))
    assert (done.sent[..., :2].sum(axis=-1) == 1).all()
    assert (done.sent[..., 2:].sum(axis=-1) == 1).all()
    assert (done.sent[..., :2].argmax(axis=-1) == SCORES[..., :2].argmax(axis=-1)).all()


def test_rerouted_tokens_go_to_their_next_choice_while_there_is_room() -> None:
    scores = np.zeros((1, 8, 4))
    scores[..., 0] = 1.0
    lost = assign(experts("token_choice", capacity_factor=1.0), scores)
    assert int(lost.dropped[0]) == 6
    found = assign(experts("token_choice", capacity_factor=1.0, overflow="reroute"), scores)
    assert int(found.dropped[0]) == 0
    assert found.loads.tolist() == [[2, 2, 2, 2]]
    tight = assign(experts("token_choice", capacity_factor=0.5, overflow="reroute"), scores)
    assert (int(tight.dropped[0]), tight.loads.tolist()) == (4, [[1, 1, 1, 1]])


def test_expert_choice_loads_are_equal_and_hold_the_best_tokens() -> None:
    done = assign(experts("expert_choice", 2, capacity_factor=1.0))
    assert (done.loads == 15).all()
    p = np.exp(SCORES) / np.exp(SCORES).sum(axis=-1, keepdims=True)
    for step in range(2):
        for e in range(4):
            worst = p[step, done.sent[step, :, e], e].min()
            assert worst >= p[step, ~done.sent[step, :, e], e].max()


def test_hash_and_task_follow_ids_and_random_follows_none() -> None:
    ids = np.tile(np.arange(15), (2, 2))
    by_hash = assign(experts("hash", 2), tokens=ids)
    assert (by_hash.sent[:, :15] == by_hash.sent[:, 15:]).all()
    assert (by_hash.sent[0] == by_hash.sent[1]).all()
    salted = assign(experts("hash", 2, hash_salt=1), tokens=ids)
    assert (salted.sent != by_hash.sent).any()
    by_task = assign(experts("task", num_tasks=3), tasks=ids % 3, table=np.array([2, 0, 1]))
    assert (by_task.sent.argmax(axis=-1) == np.array([2, 0, 1])[ids % 3]).all()
    drawn = [assign(experts("random"), seed=s).sent for s in (0, 1)]
    assert (drawn[0] != drawn[1]).any()


def test_a_balanced_table_evens_out_the_frequencies_of_words() -> None:
    frequencies = 1.0 / np.arange(1, 1001)  # Zipf
    table = balanced_table(frequencies, 4)
    loads = np.bincount(table, weights=frequencies)
    assert loads.max() / loads.mean() < 1.01
    order = RNG.choice(1000, size=(1, 4000), p=frequencies / frequencies.sum())
    even = assign(experts("hash", hash_kind="balanced"), np.zeros((1, 4000, 4)), tokens=order,
                  table=table)  # fmt: skip
    uneven = assign(experts("hash"), np.zeros((1, 4000, 4)), tokens=order)
    assert even.loads.max() < uneven.loads.max()


def test_an_auction_gives_each_expert_its_places_and_nearly_the_best_sum() -> None:
    scores = RNG.normal(size=(6, 3))
    taken = balanced(scores)
    assert np.bincount(taken).tolist() == [2, 2, 2]
    best = max(
        sum(scores[t, e] for t, e in enumerate(order))
        for order in set(permutations([0, 0, 1, 1, 2, 2]))
    )
    got = scores[np.arange(6), taken].sum()
    assert best - 6e-3 * np.ptp(scores) <= got <= best + 1e-12
    many = balanced(RNG.normal(size=(203, 8)) + np.linspace(2, 0, 8))
    assert np.bincount(many, minlength=8).max() <= math.ceil(203 / 8)


def test_base_layers_are_balanced_in_training_and_greedy_when_they_answer() -> None:
    moe = experts("balanced_assignment")
    trained = assign(moe, training=True)
    assert trained.loads.max() <= 8
    greedy = assign(moe)
    assert (greedy.sent.argmax(axis=-1) == SCORES.argmax(axis=-1)).all()
    assert greedy.loads.max() > 8


def test_the_capacity_of_training_differs_from_the_one_that_answers() -> None:
    moe = experts("token_choice", capacity_factor=2.0, capacity_factor_train=1.0)
    assert assign(moe).capacity == 15
    assert assign(moe, training=True).capacity == 8
    assert capacity(64, 64, 1, 1.25) == capacity(64, 64, 1, 2.0) == 2


@pytest.mark.parametrize(
    ("T", "E", "peak", "lost", "lost_more"),
    [  # max / mean load, drops at cf 1.0 and 1.25 of balanced routers, 400 draws
        (64, 8, 1.54, 0.13, 0.047),
        (512, 8, 1.19, 0.046, 0.0005),
        (64, 64, 4.05, 0.37, 0.10),
    ],
)
def test_loads_and_drops_of_balanced_routers_are_those_of_the_literature(
    T: int, E: int, peak: float, lost: float, lost_more: float
) -> None:
    draws, scores = 400, np.zeros((400, T, E))
    done = assign(experts("random", E=E), scores)
    peaks = done.loads.max(axis=-1) / (T / E)
    # two samples of 400: six standard errors, and the rounding of what is printed
    assert abs(peaks.mean() - peak) < 6 * peaks.std() / math.sqrt(draws) + 0.005
    for factor, want in ((1.0, lost), (1.25, lost_more)):
        shares = assign(experts("random", E=E, capacity_factor=factor), scores).dropped_share
        error = 6 * shares.std() / math.sqrt(draws)
        assert abs(shares.mean() - want) < error + 0.005


def test_kernels_pad_as_they_do() -> None:
    loads = np.array([0, 1, 128, 129])
    rows = {
        "grouped": [0, 1, 128, 129],
        "block_sparse": [0, 128, 128, 256],
        "padded": [150] * 4,
        "dense_mask": [258] * 4,
    }
    for kernel, want in rows.items():
        assert executed_rows(kernel, loads, tokens=258, capacity=150).tolist() == want
    assert executed_rows("grouped", loads, tokens=258, tile=64).tolist() == [0, 64, 128, 192]
    with pytest.raises(InputError, match="capacity_factor: padded runs"):
        executed_rows("padded", loads, tokens=258)
    with pytest.raises(InputError, match="did you mean grouped"):
        executed_rows("gruoped", loads, tokens=258)


def test_experts_are_spread_over_devices_in_blocks_or_as_placed() -> None:
    blocks = expert_devices(experts("hash", expert_parallel=2), 4)
    assert blocks.tolist() == [0, 0, 1, 1]
    placed = expert_devices(experts("hash", expert_parallel=2, placement=(0, 1, 1, 0)), 4)
    loads = np.array([[5, 1, 2, 0], [1, 1, 1, 1]])
    assert device_sums(loads, blocks, 2).tolist() == [[6, 2], [2, 2]]
    assert device_sums(loads, placed, 2).tolist() == [[5, 3], [2, 2]]


def test_an_unknown_router_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean expert_choice"):
        router("expert_chioce")


@settings(max_examples=25)
@given(loads=LOADS, tile=st.integers(1, 16))
def test_rows_are_rounded_up_to_tiles(loads: np.ndarray, tile: int) -> None:
    rows = executed_rows("grouped", loads, tile=tile)
    assert (rows % tile == 0).all()
    assert ((rows >= loads) & (rows < loads + tile)).all()
    assert (rows == executed_rows("block_sparse", loads, tile=tile)).all()


@settings(max_examples=25)
@given(loads=LOADS)
def test_padded_and_masked_kernels_run_the_same_rows_whatever_the_load(loads: np.ndarray) -> None:
    assert (executed_rows("padded", loads, capacity=7) == 7).all()
    masked = executed_rows("dense_mask", loads, tokens=loads.sum(axis=1, keepdims=True))
    assert (masked.sum(axis=1) == 6 * loads.sum(axis=1)).all()


@pytest.mark.parametrize("kernel", ["padded", "dense_mask"])
def test_a_kernel_without_its_number_is_refused(kernel: str) -> None:
    with pytest.raises(InputError, match="padded runs as many rows as the capacity"):
        executed_rows(kernel, np.ones((1, 2), dtype=int))


def test_capacity_rounds_up_and_no_further() -> None:
    assert capacity(64, 64, 1, [1.0, 1.25, 2.0]).tolist() == [1, 2, 2]
    assert capacity(400, 8, 1, 1.1) == 55  # 1.1 * 400 / 8 is a little above 55 in binary
    assert capacity(100, 8, 2, 1.0) == 25


def test_the_first_expert_of_a_hash_heads_its_ranking() -> None:
    ids = np.arange(500)
    first = hashed_expert(ids, 7, salt=3)
    assert (first == hashed_ranking(ids, 7, 3, None)[:, 0]).all()
    assert np.bincount(first, minlength=7).min() > 40
