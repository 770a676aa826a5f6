from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import pytest

from search_spaces import (
    Candidate,
    Cascade,
    Exits,
    Experts,
    Finding,
    InputError,
    Skim,
    Workload,
    check,
    load_backbone,
    require_valid,
)
from search_spaces.validity import input_independent, not_lowered

BACKBONE = load_backbone("minilm-l6")
FULL = Candidate(backbone=BACKBONE, depth=6)
EXITS = Exits(layers=(2, 4), thresholds=(0.9, 0.8))
MOE = Experts(layers=(4, 5), num_experts=(4, 8), top_k=(1, 2))
SKIM = Skim(layers=(1, 3), keep_rate=(0.75, 0.5))
DEPTHS = Skim(  # mixture-of-depths
    layers=(2, 4),
    keep_rate=(0.125, 0.125),
    mechanism="topk_router",
    score="router",
    point="before_layer",
    skipped="pass_through",
)
PATIENT = Exits(layers=(2, 4), criterion="patience", patience=1)


def with_exits(**changes: Any) -> Candidate:
    return replace(FULL, exits=replace(EXITS, **changes))


def with_moe(**changes: Any) -> Candidate:
    return replace(FULL, moe=replace(MOE, **changes))


def with_skim(**changes: Any) -> Candidate:
    return replace(FULL, skim=(replace(SKIM, **changes),))


def only(candidate: Candidate, **context: Any) -> Finding:
    findings = check(candidate, **context)
    assert len(findings) == 1, findings
    return findings[0]


@pytest.mark.parametrize(
    "candidate",
    [
        FULL,
        with_exits(),
        with_moe(),
        with_skim(),
        replace(FULL, exits=PATIENT),
        with_exits(criterion="entropy", thresholds=(-0.2, -0.3)),
    ],
)
def test_sensible_candidates_have_no_findings(candidate: Candidate) -> None:
    assert check(candidate, num_classes=2, workload=Workload()) == []
    assert not_lowered(candidate) == []
    require_valid(candidate, num_classes=2, run=True)


