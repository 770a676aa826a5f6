"""Training in a process of its own: same weights as here, and a clear end when it dies."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynsearch.job import load_job
from dynsearch.models.weights import encoder_config, read_pretrained
from dynsearch.quality.distil import train_supernet
from dynsearch.quality.opening import Material, open_material
from dynsearch.quality.supernet import load_supernet
from dynsearch.quality.train_apart import train_apart
from dynsearch.testing import tiny_data, tiny_model
from search_spaces.errors import DynsearchError, InputError

JOB = """
schema_version = 1
name = "tiny"
devices = ["nvidia-a100-80g-sxm"]
[model]
folder = "model"
[data]
file = "data.jsonl"
[training]
epochs = 1
threads = 1
[space.exits]
layers = [1, 2]
[workload]
max_len = 24
[search]
trials = 1
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    home = tmp_path_factory.mktemp("home")
    tiny_model(home / "model")
    tiny_data(home / "data.jsonl", 1200)
    (home / "job.toml").write_text(JOB, encoding="utf-8")
    return open_material(load_job(home / "job.toml"))


def test_weights_are_those_of_training_in_this_process(material: Material, tmp_path: Path) -> None:
    told: list[float] = []
    train_apart(tmp_path / "net", material, lambda share, text: told.append(share))
    _config, weights, info = load_supernet(tmp_path / "net")
    _, here = train_supernet(
        encoder_config(material.backbone, num_classes=2, norm_eps=1e-12),
        read_pretrained(material.folder),
        material.splits["train"],
        material.training,
    )
    assert info["labels"] == list(material.labels)
    assert weights.keys() == here.keys()
    assert all(torch.equal(weights[k], here[k]) for k in here)
    assert told == sorted(told)
    assert told


def test_a_dead_training_process_is_one_clear_error_and_leaves_no_folder(
    material: Material, tmp_path: Path
) -> None:
    def kill(share: float, text: str) -> None:
        import multiprocessing

        (child,) = multiprocessing.active_children()
        os.kill(int(child.pid or 0), signal.SIGKILL)

    with pytest.raises(DynsearchError, match="the training process died"):
        train_apart(tmp_path / "net", material, kill)
    assert not (tmp_path / "net").exists()


def test_bad_input_found_by_the_process_arrives_whole(material: Material, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text((material.folder / "config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"no tensors")
    untrained = replace(material.training, seed=material.training.seed + 1)  # none in the cache
    with pytest.raises(InputError) as caught:
        train_apart(tmp_path / "net", replace(material, folder=broken, training=untrained))
    (problem,) = caught.value.problems
    assert problem.file == str(broken / "model.safetensors")
    assert "not a readable safetensors file" in problem.message
