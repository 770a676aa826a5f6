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
    CRITERIA,
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
        "exits": {"criteria": list(CRITERIA)},
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
