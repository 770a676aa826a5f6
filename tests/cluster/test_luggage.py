"""What travels with a job is enough, and holds no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_job import JOB, write_job

from cost_models.calibrate.write import device_text
from cost_models.device import load_device
from dynsearch.cluster.luggage import check_storage, content_hash, keep, pack
from dynsearch.commands.jobs import local_job
from dynsearch.errors import InputError
from dynsearch.job import job_hash, load_job
from dynsearch.quality.opening import open_material


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    write_job(home)
    (home / "model" / "notes.txt").write_text("stays here")
    return home


def packed(job: Any, folder: Path, **options: Any) -> Path:
    folder.mkdir()
    pack(job, folder, **options)
    return folder


def test_a_packed_job_opens_elsewhere_as_the_same_search(home: Path, tmp_path: Path) -> None:
    device = load_device("nvidia-a100-80g-sxm")
    (home / "mine.toml").write_text(device_text(device, device.profile))
    labels = ("positive", "negative")
    more = [
        json.dumps({"text": f"film {i} is {label}", "label": label})
        for i in range(9)
        for label in labels
    ]
    (home / "more.jsonl").write_text("\n".join(more) + "\n")
    text = JOB.replace('"nvidia-a100-80g-sxm"', '"mine.toml"')
    text = text.replace('file = "data.jsonl"', 'file = "data.jsonl"\nalso = "more.jsonl"')
    (home / "job.toml").write_text(text)
    job = load_job(home / "job.toml")
    here = open_material(job)
    folder = packed(job, tmp_path / "luggage")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert "files/model/model.safetensors" in names
    assert "files/devices/mine.toml" in names
    assert "files/model/notes.txt" not in names
    assert str(home) not in (folder / "job.toml").read_text()

    kept = keep(folder, tmp_path / "cluster")
    for path in (folder, home):  # neither is needed any more
        path.rename(path.with_name(f"{path.name}-gone"))
    there = load_job(kept)
    material = open_material(there)
    hashes = [
        job_hash(j, model_hash=m.model_sha256, data_hash=m.data_sha256)
        for j, m in ((job, here), (there, material))
    ]
    assert hashes[0] == hashes[1]


def test_values_of_the_command_line_are_in_the_job_that_travels(home: Path) -> None:
    given = {"trials": 3, "workers": 2, "seed": 5, "storage": None, "gpu_share": 0.5}
    search = local_job(home / "job.toml", in_place=False, **given).search
    assert {key: getattr(search, key) for key in given} == given | {"storage": search.storage}


def test_the_same_luggage_is_kept_once_and_another_beside_it(home: Path, tmp_path: Path) -> None:
    job = load_job(home / "job.toml")
    out = tmp_path / "out"
    first = keep(packed(job, tmp_path / "a"), out)
    assert keep(packed(job, tmp_path / "b"), out) == first
    (home / "data.jsonl").write_text((home / "data.jsonl").read_text() + "\n")
    assert keep(packed(job, tmp_path / "c"), out) != first
    assert len(list((out / "inputs").iterdir())) == 2


def test_in_place_the_job_file_travels_alone(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB.replace('"model"', '"/nodes/model"'))
    job = load_job(tmp_path / "job.toml", check_files=False)
    folder = packed(job, tmp_path / "luggage", in_place=True)
    assert [path.name for path in folder.iterdir()] == ["job.toml"]
    kept = keep(folder, tmp_path / "out")
    assert load_job(kept, check_files=False).model.folder == "/nodes/model"


def test_the_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "luggage"
    (folder / "files").mkdir(parents=True)
    (folder / "job.toml").write_text("a")
    hashes = [content_hash(folder)]
    for name, text in (("x", "1"), ("x", "2"), ("y", "2")):
        (folder / "files" / name).write_text(text)
        hashes.append(content_hash(folder))
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("postgresql://me:s3cret@h/db", "holds a password.*PGPASSWORD"),
        ("postgresql://h/db?password=s3cret", "holds a password"),
        ("sqlite:///study.db", "make it absolute"),
    ],
)
def test_a_storage_that_cannot_travel_is_refused(storage: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_storage(storage)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("storage", ["journal", "memory", "postgresql://me@h/db", "sqlite:////x"])
def test_other_storages_travel(storage: str) -> None:
    check_storage(storage)


def test_files_larger_than_ray_carries_are_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynsearch.cluster.luggage.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="--in-place"):
        packed(load_job(home / "job.toml"), tmp_path / "luggage")