REJECTED = [
    # candidate, rule, key, nearest legal value
    (with_exits(layers=(2, 6)), 1, "exits.layers", (2,)),
    (replace(with_exits(), depth=4), 1, "exits.layers", (2,)),
    (with_exits(layers=(2, 7)), 1, "exits.layers", (2,)),
    (with_exits(layers=(4, 2)), 1, "exits.layers", (2, 4)),
    (with_exits(thresholds=(0.9,)), 1, "exits.thresholds", (0.9, 0.9)),
    (with_exits(thresholds=(0.5, 0.9)), 1, "exits.thresholds[0]", math.nextafter(0.5, 1)),
    (with_exits(thresholds=(math.inf, 0.9)), 1, "exits.thresholds[0]", 1.0),
    (
        with_exits(criterion="entropy", thresholds=(-math.log(2), -0.1)),
        1,
        "exits.thresholds[0]",
        math.nextafter(-math.log(2), 0),
    ),
    (
        with_exits(criterion="entropy_normalized", thresholds=(0.3, -0.1)),
        1,
        "exits.thresholds[1]",
        math.nextafter(0, 1),
    ),
    (
        with_exits(criterion="margin", thresholds=(0.0, 0.1)),
        1,
        "exits.thresholds[0]",
        math.nextafter(0, 1),
    ),
    (with_exits(temperature=0.0), 1, "exits.temperature", 1.0),
    (with_exits(patience=2), 1, "exits.patience", None),
    (replace(FULL, exits=replace(PATIENT, patience=2)), 1, "exits.patience", 1),
    (replace(FULL, exits=replace(PATIENT, layers=(2,))), 1, "exits", None),
    (replace(FULL, exits=replace(PATIENT, patience=None)), 1, "exits.patience", 1),
    (replace(FULL, exits=replace(PATIENT, thresholds=(0.1, 0.1))), 1, "exits.thresholds", ()),
    (with_exits(layers=(), thresholds=()), 1, "exits", None),
    (with_exits(criterion="max_porb"), 0, "exits.criterion", "max_prob"),
    (with_exits(head="linaer"), 0, "exits.head", "linear"),
    (
        replace(with_exits(kv_policy="copy"), backbone=replace(BACKBONE, type="decoder")),
        0,
        "exits.kv_policy",
        "copy_state",
    ),
    (with_moe(top_k=(5, 2)), 1, "moe.top_k[0]", 4),
    (with_moe(top_k=(0, 2)), 1, "moe.top_k[0]", 1),
    (with_moe(num_experts=(4, 7)), 1, "moe.num_experts[1]", 6),
    (with_moe(num_experts=(4, 0), top_k=(1, 1)), 1, "moe.num_experts[1]", 1),
    (with_moe(top_k=(1,)), 1, "moe.top_k", (1, 1)),
    (with_moe(layers=(0, 5)), 1, "moe.layers", (5,)),
    (with_moe(router="expert_choice", capacity_factor=5.0), 1, "moe.capacity_factor", 4.0),
    (with_moe(capacity_factor=0.0), 1, "moe.capacity_factor", 1.0),
    (with_moe(num_shared_experts=-1), 1, "moe.num_shared_experts", 0),
    (with_moe(expert_ffn_size=0), 1, "moe.expert_ffn_size", 1),
    (with_moe(granularity="tokens"), 0, "moe.granularity", "token"),
    (with_skim(keep_rate=(1.2, 0.5)), 1, "skim[0].keep_rate[0]", 1.0),
    (with_skim(keep_rate=(0.5, 0.0)), 1, "skim[0].keep_rate[1]", 1 / 512),
    (with_skim(keep_rate=(0.5, 0.6)), 1, "skim[0].keep_rate[1]", 0.5),
    (with_skim(keep_rate=(0.5,)), 1, "skim[0].keep_rate", (0.5, 0.5)),
    (with_skim(layers=(1, 9)), 1, "skim[0].layers", (1,)),
    (with_skim(skipped="dorp"), 0, "skim[0].skipped", "drop"),
    (with_exits(stack="decoder"), 0, "exits.stack", None),
    (with_exits(temperatures=(1.0,)), 1, "exits.temperatures", (1.0, 1.0)),
    (with_exits(temperatures=(1.0, 0.0)), 1, "exits.temperatures[1]", 1.0),
    (with_exits(temperatures=(1.0, 2.0), temperature=2.0), 1, "exits.temperature", 1.0),
    (with_exits(token_window=1), 1, "exits.token_window", 0),
    (with_exits(poe_floor=0.1), 1, "exits.poe_floor", None),
    (with_exits(kv_cap=4), 1, "exits.kv_cap", None),
    (with_exits(decay_rate=4.0), 1, "exits.decay_length", 512),
    (with_exits(decay_rate=4.0, decay_length=0), 1, "exits.decay_length", 1),
    (with_exits(decay_share=0.2), 1, "exits.decay_share", 0.1),
    (with_moe(kernel="padded"), 1, "moe.capacity_factor", 1.0),
    (with_moe(expert_parallel=3), 1, "moe.expert_parallel", 2),
    (with_moe(placement=(0, 0, 0, 0)), 1, "moe.placement", None),
    (
        with_moe(num_experts=(4, 4), expert_parallel=2, placement=(0, 1)),
        1,
        "moe.placement",
        (0, 1, 1, 1),
    ),
    (
        with_moe(num_experts=(2, 2), expert_parallel=2, placement=(0, 2)),
        1,
        "moe.placement",
        (0, 1),
    ),
    (with_moe(expert_groups=2), 1, "moe.expert_groups", 1),
    (with_moe(second_expert="random"), 1, "moe.second_expert", "top"),
    (with_moe(router="balanced_assignment"), 1, "moe.top_k[1]", 1),
    (with_moe(router="task"), 1, "moe.num_tasks", 1),
    (with_moe(num_tasks=2), 1, "moe.num_tasks", None),
    (with_moe(shared_expert_ffn_size=8), 1, "moe.shared_expert_ffn_size", None),
    (with_skim(keep_count=(9, 5)), 1, "skim[0].keep_count", ()),
    (with_skim(keep_rate=(), keep_count=(5, 9)), 1, "skim[0].keep_count[1]", 5),
    (with_skim(keep_rate=()), 1, "skim[0].keep_rate", (1.0, 1.0)),
    (with_skim(mechanism="threshold"), 1, "skim[0].thresholds", (0.0, 0.0)),
    (with_skim(thresholds=(0.1, 0.2)), 1, "skim[0].thresholds", ()),
    (with_skim(mechanism="jump", jump_max=5), 1, "skim[0].mechanism", "gate"),
    (with_skim(branch_widths=(10,), mechanism="gate"), 1, "skim[0].branch_widths", ()),
    (with_skim(module="ffn"), 1, "skim[0].module", "block"),
    (with_skim(skipped="pass_through", restore="last_layer"), 1, "skim[0].restore", "none"),
    (with_skim(block=0), 1, "skim[0].block", 1),
    (replace(FULL, skim=(replace(DEPTHS, score="learned"),)), 1, "skim[0].score", "router"),
    (replace(FULL, skim=(replace(DEPTHS, skipped="drop"),)), 1, "skim[0].skipped", "pass_through"),
    (
        replace(FULL, skim=(replace(DEPTHS, point="after_attn"),)),
        1,
        "skim[0].point",
        "before_layer",
    ),
    (replace(with_skim(), output="span"), 2, "skim[0].restore", "last_layer"),
    (replace(FULL, output="text"), 0, "output", "class"),
    (replace(FULL, compact_every=2), 1, "compact_every", 1),
    (replace(FULL, compact_every=0, exit_batching="compact"), 1, "compact_every", 1),
    (replace(FULL, decoder_depth=2), 1, "decoder_depth", None),
    (replace(FULL, depth=0), 1, "depth", 1),
    (replace(FULL, depth=7), 1, "depth", 6),
    (replace(FULL, dtype="fp64"), 0, "dtype", "fp16"),
    (replace(FULL, pooling="max"), 0, "pooling", "mean"),
    (replace(FULL, exit_batching="batch"), 0, "exit_batching", "wait_all"),
    (replace(FULL, backbone=replace(BACKBONE, num_heads=10)), 0, "backbone.num_heads", 8),
    (replace(FULL, backbone=replace(BACKBONE, num_kv_heads=5)), 0, "backbone.num_kv_heads", 4),
    (replace(FULL, backbone=replace(BACKBONE, vocab_size=0)), 0, "backbone.vocab_size", 1),
    (replace(FULL, backbone=replace(BACKBONE, type="coder")), 0, "backbone.type", "encoder"),
]


