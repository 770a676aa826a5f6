from __future__ import annotations

import functools
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from cost_models.device import load_device
from cost_models.price import price_ops
from search_spaces import Candidate, Exits, Experts, InputError, Skim, Workload
from search_spaces.candidate import Cascade
from search_spaces.codec import candidate_from_dict, candidate_to_dict
from search_spaces.methods import (
    Method,
    found,
    holds,
    list_methods,
    load_method,
    method_ops,
    papers_without_policy,
    total_flops,
)
from search_spaces.methods.files import read_method_file
from search_spaces.validity import check

from .formulas import expected

PHONE, SERVER = "qualcomm-snapdragon-8-elite", "nvidia-h100-80g-sxm"
CPU = "intel-xeon-8488c"
NAMES = list_methods()
PARTS: dict[str, type[Any]] = {"exits": Exits, "moe": Experts, "skim": Skim, "cascade": Cascade}

method = functools.cache(load_method)
device = functools.cache(load_device)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_read_legal_lowered_priced_and_meets_its_check(name: str) -> None:
    preset = method(name)
    assert preset.name == name
    for candidate in (preset.candidate, *preset.stages.values()):
        workload = Workload(batch=preset.check.batch, max_len=min(preset.check.tokens, 512))
        rejected = [f for f in check(candidate, workload=workload, num_classes=2) if _bad(f)]
        assert not rejected
        assert candidate_from_dict(candidate_to_dict(candidate)) == candidate
    ops = method_ops(preset)
    phone, server = (float(price_ops(ops, device(d)).time_s.sum()) for d in (PHONE, SERVER))
    assert np.isfinite([phone, server]).all()
    assert min(phone, server) > 0
    if preset.batch_class != "sequential":
        assert server < phone
    assert found(preset) == pytest.approx(preset.check.expected, rel=preset.check.tolerance)
    assert holds(preset)


def test_a_reader_of_one_text_is_quicker_on_a_processor_than_on_a_server_s_gpu() -> None:
    """As the authors of Skim-RNN report: each step waits for the one before."""
    ops = method_ops(method("skim-rnn"))
    cpu, gpu = (float(price_ops(ops, device(d)).time_s.sum()) for d in (CPU, SERVER))
    assert cpu < gpu


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_a_check_is_what_the_literature_s_formula_gives(name: str) -> None:
    preset = method(name)
    near = 0.03 if preset.check.quantity == "flops_share" and preset.check.source else 2e-5
    assert expected(preset) == pytest.approx(preset.check.expected, rel=near)


def test_rows_that_differ_in_training_alone_cost_the_same() -> None:
    for preset in map(method, NAMES):
        if preset.same_as is None:
            continue
        other = method(preset.same_as)
        assert other.same_as is None, "a preset stands for itself, or names one that does"
        assert preset.candidate == other.candidate
        assert total_flops(method_ops(preset)) == total_flops(method_ops(other))


@pytest.mark.parametrize("name", NAMES)
def test_knobs_name_fields_that_the_candidate_has(name: str) -> None:
    for knob in method(name).knobs:
        part, _, key = knob.key.partition(".")
        if part in ("training", "workload"):
            continue
        record: Any = PARTS[part] if key else Candidate
        assert (key or part) in {f.name for f in fields(record)}
        assert (knob.low is None) == (knob.high is None)
        assert knob.low is None or knob.high is None or knob.low <= knob.high


def test_every_family_and_every_decision_of_the_vocabulary_is_shown_by_some_preset() -> None:
    candidates = [method(name).candidate for name in NAMES]
    criteria = {c.exits.criterion for c in candidates if c.exits}
    routers = {c.moe.router for c in candidates if c.moe}
    mechanisms = {skim.mechanism for c in candidates for skim in c.skim}
    caches = {c.exits.kv_policy for c in candidates if c.exits}
    assert {method(name).family for name in NAMES} == {"skim", "moe", "early_exit", "cascade"}
    assert len(routers) == 6
    assert len(mechanisms) == 6
    assert {"copy_state", "recompute", "sync_parallel", "monotone", "self_speculative"} <= caches
    assert criteria >= {
        *("max_prob", "margin", "entropy", "entropy_normalized", "state_similarity", "learned"),
        *("learned_upfront", "halting_sum", "halting_cdf", "patience", "flexible_patience"),
        *("patience_confidence", "vote", "hash", "prediction_set", "position_schedule"),
        *("window", "static"),
    }


def test_papers_that_are_no_method_say_why() -> None:
    papers = papers_without_policy()
    assert len(papers) == 6
    assert all(paper.title and paper.reason for paper in papers)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match="did you mean mixtral"):
        load_method("mixtrall")


def test_all_problems_of_a_preset_are_told_at_once() -> None:
    data = _table(method("deebert"))
    data |= {"family": "exits", "kv_class": "all", "yaer": 2020}
    data["check"] = {**data["check"], "quantity": "flop"}
    data["candidate"] = {"backbone": "bert", "depth": 12}
    del data["title"]
    with pytest.raises(InputError) as caught:
        read_method_file(data, "mine.toml")
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {
        *("family", "kv_class", "yaer", "check.quantity", "candidate.backbone", "title")
    }


def test_a_stage_that_is_nowhere_is_refused() -> None:
    data = _table(method("deebert"))
    stages = {"stages": ["tiny", "bert-base"], "thresholds": [0.9]}
    data["candidate"] = {"backbone": "bert-base", "depth": 12, "cascade": stages}
    with pytest.raises(InputError, match=r"cascade\.stages = 'tiny'"):
        read_method_file(data, "mine.toml")


def test_a_candidate_that_means_nothing_is_no_preset() -> None:
    data = _table(method("deebert"))
    data["candidate"] = {**data["candidate"], "depth": 13}
    with pytest.raises(InputError, match=r"candidate\.depth = 13"):
        read_method_file(data, "mine.toml")


@pytest.mark.parametrize("shares", [[0.5], [0.2] * 11])
def test_shares_that_do_not_fit_the_exits_are_refused(shares: list[float]) -> None:
    data = _table(method("deebert")) | {"assumed": {"exit_share": shares}}
    with pytest.raises(InputError, match=r"assumed\.exit_share"):
        read_method_file(data, "mine.toml")


def test_a_check_that_is_missed_does_not_hold() -> None:
    preset = method("deebert")
    wrong = replace(preset.check, expected=preset.check.expected * 1.05)
    assert holds(preset)
    assert not holds(replace(preset, check=wrong))


def _bad(finding: Any) -> bool:
    return bool(finding.severity == "reject")


def _table(preset: Method) -> dict[str, Any]:
    """A preset without optional keys, as a file has it."""
    plain = ("name", "title", "family", "paper", "evidence", "decision", "training", "extra_cost")
    check = preset.check
    return {
        "schema_version": 1,
        **{key: getattr(preset, key) for key in (*plain, "batch_class", "kv_class")},
        "candidate": candidate_to_dict(preset.candidate),
        "check": {
            "quantity": check.quantity,
            "expected": check.expected,
            "formula": check.formula,
        },
    }
