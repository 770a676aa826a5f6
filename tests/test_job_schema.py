"""The JSON Schema of the job file agrees with what reads job files."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dynsearch.cli import run
from dynsearch.errors import InputError
from dynsearch.job import job_from_dict
from dynsearch.job_schema import job_schema

ROOT = Path(__file__).parents[1]
JOBS = sorted((ROOT / "runs" / "jobs").glob("*.toml"))


def job(name: str = "short-sentences") -> dict[str, Any]:
    return tomllib.loads((ROOT / "runs" / "jobs" / f"{name}.toml").read_text(encoding="utf-8"))


def allowed(raw: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(job_schema()).is_valid(raw))


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_every_shipped_job_is_valid(path: Path) -> None:
    jsonschema.validate(tomllib.loads(path.read_text(encoding="utf-8")), job_schema())


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(job_schema())


BAD: list[tuple[str, Any]] = [
    ("nmae", "x"),
    ("devices", []),
    ("objectives", ["error", "latency_maen_s"]),
    ("training.epoch", 4),
    ("training.epochs", 0),
    ("training.epochs", "four"),
    ("space.skmi", {}),
    ("space.dtype", ["fp31"]),
    ("space.dtype", ["int4"]),
    ("space.skim.keeps", [1.0]),
    ("space.exits.criteria", ["max_porb"]),
    ("space.experts.granularity", ["word"]),
    ("workload.max_len", 3),
    ("budgets.latency", 1.0),
    ("budgets.peak_bytes", {"of_full_netwrok": 0.5}),
    ("search.sampler", "tpee"),
]


@pytest.mark.parametrize(("key", "value"), BAD, ids=[k for k, _ in BAD])
def test_what_the_reader_refuses_the_schema_refuses(key: str, value: Any) -> None:
    raw = copy.deepcopy(job())
    table = raw
    *path, last = key.split(".")
    for part in path:
        table = table[part]
    table[last] = value
    with pytest.raises(InputError):
        job_from_dict(raw, check_files=False)
    assert not allowed(raw)


def test_every_key_is_described() -> None:
    def walk(part: Any, place: str) -> None:
        if isinstance(part, dict):
            for key, value in part.get("properties", {}).items():
                assert value.get("description") or "$ref" in value, f"{place}.{key}"
            for key, value in part.items():
                walk(value, f"{place}/{key}")
        elif isinstance(part, list):
            for i, value in enumerate(part):
                walk(value, f"{place}/{i}")

    walk(job_schema(), "")


def test_the_command_prints_or_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == job_schema()
    assert run(["schema", "--out", str(tmp_path / "job.schema.json")]) == 0
    assert json.loads((tmp_path / "job.schema.json").read_text(encoding="utf-8")) == job_schema()