@pytest.mark.parametrize(("candidate", "rule", "key", "near"), REJECTED)
def test_meaningless_candidates_are_rejected_with_rule_and_nearest_value(
    candidate: Candidate, rule: int, key: str, near: Any
) -> None:
    findings = check(candidate, num_classes=2)
    rejected = [f for f in findings if f.severity == "reject" and f.key == key]
    assert [f.rule for f in rejected] == [rule], findings
    assert rejected[0].nearest == near
    assert len([f for f in findings if f.severity == "reject"]) <= 2
    with pytest.raises(InputError) as caught:
        require_valid(candidate, num_classes=2, file="c.toml")
    assert key in {p.key for p in caught.value.problems}
    if near is not None:
        assert f"nearest legal value: {near}" in str(caught.value)


def test_thresholds_that_depend_on_the_classes_wait_for_their_number() -> None:
    candidate = with_exits(thresholds=(0.3, 0.9))
    assert check(candidate) == []
    assert check(candidate, num_classes=4) == []
    assert only(candidate, num_classes=3).key == "exits.thresholds[0]"


def test_a_threshold_above_every_score_is_a_warning() -> None:
    finding = only(with_exits(thresholds=(1.5, 0.9)), num_classes=2)
    assert (finding.severity, finding.rule) == ("warn", 1)


