"""The command that says how wrong the cost models are."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

import cost_models.adapters as adapters
from cost_models.scores import Score
from dynsearch.cli import run
from dynsearch.commands.validate import COLUMNS, cells, markdown, show, validate

from ..cost_models.made_up import DEVICES, MadeUp, write_folder

KEYS = {
    "source",
    "device",
    "family",
    "n",
    "mape",
    "median_ape",
    "within_10",
    "kendall",
    "coverage",
    "known_device",
    "roofline_mape",
    "training",
    "level",
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(adapters, "adapters", lambda: {"made_up": MadeUp})
    return write_folder(tmp_path / "data", devices=DEVICES[:2], rows=40)


def test_json_holds_the_promised_keys(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--data", str(data), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] == "validate"
    assert all(set(row) >= KEYS for row in found["rows"])
    assert {row["known_device"] for row in found["rows"]} == {True, False}


def test_the_document_names_the_command_and_every_row(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "docs" / "validation.md"
    args = ["validate", "--data", str(data), "--known-only", "--out", str(file), "-q"]
    assert run(args) == 0
    text = file.read_text(encoding="utf-8")
    assert f"`dynsearch validate --data {data} --known-only`" in text
    assert all(text.count(name) == 1 + (name == DEVICES[0]) for name in DEVICES[:2])
    assert "| family | level | device |" in text


def test_the_table_shows_the_worst_device_of_a_family_first(data: Path) -> None:
    out = io.StringIO()
    result = validate(data, known_only=True)
    show(result, out)
    text = out.getvalue()
    assert all(column in text for column in COLUMNS)
    single = [
        row["device"]
        for row in sorted(result["rows"], key=lambda row: -row["mape"])
        if row["device"] in DEVICES[:2] and not row["training"]
    ]
    place = [text.index(name, text.index("Known devices, inference")) for name in single]
    assert place == sorted(place)


def test_an_interval_that_bounds_nothing_says_so_in_words(data: Path) -> None:
    row = Score(**validate(data, known_only=True)["rows"][0])
    at = COLUMNS.index("width %")
    assert cells(replace(row, width=12.5))[at] == "1250"
    wide = replace(row, width=2.5e9)
    assert cells(wide)[at] == "no bound"
    text = markdown([wide], "validate")
    assert "250000" not in text
    assert "*no bound* where the ends are more than a factor of 100 apart" in text


def test_a_folder_without_tables_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", "--data", str(tmp_path)]) == 2
    assert "give a folder with measured tables" in capsys.readouterr().err
