from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    EXIT_BATCHING,
    FAMILIES,
    RUNNABLE_CRITERIA,
    Candidate,
    CandidateBatch,
    Choice,
    Exits,
    Experts,
    InnerSpace,
    InputError,
    SearchSpace,
    Skim,
    check,
    load_backbone,
)
from search_spaces.candidate import stack
from search_spaces.exits import exit_criterion
from search_spaces.validity import not_lowered

BACKBONE = load_backbone("minilm-l6")
TABLE: dict[str, Any] = {
    "dtype": ["fp32", "bf16"],
    "skim": {"layers": [1, 3], "keep": [1.0, 0.75, 0.5]},
    "experts": {
        "groups": [[1, 3], [4, 6]],
        "counts": [1, 4, 8],
        "active": [0.2, 0.25, 0.5, 1.0],
        "granularity": ["sequence", "token"],
    },
    "exits": {
        "criteria": list(RUNNABLE_CRITERIA),
        "min_depth": 2,
        "max_exits": 3,
        "patience": [1, 2, 4],
        "temperatures": [1.0, 1.5],
        "batching": ["serial", "compact"],
    },
}
SPACE = SearchSpace.from_dict(TABLE, backbone=BACKBONE)
SEED = st.integers(0, 2**32 - 1)


def all_settings(space: SearchSpace) -> list[dict[str, Any]]:
    domains = space.outer_domains()
    values = [d.values for d in domains.values() if isinstance(d, Choice)]
    return [dict(zip(domains, combo, strict=True)) for combo in itertools.product(*values)]


def same(a: CandidateBatch, b: CandidateBatch) -> bool:
    names = [f.name for f in fields(a) if f.name != "backbone"]
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


def test_knob_names_are_fixed_and_in_order() -> None:
    assert list(SPACE.outer_domains()) == [
        "dtype",
        "keep_after_1",
        "keep_after_3",
        "experts_1_3",
        "active_1_3",
        "experts_4_6",
        "active_4_6",
        "granularity",
    ]
    poolings = SearchSpace.from_dict({"pooling": ["mean", "cls"]}, backbone=BACKBONE)
    assert list(poolings.outer_domains()) == ["dtype", "pooling"]


def test_decode_builds_the_network_that_the_knobs_say() -> None:
    candidate = SPACE.decode(
        {
            "dtype": "bf16",
            "keep_after_1": 0.75,
            "keep_after_3": 0.5,
            "experts_1_3": 1,
            "active_1_3": 0.5,
            "experts_4_6": 8,
            "active_4_6": 0.25,
            "granularity": "token",
        }
    )
    assert candidate == Candidate(
        backbone=BACKBONE,
        depth=6,
        skim=(Skim(layers=(1, 3), keep_rate=(0.75, 0.5)),),
        moe=Experts(layers=(4, 5, 6), num_experts=(8, 8, 8), top_k=(2, 2, 2), granularity="token"),
        dtype="bf16",
    )


@pytest.mark.parametrize(
    ("count", "share", "top_k"), [(8, 0.2, 2), (4, 0.2, 1), (4, 0.25, 1), (8, 0.5, 4)]
)
def test_the_active_share_is_rounded_to_at_least_one_expert(
    count: int, share: float, top_k: int
) -> None:
    params = SPACE.full_params() | {"experts_1_3": count, "active_1_3": share}
    moe = SPACE.decode(params).moe
    assert moe is not None
    assert moe.top_k == (top_k,) * 3


def test_encode_undoes_decode_and_normalise_is_canonical_on_every_setting() -> None:
    by_candidate: dict[Candidate, dict[str, Any]] = {}
    for params in all_settings(SPACE):
        normal, candidate = SPACE.normalise(params), SPACE.decode(params)
        assert SPACE.normalise(normal) == normal
        assert SPACE.decode(normal) == candidate
        assert SPACE.encode(candidate) == normal
        assert SPACE.decode(SPACE.encode(candidate)) == candidate
        # one canonical form per network
        assert by_candidate.setdefault(candidate, normal) == normal
    assert len(by_candidate) == SPACE.outer_size()


def test_many_settings_at_once_have_the_canonical_form_that_each_has_alone() -> None:
    settings = list(all_settings(SPACE))
    columns = {name: np.array([s[name] for s in settings]) for name in SPACE.outer_domains()}
    found = SPACE.canonical(columns)
    rows = zip(*(values.tolist() for values in found.values()), strict=True)
    assert [dict(zip(found, row, strict=True)) for row in rows] == [
        SPACE.normalise(s) for s in settings
    ]