def test_a_regression_head_has_no_exit_score() -> None:
    assert only(with_exits(), num_classes=1).key == "exits.criterion"
    assert only(replace(FULL, exits=PATIENT), num_classes=1).key == "exits.criterion"


def test_dropped_tokens_that_the_head_needs_are_rejected_unless_restored() -> None:
    both = replace(with_skim(), exits=replace(EXITS, head="norm_lm"))
    assert [f.rule for f in check(both)] == [2, 4]
    assert check(both)[0].nearest == "last_layer"
    restored = replace(both, skim=(replace(SKIM, restore="last_layer"),))
    assert [f.rule for f in check(restored)] == [4]


def test_choices_that_look_ahead_are_rejected_in_a_decoder() -> None:
    decoder = replace(BACKBONE, type="decoder")
    routed = replace(with_moe(router="expert_choice"), backbone=decoder)
    assert [(f.rule, f.nearest) for f in check(routed)] == [(3, "token_choice")]
    ranked = replace(FULL, skim=(DEPTHS,), backbone=decoder)
    assert [(f.rule, f.nearest) for f in check(ranked)] == [(3, "gate")]
    predicted = replace(ranked, skim=(replace(DEPTHS, causal_predictor=True),))
    assert check(predicted) == []


@pytest.mark.parametrize(
    ("candidate", "rule"),
    [
        (replace(with_skim(), exits=EXITS), 4),
        (replace(with_moe(), exits=EXITS), 5),
        (replace(with_moe(capacity_factor=1.0), skim=(SKIM,)), 6),
        (
            replace(
                with_exits(kv_policy="copy_state"), backbone=replace(BACKBONE, type="decoder")
            ),
            7,
        ),
        (
            replace(
                with_exits(layers=(1, 2, 3, 4, 5), thresholds=(0.9,) * 5),
                backbone=replace(BACKBONE, type="decoder"),
            ),
            8,
        ),
        (
            replace(
                with_exits(kv_policy="self_speculative", layers=(2,), thresholds=(0.9,)),
                backbone=replace(BACKBONE, type="decoder"),
            ),
            9,
        ),
        (replace(with_exits(), cascade=Cascade(stages=("a", "b"), thresholds=(0.5,))), 10),
        (replace(with_exits(), backbone=replace(BACKBONE, tied_layers=True)), 11),
    ],
)
def test_legal_pairs_that_need_care_are_warned_about_and_accepted(
    candidate: Candidate, rule: int, caplog: pytest.LogCaptureFixture
) -> None:
    finding = only(candidate)
    assert (finding.severity, finding.rule) == ("warn", rule)
    with caplog.at_level(logging.WARNING):
        require_valid(candidate)
    assert finding.reason in caplog.text


def criterion(kind: str, **fields: Any) -> Candidate:
    return replace(FULL, exits=Exits(layers=(1, 2, 4), criterion=kind, **fields))


THREE = (0.9, 0.8, 0.7)
SENSIBLE = {
    "energy": {"thresholds": (3.0, -2.0, 9.0)},
    "state_similarity": {"thresholds": THREE},
    "learned": {"thresholds": THREE},
    "learned_upfront": {"thresholds": (0.0, 0.0, -1.0)},
    "halting_sum": {"thresholds": (0.99,) * 3},
    "halting_cdf": {"thresholds": THREE},
    "flexible_patience": {"thresholds": (-0.1,) * 3, "patience": 2, "similarity": "sym_kl"},
    "patience_confidence": {"thresholds": THREE, "patience": 3},
    "vote": {"thresholds": (1.5, 1.2, 1.2), "vote_power": 0.5},
    "hash": {"hash_salt": 3},
    "prediction_set": {"thresholds": (-1.0,) * 3, "set_level": 0.1, "set_floors": (0.0,) * 3},
    "position_schedule": {"schedule": (6, 4, 1), "schedule_length": 30},
    "window": {"thresholds": THREE, "window": 3, "window_floor": 0.6},
    "oracle": {},
}


