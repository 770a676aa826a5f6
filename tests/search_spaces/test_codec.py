from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    RUNNABLE_CRITERIA,
    Candidate,
    Cascade,
    Exits,
    Experts,
    InputError,
    SearchSpace,
    Skim,
    candidate_from_dict,
    candidate_hash,
    candidate_to_dict,
    load_backbone,
    load_candidate,
    to_toml,
)

BACKBONE = load_backbone("minilm-l6")
SPACE = SearchSpace.from_dict(
    {
        "dtype": ["fp32", "bf16"],
        "skim": {"layers": [1, 3]},
        "experts": {"groups": [[1, 3], [4, 6]]},
        "exits": {"criteria": list(RUNNABLE_CRITERIA)},
    },
    backbone=BACKBONE,
)
EVERYTHING = Candidate(
    backbone=replace(BACKBONE, name='odd "name"\t\\ \x7f é', num_kv_heads=4),
    depth=5,
    exits=Exits(
        layers=(1, 3),
        thresholds=(0.1 + 0.2, float(np.nextafter(1.0, 0.0))),
        kv_policy="copy_state",
        paper_threshold=1e-17,
    ),
    moe=Experts(
        layers=(2,), num_experts=(4,), top_k=(2,), capacity_factor=1.25, expert_ffn_size=96
    ),
    skim=(Skim(layers=(1,), keep_rate=(0.5,)), Skim(layers=(2,), keep_rate=(0.3,), protected=())),
    cascade=Cascade(stages=("a", "b"), thresholds=(0.5,)),
    exit_batching="compact",
    dtype="bf16",
    pooling="cls",
)


@given(seed=st.integers(0, 10_000))
def test_a_candidate_survives_toml_and_json_exactly(seed: int) -> None:
    batch = SPACE.sample(np.random.default_rng(seed), 3)
    for i in range(3):
        candidate = batch.row(i)
        assert candidate_from_dict(tomllib.loads(to_toml(candidate))) == candidate
        assert (
            candidate_from_dict(json.loads(json.dumps(candidate_to_dict(candidate)))) == candidate
        )


def test_every_field_survives_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(to_toml(EVERYTHING), encoding="utf-8")
    assert load_candidate(path) == EVERYTHING


@given(threshold=st.floats(allow_nan=False, allow_infinity=False))
def test_thresholds_round_trip_bit_by_bit(threshold: float) -> None:
    exits = Exits(layers=(1,), thresholds=(threshold,))
    again = candidate_from_dict(tomllib.loads(to_toml(replace(EVERYTHING, exits=exits))))
    assert again.exits is not None
    assert again.exits.thresholds[0].hex() == threshold.hex()


def test_a_backbone_may_be_named() -> None:
    text = 'schema_version = 1\nbackbone = "minilm-l6"\ndepth = 3\n'
    assert candidate_from_dict(tomllib.loads(text)) == Candidate(backbone=BACKBONE, depth=3)


def test_equal_candidates_have_equal_hashes_whatever_their_number_types() -> None:
    plain = Candidate(backbone=BACKBONE, depth=6, exits=Exits(layers=(1,), thresholds=(1.0,)))
    numpy = Candidate(
        backbone=BACKBONE,
        depth=np.int64(6),  # type: ignore[arg-type]
        exits=Exits(layers=(np.int64(1),), thresholds=(1,), temperature=1),  # type: ignore[arg-type]
    )
    assert candidate_hash(plain) == candidate_hash(numpy)
    assert len(candidate_hash(plain)) == 64
    nudged = replace(plain, exits=Exits(layers=(1,), thresholds=(float(np.nextafter(1.0, 2.0)),)))
    assert candidate_hash(nudged) != candidate_hash(plain)


