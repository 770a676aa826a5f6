from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dynsearch.cli import run
from dynsearch.commands import methods as command
from search_spaces.methods import list_methods

README = Path(__file__).parents[2] / "README.md"
DOCUMENT = README.parent / "docs" / "methods.md"
KEYS = {"name", "family", "year", "evidence", "same_as", "checked"}


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["methods", *words, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_all_methods_are_listed_and_hold(capsys: pytest.CaptureFixture[str]) -> None:
    result = printed(capsys)
    assert sorted(entry["name"] for entry in result["methods"]) == list_methods()
    assert all(entry.keys() >= KEYS for entry in result["methods"])
    assert all(entry["checked"] for entry in result["methods"])
    assert all(paper["reason"] for paper in result["papers"])


@pytest.mark.parametrize("name", ["ensembling", "glam", "skim-rnn"])
def test_one_method_is_shown_with_its_candidate_and_check(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry,) = printed(capsys, name)["methods"]
    assert entry["candidate"]["backbone"]["name"]
    assert entry["check"]["found"] == pytest.approx(entry["check"]["expected"], rel=0.03)
    assert run(["methods", name]) == 0
    text = capsys.readouterr().out
    assert entry["decision"] in text
    assert "check holds" in text


def test_the_list_says_how_many_are_equal_in_simulation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["methods"]) == 0
    text = capsys.readouterr().out
    assert "76 methods, and 12 that equal one of them in simulation" in text
    assert "cited, but no dynamic methods" in text


def test_an_unknown_method_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "fastbart"]) == 2
    assert "did you mean fastbert" in capsys.readouterr().err


def test_the_document_is_what_the_presets_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "--markdown"]) == 0
    text = capsys.readouterr().out
    assert text == command.markdown()
    assert text == DOCUMENT.read_text(encoding="utf-8"), "run: dynsearch methods --markdown"


def test_the_readme_s_table_is_what_the_presets_say() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == command.with_block(text, README), "run: dynsearch methods --readme README.md"
    block = text.partition(command.BEGIN)[2].partition(command.END)[0]
    names = set(re.findall(r"`([a-z0-9-]+)`", block))
    assert names == set(list_methods())


def test_a_stale_table_is_written_anew_and_nothing_else_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{command.BEGIN}\nold\n{command.END}\nafter\n", encoding="utf-8")
    assert run(["methods", "--readme", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == f"before\n{command.readme_block()}after\n"
    path.write_text("no markers", encoding="utf-8")
    assert run(["methods", "--readme", str(path)]) == 2
    assert "must hold this line once" in capsys.readouterr().err


def test_bars_in_cells_do_not_end_them() -> None:
    assert command.markdown_table(["a"], [["x | y"]]).splitlines()[-1] == "| x \\| y |"