def test_cutting_is_canonical_for_what_the_first_layers_do() -> None:
    for depth in range(1, 7):
        found: dict[Any, dict[str, Any]] = {}
        for params in all_settings(SPACE):
            cut = SPACE.cut(params, depth)
            assert SPACE.cut(cut, depth) == cut
            said = what_layers_do(params, depth)
            assert what_layers_do(cut, depth) == said
            assert found.setdefault(said, cut) == cut
        if depth == 6:
            assert len(found) == SPACE.outer_size()


def what_layers_do(params: dict[str, Any], depth: int) -> Any:
    candidate = SPACE.decode(params)
    batch = stack([candidate])
    routed = bool((batch.top_k[0, :depth] < batch.num_experts[0, :depth]).any())
    return (
        candidate.dtype,
        candidate.pooling,
        batch.keep_rate[0, :depth].tobytes(),
        batch.num_experts[0, :depth].tobytes(),
        batch.top_k[0, :depth].tobytes(),
        candidate.moe.granularity if candidate.moe and routed else None,
    )


def test_keep_rates_never_increase_after_decoding() -> None:
    params = SPACE.full_params() | {"keep_after_1": 0.5, "keep_after_3": 1.0}
    assert SPACE.normalise(params)["keep_after_3"] == 0.5
    assert SPACE.decode(params).skim == (Skim(layers=(1,), keep_rate=(0.5,)),)