def test_all_problems_of_a_file_are_listed_with_place_and_way_out(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        """
schema_version = 99
backbone = "minilm-l7"
dept = 3
dtype = 16
skim = 3
[exits]
layers = [1, "2"]
treshold = [0.5]
temperature = true
patience = true
[moe]
layers = 4
num_experts = [4]
cascade = 1
"""
    )
    with pytest.raises(InputError) as caught:
        load_candidate(path)
    found = {p.key: p.message for p in caught.value.problems}
    assert "upgrade" in found["schema_version"]
    assert "did you mean minilm-l6" in found["backbone"]
    assert "did you mean depth" in found["dept"]
    assert found["depth"] == "is missing"
    assert found["dtype"] == "must be a string"
    assert "[[skim]]" in found["skim"]
    assert found["exits.layers[1]"] == "must be an integer"
    assert "did you mean thresholds" in found["exits.treshold"]
    assert found["exits.temperature"] == "must be a number"
    assert found["exits.patience"] == "must be an integer"
    assert found["moe.layers"] == "must be a list"
    assert found["moe.top_k"] == "is missing"
    assert "unknown key" in found["moe.cascade"]
    assert {p.file for p in caught.value.problems} == {str(path)}


@pytest.mark.parametrize(
    ("version", "message"), [("", "add schema_version"), ("schema_version = 0", "positive")]
)
def test_a_missing_or_senseless_schema_version_is_refused(version: str, message: str) -> None:
    text = f'{version}\nbackbone = "minilm-l6"\ndepth = 3\n'
    with pytest.raises(InputError, match=message):
        candidate_from_dict(tomllib.loads(text))


def test_a_missing_backbone_or_a_part_that_is_no_table_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        candidate_from_dict({"schema_version": 1, "depth": 3, "exits": 5, "skim": [1]})
    found = {p.key: p.message for p in caught.value.problems}
    assert found["exits"] == found["skim[0]"] == "must be a table"
    assert "missing" in found["backbone"]


def test_text_that_is_no_toml_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("depth = = 3")
    with pytest.raises(InputError, match="not valid TOML"):
        load_candidate(path)


EARLIER = Candidate(
    backbone=BACKBONE,
    depth=5,
    exits=Exits(layers=(1, 3), thresholds=(0.75, 0.9), kv_policy="copy_state"),
    moe=Experts(layers=(2,), num_experts=(4,), top_k=(2,), capacity_factor=1.25),
    skim=(Skim(layers=(1,), keep_rate=(0.5,)),),
    cascade=Cascade(stages=("a", "b"), thresholds=(0.5,)),
    exit_batching="compact",
    dtype="bf16",
    pooling="cls",
)


def test_hashes_of_candidates_that_use_nothing_new_stay_as_they_were() -> None:
    # written by the version before the vocabulary grew
    earlier = "25ad9aed46f521cb9d20cabacf799d65d718f65eb89b4f1c06333d6c17940c3a"
    assert candidate_hash(EARLIER) == earlier


LATER = replace(
    EARLIER,
    backbone=load_backbone("t5-small"),
    decoder_depth=4,
    compact_every=2,
    output="text",
    exits=Exits(
        layers=(1, 3),
        thresholds=(-0.75, -0.9),
        stack="decoder",
        head_shared=True,
        temperatures=(1.5, 0.5),
        similarity="js",
        set_floors=(0.5, 1.0),
        decay_rate=4.0,
        decay_length=100,
    ),
    moe=Experts(
        layers=(2,),
        num_experts=(4,),
        top_k=(2,),
        router="hash",
        hash_salt=7,
        causal_predictor=True,
        expert_parallel=2,
        placement=(0, 1, 0, 1),
    ),
    skim=(Skim(layers=(1,), keep_count=(9,), stack="encoder", structural=True, jump_min=-2),),
    cascade=Cascade(stages=("a", "b"), thresholds=(float("inf"),), answer="average"),
)


def test_fields_that_came_later_survive_and_change_the_hash() -> None:
    assert candidate_from_dict(tomllib.loads(to_toml(LATER))) == LATER
    hashes = {candidate_hash(LATER), candidate_hash(replace(LATER, compact_every=3))}
    hashes.add(candidate_hash(replace(LATER, moe=None)))
    assert len(hashes) == 3


def test_fields_that_came_later_are_left_out_where_they_have_their_default() -> None:
    table = candidate_to_dict(EARLIER)
    assert "compact_every" not in table
    for record in (table["exits"], table["moe"], *table["skim"], table["cascade"]):
        assert not set(record) & {"stack", "temperatures", "kernel", "layout", "answer"}