@pytest.mark.parametrize("kind", SENSIBLE)
def test_every_criterion_has_sensible_exits_that_wait_for_being_lowered(kind: str) -> None:
    candidate = criterion(kind, **SENSIBLE[kind])
    assert check(candidate, num_classes=3) == []
    assert "exits.criterion" in {f.key for f in not_lowered(candidate)}
    assert input_independent(candidate) == (kind in ("hash", "position_schedule"))


REJECTED_CRITERIA = [
    # criterion, changed fields, key, nearest legal value
    (
        "state_similarity",
        {"thresholds": (-1.0, 0.5, 0.5)},
        "exits.thresholds[0]",
        math.nextafter(-1, 0),
    ),
    ("learned", {"patience": 2}, "exits.patience", None),
    ("halting_sum", {"thresholds": (0.9,)}, "exits.thresholds", (0.9,) * 3),
    ("flexible_patience", {"similarity": None}, "exits.similarity", "js"),
    ("flexible_patience", {"similarity": "l2"}, "exits.similarity", "kl"),
    ("flexible_patience", {"patience": 3}, "exits.patience", 2),
    ("patience_confidence", {"patience": 4}, "exits.patience", 3),
    ("patience_confidence", {"patience": None}, "exits.patience", 1),
    ("vote", {"vote_power": None}, "exits.vote_power", 0.5),
    ("vote", {"vote_power": -1.0}, "exits.vote_power", 0),
    ("vote", {"thresholds": (1.0, 1.2, 1.2)}, "exits.thresholds[0]", math.nextafter(1, 2)),
    ("hash", {"thresholds": THREE}, "exits.thresholds", ()),
    ("hash", {"hash_kind": "md5"}, "exits.hash_kind", "random"),
    ("prediction_set", {"set_level": 1.0}, "exits.set_level", 0.05),
    ("prediction_set", {"set_floors": (0.0,)}, "exits.set_floors", (0.0,) * 3),
    (
        "prediction_set",
        {"thresholds": (-3.0, -1.0, -1.0)},
        "exits.thresholds[0]",
        math.nextafter(-3, 0),
    ),
    ("position_schedule", {"schedule": ()}, "exits.schedule", (1,)),
    ("position_schedule", {"schedule": (6, 3, 1)}, "exits.schedule[1]", 2),
    ("position_schedule", {"thresholds": THREE}, "exits.thresholds", ()),
    ("window", {"window_floor": 1.0}, "exits.window_floor", 0.5),
    ("window", {"window": 0}, "exits.window", 1),
    ("oracle", {"window": 2}, "exits.window", None),
    ("energy", {"aggregator": "cache"}, "exits.aggregator", "none"),
    ("hash", {"decay_share": 0.5, "decay_length": 9}, "exits.decay_length", None),
]


@pytest.mark.parametrize(("kind", "changes", "key", "near"), REJECTED_CRITERIA)
def test_senseless_criteria_are_rejected_with_the_nearest_value(
    kind: str, changes: dict[str, Any], key: str, near: Any
) -> None:
    candidate = criterion(kind, **(SENSIBLE[kind] | changes))
    rejected = [f for f in check(candidate, num_classes=3) if f.severity == "reject"]
    assert [f.key for f in rejected] == [key]
    assert rejected[0].nearest == near


def test_everyone_leaves_at_the_one_static_exit() -> None:
    exits = Exits(layers=(2, 4), criterion="static")
    assert only(replace(FULL, exits=exits)).nearest == (2,)
    one = replace(FULL, exits=replace(exits, layers=(2,)))
    assert check(one) == []
    assert input_independent(one)


@pytest.mark.parametrize("kind", ["learned", "halting_cdf", "hash", "position_schedule"])
def test_criteria_that_need_no_classes_suit_a_regression_head(kind: str) -> None:
    assert check(criterion(kind, **SENSIBLE[kind]), num_classes=1) == []


def test_an_oracle_is_simulated_and_never_run() -> None:
    with pytest.raises(InputError, match="simulated, not run or exported"):
        require_valid(criterion("oracle"), run=True)


