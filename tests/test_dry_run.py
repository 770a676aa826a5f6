"""A dry run tells what a search would take, refuses what it would refuse, and leaves nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cost_models import device as device_module
from dynsearch.cli import run
from dynsearch.dry_run import dry_run
from dynsearch.errors import InputError
from dynsearch.job import Job, load_job
from dynsearch.quality.opening import open_material
from dynsearch.quality.supernet import cache_folder
from dynsearch.testing import tiny_data, tiny_model

JOB = """
schema_version = 1
name = "tiny"
devices = [{device}]
[model]
folder = "model"
[data]
file = "data.jsonl"
[space.skim]
layers = [1, 2]
keep = [1.0, 0.5]
[space.exits]
layers = [1, 2, 3]
min_depth = 2
[workload]
max_len = 24
[budgets]
{budget}
[search]
trials = {trials}
workers = 1
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("dry")
    tiny_model(home / "model")
    tiny_data(home / "data.jsonl", 1200)
    return home


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNSEARCH_CACHE", str(tmp_path / "cache"))


def job(home: Path, *, device: str = '"local"', budget: str = "", trials: int = 8) -> Job:
    file = home / "job.toml"
    file.write_text(JOB.format(device=device, budget=budget, trials=trials), encoding="utf-8")
    return load_job(file)


def seconds(result: dict, step: str) -> float:
    return next(s["seconds"] for s in result["estimates"] if s["step"].startswith(step))


def test_nothing_is_written(home, tmp_path):
    before = sorted(p.name for p in home.iterdir())
    job(home)
    names = sorted({*before, "job.toml"})
    dry_run(load_job(home / "job.toml"))
    assert sorted(p.name for p in home.iterdir()) == names
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_an_estimate_for_every_step(home, tmp_path, capsys):
    job(home)
    options = ["--dry-run", "--json", "--out", str(tmp_path / "out")]
    assert run(["search", str(home / "job.toml"), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    steps = [s["step"] for s in result["estimates"]]
    assert steps == ["training", "calibration", "passes, at most", "confirmation"]
    assert result["seconds"] == pytest.approx(sum(s["seconds"] for s in result["estimates"]))
    assert result["memory_bytes"] > 0
    assert result["disk_bytes"] > 0
    assert not (tmp_path / "out").exists()


def test_what_is_cached_costs_nothing_again(home):
    device = '"nvidia-a100-80g-sxm"'
    first = dry_run(job(home, device=device))
    assert first["cached"]["supernet"] is False
    (cache_folder() / "supernets" / open_material(job(home, device=device)).key).mkdir(
        parents=True
    )
    again = dry_run(job(home, device=device))
    assert again["cached"]["supernet"] is True
    assert [s["step"] for s in first["estimates"]] == [
        "training",
        *(s["step"] for s in again["estimates"]),
    ]


def test_more_passes_take_proportionally_longer(home, monkeypatch):
    monkeypatch.setattr("dynsearch.dry_run._pass_seconds", lambda m: {"one": 0.01, "all": 0.005})
    few, many = (dry_run(job(home, trials=n)) for n in (8, 32))
    assert seconds(many, "passes") == pytest.approx(4 * seconds(few, "passes"))
    rows = len(open_material(job(home)).splits["search"].labels)
    assert seconds(few, "passes") == pytest.approx(8 * rows * 0.01)
    assert many["disk_bytes"] > few["disk_bytes"]


def test_an_impossible_budget_is_refused_before_training(home):
    tight = job(home, device='"nvidia-a100-80g-sxm"', budget="latency_worst_s = 1e-9")
    with pytest.raises(InputError, match="impossible on nvidia-a100-80g-sxm"):
        dry_run(tight)


def test_budgets_come_back_in_si_units(home):
    found = dry_run(
        job(
            home,
            device='"nvidia-a100-80g-sxm"',
            budget="peak_bytes = { of_full_network = 0.9 }",
        )
    )
    assert found["unpriced"] == []
    assert found["budgets"]["nvidia-a100-80g-sxm"]["peak_bytes"] > 1000


def test_a_machine_that_is_not_calibrated_is_said_to_be_unpriced(home):
    tight = job(home, budget="latency_worst_s = 1e-9")
    assert dry_run(tight)["unpriced"] == ["local"]
    shipped = Path(device_module.__file__).parent / "devices" / "generic-x86-avx2.toml"
    (cache_folder() / "devices").mkdir(parents=True)
    shutil.copyfile(shipped, cache_folder() / "devices" / "local-1.toml")
    with pytest.raises(InputError, match="impossible"):
        dry_run(tight)
