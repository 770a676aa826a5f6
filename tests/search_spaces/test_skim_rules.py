"""Skimming mechanisms against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.conformance_tokens import check_skim
from search_spaces import InputError, Skim
from search_spaces.skims import skim_rule, skim_rules
from search_spaces.skims.base import (
    SkimRule,
    Tokens,
    alive_after,
    answered,
    protected_positions,
)
from search_spaces.skims.fixed_schedule import drop_ratios, ramp
from search_spaces.skims.gate import accumulated
from search_spaces.skims.jump import visits
from search_spaces.skims.layouts import executed
from search_spaces.skims.lookup import table_bytes
from search_spaces.skims.recurrent import reader_flops, step_flops
from search_spaces.skims.threshold import first_thresholds

LENGTHS = np.array([8, 4])


def tokens(protected: tuple[str, ...] = ("cls",), **arrays: object) -> Tokens:
    own = np.arange(8) < LENGTHS[:, None]
    return Tokens(
        lengths=LENGTHS,
        alive=own,
        protected=protected_positions(protected, LENGTHS, 8),
        arrays={name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()},
    )


@pytest.mark.parametrize("kind", sorted(skim_rules()))
def test_every_mechanism_conforms(kind: str) -> None:
    check_skim(skim_rules()[kind])


def test_mechanisms_that_look_at_other_samples_or_padding_do_not_conform() -> None:
    def mates(skim: Skim, layer: int, seen: Tokens) -> np.ndarray:
        return (seen.array("importance") >= seen.array("importance").mean()) & seen.own

    def padded(skim: Skim, layer: int, seen: Tokens) -> np.ndarray:
        return np.ones(seen.own.shape, dtype=bool)

    def undeclared(skim: Skim, layer: int, seen: Tokens) -> np.ndarray:
        return (seen.array("router") > 0) & seen.own

    for through, words in (
        (mates, "otherwise alone"),
        (padded, "padding goes through"),
        (undeclared, "does not declare"),
    ):
        with pytest.raises(AssertionError, match=words):
            check_skim(SkimRule(kind="user", through=through, arrays=("importance",)))


def test_a_schedule_keeps_shares_of_a_sample_or_counts() -> None:
    importance = [[1, 2, 3, 4, 5, 6, 7, 8], [4, 3, 2, 1, 9, 9, 9, 9]]
    seen = tokens(importance=importance)
    through = skim_rule("fixed_schedule").through
    half = Skim(layers=(1, 2), keep_rate=(0.5, 0.25))
    assert np.flatnonzero(through(half, 0, seen)[0]).tolist() == [0, 5, 6, 7]
    assert np.flatnonzero(through(half, 0, seen)[1]).tolist() == [0, 1]
    counted = Skim(layers=(1,), keep_count=(5,))
    assert through(counted, 0, seen).sum(axis=1).tolist() == [5, 4]


def test_dropped_tokens_stay_away_and_are_restored_for_the_head() -> None:
    seen = tokens(importance=np.arange(16).reshape(2, 8))
    skim = Skim(layers=(1,), keep_rate=(0.5,), restore="last_layer")
    mask = skim_rule("fixed_schedule").through(skim, 0, seen)
    left = alive_after(skim, seen, mask)
    assert (left == mask).all()
    assert (answered(skim, seen, left) == seen.own).all()
    passing = Skim(layers=(1,), keep_rate=(0.5,), skipped="pass_through")
    assert (alive_after(passing, seen, mask) == seen.alive).all()
    assert (answered(passing, seen, mask) == mask).all()


def test_schedules_of_papers_become_counts_and_rates() -> None:
    # Length-Adaptive: l_{j+1} = ceil((1 - p_j) l_j); 0.9 of 10 is 9 in spite of binary fractions
    assert drop_ratios((0.1, 0.5, 0.0), 10) == (9, 5, 5)
    rates = ramp(0.4, 6)
    assert rates[:3] == (1.0, 1.0, 1.0)
    assert rates[3:] == pytest.approx((0.8, 0.6, 0.4))
    assert first_thresholds(0.01, 4) == pytest.approx((0.0025, 0.005, 0.0075, 0.01))


def test_a_threshold_keeps_what_reaches_it_and_the_protected() -> None:
    seen = tokens(("cls", "sep"), importance=[[0.0, 0.3, 0.1] * 2 + [0.2, 0.0], [0.0] * 8])
    skim = Skim(layers=(1,), mechanism="threshold", thresholds=(0.2,))
    kept = skim_rule("threshold").through(skim, 0, seen)
    assert np.flatnonzero(kept[0]).tolist() == [0, 1, 4, 6, 7]
    assert np.flatnonzero(kept[1]).tolist() == [0, 3]


def test_blocks_are_gated_together_by_the_mean_of_their_own_tokens() -> None:
    seen = tokens(
        (), probability=[[0.9, 0.2, 0.4, 0.4, 0, 1, 0, 0], [0.9, 0.9, 0.9, 0, 1, 1, 1, 1]]
    )
    skim = Skim(layers=(1,), mechanism="gate", block=3)
    kept = skim_rule("gate").through(skim, 0, seen)
    assert kept[0].tolist() == [True] * 3 + [False] * 5
    assert kept[1].tolist() == [True] * 3 + [False] * 5


def test_mixture_of_depths_lets_a_share_through_or_asks_a_predictor() -> None:
    seen = tokens((), router=[[0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6], [0.9, 0.1, 0.2, 0.3] * 2])
    ranked = Skim(layers=(1,), keep_rate=(0.25,), mechanism="topk_router", protected=())
    through = skim_rule("topk_router").through
    assert np.flatnonzero(through(ranked, 0, seen)[0]).tolist() == [1, 3]
    assert np.flatnonzero(through(ranked, 0, seen)[1]).tolist() == [0]
    causal = Skim(layers=(1,), keep_rate=(0.25,), mechanism="topk_router", causal_predictor=True)
    assert np.flatnonzero(through(causal, 0, seen)[0]).tolist() == [1, 3, 5, 7]


def read_by_hand(
    jumps: list[int], length: int, every: int, low: int, high: int, most: int
) -> list[int]:
    at, run, left, read = 0, 0, most, []
    while at < length:
        read.append(at)
        run += 1
        if run < every:
            at += 1
            continue
        step = min(max(jumps[at], low), high)
        if step == 0 or left == 0:
            break
        at, run, left = max(at + step, 0), 0, left - 1
    return read


@given(
    jumps=st.lists(st.integers(-2, 5), min_size=12, max_size=12),
    length=st.integers(1, 12),
    every=st.integers(1, 3),
    low=st.integers(-2, 0),
    high=st.integers(1, 5),
    most=st.integers(1, 6),
)
def test_a_reader_visits_the_tokens_of_a_plain_loop(
    jumps: list[int], length: int, every: int, low: int, high: int, most: int
) -> None:
    seen = Tokens(
        lengths=np.array([length]),
        alive=np.ones((1, 12), dtype=bool),
        protected=np.zeros((1, 12), dtype=bool),
        arrays={"jump": np.array([jumps]), "mark": np.zeros((1, 12))},
    )
    skim = Skim(
        layers=(1,), mechanism="jump", read_tokens=every, jump_min=low, jump_max=high,
        max_jumps=most,
    )  # fmt: skip
    want = read_by_hand(jumps, length, every, low, high, most)
    assert visits(skim, seen)[0].tolist() == [want.count(i) for i in range(12)]


def test_structural_jumps_go_past_the_next_mark() -> None:
    marks = [[0, 0, 1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    jumps = [[1] * 8, [1, 0, 1, 1, 1, 1, 1, 1]]
    skim = Skim(layers=(1,), mechanism="jump", structural=True)
    read = skim_rule("jump").through(skim, 0, tokens((), jump=jumps, mark=marks))
    assert np.flatnonzero(read[0]).tolist() == [0, 3, 6]
    assert np.flatnonzero(read[1]).tolist() == [0, 2]


def test_stored_states_spare_the_first_layers_and_misses_are_computed() -> None:
    skim = Skim(layers=(1,), mechanism="lookup", skipped="alt_path", lookup_order=3)
    computed = skim_rule("lookup").through(skim, 0, tokens(stored=[[1, 0, 1, 1, 0, 1, 1, 1]] * 2))
    assert np.flatnonzero(computed[0]).tolist() == [1, 4]
    assert np.flatnonzero(computed[1]).tolist() == [1]
    assert table_bytes(1000, 768, 2.0) == 1_536_000


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=20))
def test_skip_rnn_updates_at_the_steps_of_its_recurrence(increments: list[float]) -> None:
    v, want = 1.0, []
    for d in increments:
        u = round(v) if v != 0.5 else 1
        want.append(bool(u))
        v = d if u else min(1.0, v + d)
    assert accumulated(np.array(increments)).tolist() == want


def test_layouts_differ_by_what_they_pad() -> None:
    counts = np.array([[3, 5, 0], [2, 2, 2]])
    padded, packed, alone = (executed(x, counts) for x in ("pad_to_max", "packed", "per_sequence"))
    assert padded.tokens.tolist() == [10, 6]
    assert padded.pairs.tolist() == [50, 12]
    assert packed.tokens.tolist() == alone.tokens.tolist() == [8, 6]
    assert packed.pairs.tolist() == alone.pairs.tolist() == [34, 12]
    assert (packed.calls.tolist(), alone.calls.tolist()) == ([1, 1], [2, 3])
    with pytest.raises(InputError, match="did you mean packed"):
        executed("pakced", counts)


def test_steps_of_a_reader_cost_the_rows_that_they_update() -> None:
    assert float(step_flops("lstm", 300, 100, 100)) == 2 * 4 * 100 * 400
    assert float(step_flops("gru", 300, 100, 10)) == 2 * 3 * 10 * 400
    # Skim-RNN: 30 big steps and 70 small ones of 10 states, two outputs asked at each of 100
    got = reader_flops("lstm", 300, 100, (100, 10), np.array([[30, 70]]), head=2)
    assert got.tolist() == [30 * 320_000 + 70 * 32_000 + 2 * 100 * 2 * 100]
    # a reader that copies its state at 3 of 4 steps spends a quarter
    copied = reader_flops("rnn", 10, 20, (20, 0), np.array([[25, 75]]))
    full = reader_flops("rnn", 10, 20, (20,), np.array([[100]]))
    assert math.isclose(float(copied[0]), float(full[0]) / 4)
    with pytest.raises(InputError, match="did you mean lstm"):
        step_flops("lsmt", 1, 1, 1)


def test_an_unknown_mechanism_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean threshold"):
        skim_rule("treshold")