def test_a_budget_that_grows_with_the_position_breaks_a_monotone_cache() -> None:
    decoder = replace(BACKBONE, type="decoder")
    exits = Exits(
        layers=(1, 2),
        criterion="position_schedule",
        schedule=(1, 2),
        schedule_length=9,
        granularity="token",
        kv_policy="monotone",
    )
    assert only(replace(FULL, backbone=decoder, exits=exits)).rule == 7
    falling = replace(exits, schedule=(2, 1))
    assert check(replace(FULL, backbone=decoder, exits=falling)) == []


T5 = load_backbone("t5-small")
BOTH = Candidate(backbone=T5, depth=6)
LSTM = Candidate(backbone=replace(BACKBONE, type="recurrent", num_layers=1, num_heads=1), depth=1)
JUMP = Skim(layers=(1,), mechanism="jump", score="learned", jump_max=5, read_tokens=2, max_jumps=4)


def test_exits_of_an_encoder_decoder_stand_in_its_decoder_unless_told() -> None:
    tokens = replace(EXITS, granularity="token", kv_policy="copy_state")
    assert [f.rule for f in check(replace(BOTH, exits=tokens))] == [7]
    cut = check(replace(BOTH, exits=tokens, decoder_depth=3))
    assert [(f.rule, f.nearest) for f in cut if f.severity == "reject"] == [(1, (2,))]
    here = replace(EXITS, stack="encoder")
    assert check(replace(BOTH, exits=here, decoder_depth=3)) == []
    held = check(replace(BOTH, exits=replace(here, kv_policy="copy_state")))
    assert [f.rule for f in held if f.severity == "reject"] == [7]


def test_choices_that_look_ahead_are_legal_in_the_encoder_of_an_encoder_decoder() -> None:
    routed = replace(MOE, router="expert_choice", capacity_factor=1.0)
    assert [f.rule for f in check(replace(BOTH, moe=routed))] == [3]
    assert check(replace(BOTH, moe=replace(routed, stack="encoder"))) == []
    assert check(replace(BOTH, skim=(DEPTHS,))) == []
    assert [f.rule for f in check(replace(BOTH, skim=(replace(DEPTHS, stack="decoder"),)))] == [3]


@pytest.mark.parametrize(
    ("skim", "key", "near"),
    [
        (JUMP, None, None),
        (replace(JUMP, jump_max=None, structural=True), None, None),
        (replace(JUMP, jump_min=-3), None, None),
        (replace(JUMP, mechanism="gate", jump_max=None, read_tokens=None, max_jumps=None), "", 0),
        (replace(JUMP, jump_max=None), "jump_max", 1),
        (replace(JUMP, jump_max=1, jump_min=3), "jump_max", 3),
        (replace(JUMP, read_tokens=0), "read_tokens", 1),
        (replace(JUMP, score="attention_received"), "score", "learned"),
        (Skim(layers=(1,), keep_rate=(0.5,), score="learned"), "mechanism", "gate"),
        (
            Skim(layers=(1,), mechanism="gate", score="learned", branch_widths=(20, 9999)),
            "branch_widths[1]",
            384,
        ),
    ],
)
def test_recurrent_readers_jump_and_skip_but_do_not_rank(
    skim: Skim, key: str | None, near: Any
) -> None:
    findings = check(replace(LSTM, skim=(skim,)))
    if not key:
        assert findings == []
    else:
        assert [(f.key, f.nearest) for f in findings] == [(f"skim[0].{key}", near)]


def test_stored_states_replace_the_first_layers() -> None:
    stored = Skim(layers=(1, 2, 3), mechanism="lookup", skipped="alt_path", lookup_order=3)
    assert check(replace(FULL, skim=(stored,))) == []
    gap = check(replace(FULL, skim=(replace(stored, layers=(2, 3)),)))
    assert [(f.key, f.nearest) for f in gap] == [("skim[0].layers", (1, 2))]
    lost = check(replace(FULL, skim=(replace(stored, skipped="drop", lookup_order=None),)))
    assert [(f.key, f.nearest) for f in lost] == [
        ("skim[0].skipped", "alt_path"),
        ("skim[0].lookup_order", 3),
    ]


