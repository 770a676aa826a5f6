from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import search_spaces.backbones
from search_spaces import (
    Candidate,
    InputError,
    candidate_from_dict,
    candidate_hash,
    candidate_to_dict,
    count_parameters,
    list_backbones,
    load_backbone,
)
from search_spaces.findings import check_backbone

FOLDER = Path(search_spaces.backbones.__file__).parent


# What the checkpoints hold, counted by those who published them.
PUBLISHED = {
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "distilbert": 66_362_880,
    "roberta-base": 124_645_632,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "opt-1.3b": 1_315_758_080,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "tinyllama-1.1b": 1_100_048_384,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "mixtral-8x7b": 46_702_792_704,
    "deepseek-moe-16b": 16_375_728_128,
    "whisper-tiny": 37_760_640,
    "whisper-base": 72_593_920,
    "whisper-small": 241_734_912,
    "whisper-medium": 763_857_920,
}
ROUNDED = {"gpt3-xl": 1.5e9, "gpt3-2.7b": 2.65e9, "switch-base-8": 619e6, "hat-wmt14-en-de": 92e6}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameters_are_those_of_the_published_checkpoint(name: str) -> None:
    assert count_parameters(load_backbone(name), pooler=name != "distilbert") == PUBLISHED[name]


@pytest.mark.parametrize("name", list_backbones())
def test_a_shipped_file_is_valid_counted_and_tells_its_source(name: str) -> None:
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    b = load_backbone(name)
    assert check_backbone(b) == []
    assert b.name == name
    assert raw["num_parameters"] == count_parameters(b, pooler=name != "distilbert")
    assert "http" in raw["source"]
    if name in ROUNDED:
        assert raw["num_parameters"] == pytest.approx(ROUNDED[name], rel=0.015)
    else:
        assert name in PUBLISHED or name.startswith("minilm")


def test_tables_of_earlier_candidates_and_their_hashes_stay_as_they_were() -> None:
    candidate = Candidate(backbone=load_backbone("bert-base"), depth=12)
    known = "9b19e9a3bb247c85a5a48b160fa4af3a58f35479b9874255b0050c80ff33b0f7"
    assert candidate_hash(candidate) == known


def test_a_decoder_survives_the_way_to_a_table_and_back() -> None:
    for name in ("mixtral-8x7b", "whisper-tiny", "mistral-7b"):
        candidate = Candidate(backbone=load_backbone(name), depth=1)
        assert candidate_from_dict(candidate_to_dict(candidate)) == candidate


@pytest.mark.parametrize("name", ["bert-base", "minilm-l12", "minilm-l6"])
def test_parameter_counts_follow_the_closed_form(name: str) -> None:
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    b = load_backbone(name)
    h, f, L = b.hidden_size, b.ffn_size, b.num_layers
    # 12 h^2 + 13 h where f = 4 h, the form quoted everywhere; two layer norms included
    assert f == 4 * h
    embedding = (30522 + 512 + 2) * h + 2 * h
    expected = embedding + L * (12 * h * h + 13 * h) + h * h + h
    assert raw["num_parameters"] == expected == count_parameters(b)
    assert count_parameters(b, pooler=False) == expected - h * h - h
    assert raw["source"]
    assert b.name == name


def test_grouped_heads_gates_and_tied_layers_change_the_count() -> None:
    b = load_backbone("bert-base")
    h, f, full = b.hidden_size, b.ffn_size, count_parameters(b)
    grouped = count_parameters(replace(b, num_kv_heads=4))
    assert full - grouped == 12 * 2 * (h + 1) * (8 * b.head_size)
    assert count_parameters(replace(b, ffn_kind="gated")) - full == 12 * (h * f + f)
    tied = count_parameters(replace(b, tied_layers=True))
    assert full - tied == 11 * (12 * h * h + 13 * h)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean minilm-l"):
        load_backbone("minilm-16")


def test_a_file_with_several_problems_lists_them_all(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text('schema_version = 2\nsorce = "x"\n[backbone]\nname = "b"\nnum_layers = "6"\n')
    with pytest.raises(InputError) as caught:
        load_backbone(path)
    keys = {p.key for p in caught.value.problems}
    assert {"schema_version", "sorce", "backbone.num_layers", "backbone.hidden_size"} <= keys
    assert all(p.file == str(path) for p in caught.value.problems)


def test_a_missing_file_is_bad_input() -> None:
    with pytest.raises(InputError, match="check the path"):
        load_backbone("nowhere/b.toml")
