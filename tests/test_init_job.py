"""`dynsearch init` writes a job that loads and fits, or says why there is none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from dynsearch.cli import run
from dynsearch.errors import InputError
from dynsearch.init_job import init
from dynsearch.job import load_job
from dynsearch.models.weights import read_backbone
from dynsearch.quality.opening import open_material
from dynsearch.testing import tiny_model, tiny_texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def table(path: Path, rows: list[tuple[str, str]], columns: tuple[str, str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def test_the_job_loads_and_its_material_opens(model, tmp_path):
    data = table(tmp_path / "my texts.csv", tiny_texts(1200), ("Review", "Sentiment"))
    result = init(model, data, tmp_path / "job.toml")
    job = load_job(tmp_path / "job.toml")
    assert (job.data.text, job.data.label) == ("Review", "Sentiment")
    assert job.name == "my-texts"
    material = open_material(job)
    seen = result["seen"]
    assert seen["rows"] == 1200
    assert sum(seen["classes"].values()) == 1200
    for name, rows in seen["splits"].items():
        assert len(material.splits[name].labels) == rows
    assert material.splits["train"].tokens.lengths.max() <= job.workload.max_len
    layers = read_backbone(model).num_layers
    assert material.space.inner.exit_layers == tuple(range(1, layers))


def test_what_was_seen_stands_in_the_file_as_comments(model, tmp_path):
    rows = [*tiny_texts(1200), *tiny_texts(30)]
    init(model, table(tmp_path / "a.csv", rows, ("text", "label")), tmp_path / "job.toml")
    text = (tmp_path / "job.toml").read_text(encoding="utf-8")
    assert "# 1230 rows, 30 of them duplicates" in text
    assert "# 2 classes: " in text


def test_paths_hold_from_the_folder_of_the_job(model, tmp_path):
    data = table(tmp_path / "a.csv", tiny_texts(1200), ("text", "label"))
    (tmp_path / "jobs").mkdir()
    init(model, data, tmp_path / "jobs" / "job.toml")
    assert load_job(tmp_path / "jobs" / "job.toml").data.file == str(data.resolve())


def test_an_existing_file_stays_unless_forced(model, tmp_path):
    data = table(tmp_path / "a.csv", tiny_texts(1200), ("text", "label"))
    (tmp_path / "job.toml").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is there already"):
        init(model, data, tmp_path / "job.toml")
    assert (tmp_path / "job.toml").read_text(encoding="utf-8") == "mine"
    init(model, data, tmp_path / "job.toml", force=True)
    load_job(tmp_path / "job.toml")


def test_labels_that_differ_only_in_case_are_told(model, tmp_path, caplog):
    rows = tiny_texts(1200)
    shouted = [(t, k.upper() if i % 3 else k) for i, (t, k) in enumerate(rows)]
    init(model, table(tmp_path / "a.csv", shouted, ("text", "label")), tmp_path / "job.toml")
    assert "differ only in case or spaces" in caplog.text


def test_texts_beyond_the_model_are_counted_and_said(model, tmp_path, caplog):
    positions = read_backbone(model).max_len
    rows = tiny_texts(1200)
    rows[5] = (" ".join(t for t, _ in rows[:200]), rows[5][1])
    result = init(model, table(tmp_path / "a.csv", rows, ("text", "label")), tmp_path / "j.toml")
    assert result["seen"]["too_long"] == 1
    assert f"1 of 1200 texts are longer than the model's {positions} positions" in caplog.text
    assert load_job(tmp_path / "j.toml").workload.max_len <= positions


def bad(tmp_path: Path, rows: list[tuple[str, str]], columns: Any = ("text", "label")) -> Path:
    return table(tmp_path / "bad.csv", rows, columns)


def absent_class() -> list[tuple[str, str]]:
    return [*tiny_texts(1200), ("a lone text", "rare")]


BAD = [
    ("few rows", lambda p: bad(p, tiny_texts(300)), "too few distinct rows"),
    ("one class", lambda p: bad(p, [(t, "x") for t, _ in tiny_texts(900)]), "one class"),
    (
        "a class for each row",
        lambda p: bad(p, [(t, str(i)) for i, (t, _) in enumerate(tiny_texts(900))]),
        "too many",
    ),
    ("a class absent from a split", lambda p: bad(p, absent_class()), "absent from this split"),
    ("unknown columns", lambda p: bad(p, tiny_texts(900), ("a", "b")), "the file has: a, b"),
    ("no rows", lambda p: bad(p, []), "no rows"),
    ("no file", lambda p: p / "missing.csv", "no such data file"),
    ("binary", lambda p: binary(p), "not UTF-8"),
    ("another kind", lambda p: other_kind(p), "give a .jsonl or a .csv"),
]


def binary(folder: Path) -> Path:
    (folder / "a.csv").write_bytes(bytes(range(256)) * 4)
    return folder / "a.csv"


def other_kind(folder: Path) -> Path:
    (folder / "a.xlsx").write_text("text,label", encoding="utf-8")
    return folder / "a.xlsx"


@pytest.mark.parametrize(("make", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_data_that_a_search_would_refuse_writes_nothing(model, tmp_path, make, says):
    with pytest.raises(InputError, match=says):
        init(model, make(tmp_path), tmp_path / "job.toml")
    assert not (tmp_path / "job.toml").exists()


def test_a_folder_that_is_no_model_is_refused(model, tmp_path):
    data = table(tmp_path / "a.csv", tiny_texts(1200), ("text", "label"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        init(tmp_path / "empty", data, tmp_path / "job.toml")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((model / "config.json").read_bytes())
    with pytest.raises(InputError, match="no weights here"):
        init(tmp_path / "bare", data, tmp_path / "job.toml")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "bare" / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    with pytest.raises(InputError, match="t5"):
        init(tmp_path / "bare", data, tmp_path / "job.toml")


def test_the_command_tells_the_file(model, tmp_path, capsys):
    data = table(tmp_path / "a.csv", tiny_texts(1200), ("text", "label"))
    job = tmp_path / "job.toml"
    options = ["--model", str(model), "--data", str(data), "--out", str(job)]
    assert run(["init", *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files"] == [str(job)]
    assert result["seen"]["columns"] == {"text": "text", "label": "label"}
    assert run(["init", *options]) == 2