def test_layer_nought_drops_tokens_before_the_first_layer_by_learned_scores() -> None:
    table = {"skim": {"layers": [0, 2], "keep": [1.0, 0.5, 0.25]}}
    space = SearchSpace.from_dict(table, backbone=BACKBONE)
    both = space.decode({"dtype": "fp32", "keep_after_0": 0.5, "keep_after_2": 0.25})
    assert [(s.point, s.score, s.layers, s.keep_rate) for s in both.skim] == [
        ("before_layer", "learned", (1,), (0.5,)),
        ("after_attn", "attention_received", (2,), (0.25,)),
    ]
    batch = stack([both])
    np.testing.assert_array_equal(batch.keep_before[0], [0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    np.testing.assert_array_equal(batch.keep_rate[0], [0.5, 0.25, 0.25, 0.25, 0.25, 0.25])
    assert batch.row(0) == both
    assert not check(both)
    assert not not_lowered(both)
    for params in all_settings(space):
        assert space.encode(space.decode(params)) == space.normalise(params)
    drawn = space.sample(np.random.default_rng(0), 60)
    assert same(stack([drawn.row(i) for i in range(60)]), drawn)
    early = space.decode({"dtype": "fp32", "keep_after_0": 0.25, "keep_after_2": 0.5})
    assert [s.point for s in early.skim] == ["before_layer"]


@pytest.mark.parametrize(
    ("change", "key", "way"),
    [
        ({"layers": (2,)}, "skim.layers", "(1,)"),
        ({"score": "attention_received"}, "skim.score", "learned"),
        ({"gate_width": 7}, "skim.gate_width", "32"),
    ],
)
def test_other_rankings_before_a_layer_can_be_described_and_are_not_run(
    change: dict[str, Any], key: str, way: str
) -> None:
    known = {"score": "learned", "point": "before_layer", "gate_width": 32}
    skim = Skim(layers=(1,), keep_rate=(0.5,), **known)
    (finding,) = not_lowered(
        Candidate(backbone=BACKBONE, depth=6, skim=(replace(skim, **change),))
    )
    assert (finding.key, str(finding.nearest)) == (key, way)


def test_choosing_all_experts_is_the_dense_network() -> None:
    params = SPACE.full_params() | {"experts_1_3": 8, "active_1_3": 1.0, "granularity": "token"}
    assert SPACE.decode(params) == SPACE.full()
    assert SPACE.normalise(params) == SPACE.full_params()


def test_the_full_network_has_everything_on() -> None:
    assert SPACE.full() == Candidate(backbone=BACKBONE, depth=6)
    assert SPACE.full_params()["dtype"] == "fp32"
    assert SPACE.encode(SPACE.full()) == SPACE.full_params()


def test_depth_and_exits_do_not_change_the_outer_setting() -> None:
    outer = SPACE.decode(SPACE.full_params() | {"keep_after_3": 0.5, "experts_1_3": 4})
    shallow = replace(outer, depth=4, exits=Exits(layers=(2,), thresholds=(0.9,)))
    assert SPACE.encode(shallow) == SPACE.encode(outer)


@pytest.mark.parametrize(
    "change",
    [
        {"skim": (Skim(layers=(2,), keep_rate=(0.5,)),)},
        {"skim": (Skim(layers=(1,), keep_rate=(0.6,)),)},
        {"moe": Experts(layers=(1,), num_experts=(4,), top_k=(1,))},
        {"dtype": "int8"},
        {"pooling": "cls"},
        {"backbone": load_backbone("minilm-l12"), "depth": 6},
    ],
)
def test_encode_refuses_what_the_space_does_not_hold(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        SPACE.encode(replace(SPACE.full(), **change))


def test_bad_parameters_are_listed_together_with_the_nearest() -> None:
    params = SPACE.full_params() | {"keep_after_1": 0.7, "keep_aftr_3": 1.0}
    del params["dtype"]
    with pytest.raises(InputError) as caught:
        SPACE.decode(params)
    found = {p.key: p.message for p in caught.value.problems}
    assert "nearest is 0.75" in found["keep_after_1"]
    assert "did you mean keep_after_3" in found["keep_aftr_3"]
    assert found["dtype"] == "is missing"


def test_to_dict_reads_back_to_an_equal_space() -> None:
    for family in FAMILIES:
        space = SPACE.restrict(family)
        assert SearchSpace.from_dict(space.to_dict(), backbone=BACKBONE) == space


def test_an_empty_table_holds_only_the_full_network() -> None:
    space = SearchSpace.from_dict({}, backbone=BACKBONE)
    assert space.outer_size() == 1
    assert space.inner == InnerSpace(exit_layers=(), min_depth=6, max_depth=6)
    batch = space.sample(np.random.default_rng(0), 3)
    assert [batch.row(i) for i in range(3)] == [space.full()] * 3


def test_families_switch_the_others_off() -> None:
    exits, skim, experts = (SPACE.restrict(f) for f in FAMILIES[:3])
    assert list(exits.outer_domains()) == ["dtype"]
    assert exits.inner == SPACE.inner
    assert list(skim.outer_domains()) == ["dtype", "keep_after_1", "keep_after_3"]
    assert "granularity" in experts.outer_domains()
    assert "keep_after_1" not in experts.outer_domains()
    for space in (skim, experts):
        assert (space.inner.exit_layers, space.inner.min_depth) == ((), 6)
        batch = space.sample(np.random.default_rng(0), 50)
        assert not batch.exit_on.any()
        assert (batch.depth == 6).all()
    assert SPACE.restrict("joint") == SPACE
    with pytest.raises(InputError, match="did you mean skim-only"):
        SPACE.restrict("skin-only")


@given(seed=SEED)
def test_sampling_repeats_with_the_seed(seed: int) -> None:
    first, second = (SPACE.sample(np.random.default_rng(seed), 20) for _ in range(2))
    assert same(first, second)
    outer = [SPACE.sample_outer(np.random.default_rng(seed), 5) for _ in range(2)]
    assert outer[0] == outer[1]


@given(seed=SEED)
def test_every_draw_is_valid_canonical_and_inside_the_space(seed: int) -> None:
    batch = SPACE.sample(np.random.default_rng(seed), 10, num_classes=3)
    for i in range(len(batch)):
        candidate = batch.row(i)
        assert [f for f in check(candidate, num_classes=3) if f.severity == "reject"] == []
        assert 2 <= candidate.depth <= 6
        SPACE.encode(candidate)
        if candidate.exits is not None:
            assert len(candidate.exits.layers) <= 3
            legal = exit_criterion(candidate.exits.criterion).legal_range(3)
            assert legal is None or all(
                legal[0] < t <= legal[1] for t in candidate.exits.thresholds
            )


def test_draws_cover_every_knob_evenly() -> None:
    batch = SPACE.sample(np.random.default_rng(0), 20_000)
    for depth in range(2, 7):
        assert abs((batch.depth == depth).mean() - 1 / 5) < 0.02
    for criterion in range(len(RUNNABLE_CRITERIA)):
        many = batch.exit_on.sum(axis=1) == 3  # where every criterion is possible
        assert abs((batch.criterion[many] == criterion).mean() - 1 / 5) < 0.02
    assert set(batch.patience.tolist()) == {0, 1, 2}
    assert set(batch.temperature.tolist()) == {1.0, 1.5}
    assert {EXIT_BATCHING[b] for b in batch.exit_batching} == {"serial", "compact"}
    # below depth 3 there are at most two sites, so the limit of three never binds there
    shallow = batch.exit_on[batch.depth == 3][:, :2]
    assert abs(shallow.mean() - 0.5) < 0.03
    # threshold of max_prob with two classes: uniform on (0.5, 1]
    used = batch.thresholds[(batch.criterion == 0)[:, None] & batch.exit_on]
    assert abs(used.mean() - 0.75) < 0.01


def test_a_space_of_patience_alone_has_no_policy_that_never_fires() -> None:
    table = {"exits": {"criteria": ["patience"], "patience": [2, 3]}}
    space = SearchSpace.from_dict(table, backbone=BACKBONE)
    batch = space.sample(np.random.default_rng(0), 500)
    exits = batch.exit_on.sum(axis=1)
    assert ((exits == 0) | (batch.patience < exits)).all()
    assert (exits > 0).any()
    assert np.isinf(batch.thresholds).all()


def bad(table: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        SearchSpace.from_dict(table, backbone=BACKBONE, file="job.toml")
    assert {p.file for p in caught.value.problems} == {"job.toml"}
    return {p.key: p.message for p in caught.value.problems}


def test_wrong_keys_and_types_are_listed_together() -> None:
    found = bad({"dtyp": ["fp32"], "skim": {"layer": [1]}, "exits": {"layers": ["1"]}})
    assert "did you mean dtype" in found["space.dtyp"]
    assert "did you mean layers" in found["space.skim.layer"]
    assert found["space.skim.layers"] == "is missing"
    assert found["space.exits.layers[0]"] == "must be an integer"


@pytest.mark.parametrize("name", ["fp16", "tf32", "fp8", "int4"])
def test_formats_that_are_costed_but_not_run_are_refused_by_a_space(name: str) -> None:
    found = bad({"dtype": ["fp32", name]})
    assert list(found) == ["space.dtype"]
    assert "a search takes fp32, bf16, int8" in found["space.dtype"]


def test_wrong_values_are_listed_together() -> None:
    found = bad(
        {
            "dtype": ["fp31"],
            "pooling": [],
            "skim": {"layers": [3, 7], "keep": [0.5, 1.5]},
            "experts": {
                "groups": [[1, 3], [3, 4], [5]],
                "counts": [4, 7],
                "active": [0.0],
                "granularity": ["tokens"],
            },
            "exits": {
                "layers": [6],
                "min_depth": 0,
                "criteria": ["max_probability"],
                "batching": ["serial", "serial"],
                "temperatures": [0.0],
                "patience": [0],
                "max_exits": -1,
            },
        }
    )
    assert "did you mean fp32" in found["space.dtype"]
    assert "empty" in found["space.pooling"]
    assert "1..6" in found["space.skim.layers"]
    assert "add 1.0" in found["space.skim.keep"]
    assert "overlaps" in found["space.experts.groups[1]"]
    assert "[first, last]" in found["space.experts.groups[2]"]
    assert "add 1" in found["space.experts.counts"]
    assert "(0, 1]" in found["space.experts.active"]
    assert "did you mean token" in found["space.experts.granularity"]
    assert "always there" in found["space.exits.layers"]
    assert "1..6" in found["space.exits.min_depth"]
    assert "did you mean max_prob" in found["space.exits.criteria"]
    assert "twice" in found["space.exits.batching"]
    assert "above 0" in found["space.exits.temperatures"]
    assert "at least 1" in found["space.exits.patience"]
    assert "at least 0" in found["space.exits.max_exits"]


def test_patience_that_can_never_fire_and_depths_that_do_not_exist_are_refused() -> None:
    exits = {"criteria": ["patience"], "patience": [2], "max_exits": 2}
    assert "never fires" in bad({"exits": exits})["space.exits.patience"]
    assert "1..6" in bad({"exits": {"max_depth": 7}})["space.exits.max_depth"]
    found = bad({"skim": {"layers": [3, 1]}, "experts": {"groups": [], "counts": [1, 7]}})
    assert "ascend" in found["space.skim.layers"]
    assert "at least one group" in found["space.experts.groups"]
    assert "does not divide" in found["space.experts.counts"]
