"""Neighbours differ in one knob by one step, and are legal."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.analysis.neighbours import RATE_STEP, policy_moves, setting_moves
from dynsearch.search.policies import PATIENCE, PolicyMaker
from dynsearch.sim.replay import Replayer
from search_spaces.candidate import Backbone, PolicyBatch
from search_spaces.inner import InnerSpace
from search_spaces.space import SearchSpace
from search_spaces.workload import Workload

sys.path.insert(0, str(Path(__file__).parents[1] / "sim"))
from replay_cases import make_cost, make_trace

LAYERS = 4
SPACE = InnerSpace(
    exit_layers=(1, 2, 3),
    min_depth=2,
    max_depth=LAYERS,
    criteria=("max_prob", "entropy", "patience"),
    temperatures=(1.0, 1.5),
    patience=(1, 2),
    max_exits=2,
)
OUTER = SearchSpace.from_dict(
    {
        "dtype": ["fp32", "bf16"],
        "skim": {"layers": [1, 3], "keep": [1.0, 0.75, 0.5]},
        "experts": {
            "groups": [[1, 2], [3, 4]],
            "counts": [1, 4],
            "active": [0.25, 0.5],
            "granularity": ["sequence", "token"],
        },
    },
    backbone=Backbone(
        name="small", num_layers=4, hidden_size=48, num_heads=4, ffn_size=96, vocab_size=99,
        max_len=64,
    ),
)  # fmt: skip


@cache
def make_maker() -> PolicyMaker:
    rng = np.random.default_rng(0)
    trace = make_trace(rng, 200, LAYERS)
    replayer = Replayer(
        trace,
        make_cost(rng, LAYERS, 1),
        workloads=[Workload(batch=1, max_len=20)],
        correct_full=np.ones(200, dtype=bool),
    )
    return PolicyMaker.of(replayer, SPACE)


def rates(policy: PolicyBatch, maker: PolicyMaker) -> list[float]:
    scorer = maker.find[int(policy.criterion[0]), float(policy.temperature[0])]
    return [float(c.rate_of(t)) for c, t in zip(scorer.cuts, policy.thresholds[0], strict=True)]


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_each_policy_move_changes_its_own_knob_alone(seed: int) -> None:
    maker = make_maker()
    rng = np.random.default_rng(seed)
    policy = SPACE.sample(rng, 1, num_layers=LAYERS, num_classes=3)
    for move, made in policy_moves(policy, SPACE, maker):
        knob, _, site = move.knob.partition(" ")
        assert SPACE.min_depth <= made.depth[0] <= SPACE.max_depth
        assert made.exit_on[0].sum() <= 2
        assert not made.exit_on[0, made.depth[0] - 1 :].any()
        exits = made.exit_on[0]
        assert np.isinf(made.thresholds[0][~exits]).all()
        others = exits != policy.exit_on[0]
        if knob == "exit":
            assert others.tolist() == [i == int(site) - 1 for i in range(LAYERS)]
        elif knob == "depth":
            assert abs(int(made.depth[0]) - int(policy.depth[0])) == 1
            assert not (exits & ~policy.exit_on[0]).any()
        else:
            assert not others.any()
        if knob == "threshold":
            off = np.array(rates(made, maker)) - np.array(rates(policy, maker))
            assert np.flatnonzero(off).tolist() == [int(site) - 1]
            before = rates(policy, maker)[int(site) - 1]  # drawn thresholds lie between scores
            nearest = maker.find[int(made.criterion[0]), float(made.temperature[0])]
            wanted = {
                float(nearest.cuts[int(site) - 1].at(before + s)) for s in (-RATE_STEP, RATE_STEP)
            }
            assert float(made.thresholds[0, int(site) - 1]) in wanted
        if exits.any() and made.criterion[0] == PATIENCE:
            assert made.patience[0] < exits.sum()


def test_a_policy_without_exits_gets_one_at_the_middle_rate() -> None:
    maker = make_maker()
    policy = SPACE.sample(np.random.default_rng(1), 40, num_layers=LAYERS, num_classes=3)
    bare = policy.take(np.flatnonzero(~policy.exit_on.any(axis=1))[:1])
    added = [made for move, made in policy_moves(bare, SPACE, maker) if move.after == "on"]
    assert len(added) == min(int(bare.depth[0]) - 1, 3)
    for made in added:
        site = int(np.flatnonzero(made.exit_on[0])[0])
        assert rates(made, maker)[site] == pytest.approx(0.5, abs=0.01)


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_setting_moves_are_distinct_networks_one_value_away(seed: int, depth: int) -> None:
    (params,) = OUTER.sample_outer(np.random.default_rng(seed), 1)
    here = OUTER.cut(params, depth)
    moves = setting_moves(params, OUTER, depth)
    seen = [repr(made) for _, made in moves]
    assert len(set(seen)) == len(seen)
    assert repr(here) not in seen
    for move, made in moves:
        assert made == OUTER.cut(made, depth)
        assert str(made[move.knob]) == move.after != str(params[move.knob])


def test_keep_rates_move_to_the_next_value_only() -> None:
    full = OUTER.full_params()
    moves = [(m.knob, m.after) for m, _ in setting_moves(full, OUTER, 4)]
    assert ("keep_after_1", "0.75") in moves
    assert ("keep_after_1", "0.5") not in moves
    assert ("dtype", "bf16") in moves
    shallow = {m.knob for m, _ in setting_moves(full, OUTER, 2)}
    assert not shallow & {"keep_after_3", "experts_3_4"}
