from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import search_spaces.backbones
from search_spaces import InputError, count_parameters, list_backbones, load_backbone

FOLDER = Path(search_spaces.backbones.__file__).parent


def test_the_three_geometries_are_shipped() -> None:
    assert list_backbones() == ["bert-base", "minilm-l12", "minilm-l6"]


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
    with pytest.raises(InputError, match="did you mean minilm-l6"):
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