def test_other_routing_than_in_training_and_uneven_hashes_are_warned_about() -> None:
    differs = only(with_moe(capacity_factor=2.0, capacity_factor_train=1.25))
    assert (differs.severity, differs.rule) == ("warn", 11)
    assert only(with_moe(router="hash")).rule == 11
    assert check(with_moe(router="hash", hash_kind="balanced")) == []


@pytest.mark.parametrize(
    ("candidate", "known"),
    [
        (FULL, True),
        (with_exits(), False),
        (with_skim(), True),
        (replace(FULL, skim=(DEPTHS,)), True),
        (with_skim(mechanism="threshold", thresholds=(0.1, 0.1)), False),
        (with_moe(), False),
        (with_moe(router="expert_choice"), True),
        (replace(FULL, cascade=Cascade(stages=("a", "b"), thresholds=(0.5,))), False),
        (replace(FULL, cascade=Cascade(stages=("a", "b"), thresholds=(math.inf,))), True),
    ],
)
def test_fixed_schedules_cost_the_same_for_every_input(candidate: Candidate, known: bool) -> None:
    assert input_independent(candidate) == known


def test_an_encoder_has_no_cache_policy() -> None:
    rejected = [f for f in check(with_exits(kv_policy="copy_state")) if f.severity == "reject"]
    assert [(f.rule, f.key) for f in rejected] == [(7, "exits.kv_policy")]


def test_a_cascade_needs_stages_and_thresholds_between_them() -> None:
    candidate = replace(FULL, cascade=Cascade(stages=("a",), thresholds=(0.5,), reuse="all"))
    keys = [f.key for f in check(candidate)]
    assert keys == ["cascade.reuse", "cascade"]
    two = replace(FULL, cascade=Cascade(stages=("a", "b"), thresholds=()))
    assert only(two).nearest == (math.inf,)


def test_serial_exits_contradict_a_batch() -> None:
    finding = only(with_exits(), workload=Workload(batch=8))
    assert (finding.severity, finding.key, finding.nearest) == (
        "reject",
        "exit_batching",
        "compact",
    )
    assert check(replace(with_exits(), exit_batching="compact"), workload=Workload(batch=8)) == []
    assert check(FULL, workload=Workload(batch=8)) == []


def test_inputs_longer_than_the_backbone_takes_are_rejected() -> None:
    finding = only(FULL, workload=Workload(max_len=513))
    assert (finding.key, finding.nearest) == ("workload.max_len", 512)


@pytest.mark.parametrize(
    ("candidate", "key"),
    [
        (replace(FULL, backbone=replace(BACKBONE, type="decoder")), "backbone.type"),
        (replace(FULL, backbone=replace(BACKBONE, ffn_kind="gated")), "backbone.ffn_kind"),
        (replace(FULL, dtype="fp16"), "dtype"),
        (replace(FULL, dtype="tf32"), "dtype"),
        (replace(FULL, dtype="int4"), "dtype"),
        (with_exits(granularity="token"), "exits.granularity"),
        (with_moe(origin="upcycled"), "moe.origin"),
        (with_moe(router="random"), "moe.router"),
        (with_moe(kernel="block_sparse"), "moe.kernel"),
        (with_skim(layout="packed"), "skim.layout"),
        (with_exits(temperatures=(1.0, 2.0)), "exits.temperatures"),
        (replace(FULL, output="tokens"), "output"),
        (with_skim(restore="last_layer"), "skim.restore"),
        (replace(FULL, cascade=Cascade(stages=("a", "b"), thresholds=(0.5,))), "cascade"),
    ],
)
def test_what_is_not_lowered_yet_is_legal_but_refused_where_it_would_run(
    candidate: Candidate, key: str
) -> None:
    assert check(candidate) == []
    require_valid(candidate)
    assert [f.key for f in not_lowered(candidate)] == [key]
    with pytest.raises(InputError, match="not lowered yet"):
        require_valid(candidate, run=True)


def test_rejects_come_before_warnings() -> None:
    both = replace(with_exits(temperature=-1.0), skim=(SKIM,))
    assert [f.severity for f in check(both)] == ["reject", "warn"]
