"""Where networks are trained and passes run: on processors, unless a job wants a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynsearch.job import load_job
from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig, Weights, full_plan
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.opened import Opened
from dynsearch.quality import distil as distil_module
from dynsearch.quality import precision
from dynsearch.quality import training as training_module
from dynsearch.quality.distil import distil
from dynsearch.quality.lesson import add_scorer
from dynsearch.quality.opening import open_material
from dynsearch.quality.precision import training_dtype
from dynsearch.quality.source import SupernetQuality, own_device
from dynsearch.quality.supernet import supernet_key
from dynsearch.quality.training import Labelled, Training, add_heads, fine_tune
from dynsearch.testing import tiny_data, tiny_model

GPU = torch.cuda.is_available()
FEW = Training(epochs=1, threads=1, max_len=24, expert_counts=(4,), input_skims=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("devices") / "model")


@pytest.fixture(scope="module")
def config(folder: Path) -> EncoderConfig:
    return encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)


@pytest.fixture(scope="module")
def texts(folder: Path, labelled: Callable[[Path, int], Labelled]) -> Labelled:
    return labelled(folder, 200)


def trained(
    folder: Path, config: EncoderConfig, texts: Labelled, training: Training
) -> tuple[EncoderConfig, Weights]:
    tuned = fine_tune(config, read_pretrained(folder), texts, training, early_stop=texts)
    return distil(config, tuned, texts.tokens, training)


def test_nothing_of_training_lies_elsewhere_than_the_weights(
    folder: Path, config: EncoderConfig, texts: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What names no device lands on one here that computes nothing."""
    want = trained(folder, config, texts, FEW)[1]
    fresh = add_heads(config, read_pretrained(folder), FEW.seed)
    scorer = add_scorer(config.hidden_size, {}, FEW.seed)
    monkeypatch.setattr(training_module, "add_heads", lambda *_: fresh)
    monkeypatch.setattr(distil_module, "add_scorer", lambda _, weights, seed: weights | scorer)
    training_dtype("cpu")  # measured once
    with torch.device("meta"):
        found = trained(folder, config, texts, FEW)[1]
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) for name in want)


@pytest.mark.skipif(not GPU, reason="torch finds no GPU")
def test_a_gpu_trains_the_network_that_a_processor_does(
    folder: Path, config: EncoderConfig, texts: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (distil_module, training_module):
        monkeypatch.setattr(module, "training_dtype", lambda device: "fp32")
    want, found = (
        DynamicEncoder(*trained(folder, config, texts, replace(FEW, device=device)))
        for device in ("cpu", "cuda")
    )
    assert {tensor.device.type for tensor in found.weights.values()} == {"cpu"}
    ids, n = texts.tokens.batch(np.arange(64))
    with torch.no_grad():
        for layer, (one, other) in enumerate(
            zip(*(m.pooled(full_plan(m.config), ids, n) for m in (want, found)), strict=True)
        ):
            torch.testing.assert_close(
                want.head(layer, one), found.head(layer, other), atol=0.05, rtol=0.05
            )


def job_file(folder: Path, search: str = "") -> Path:
    """A job on the tiny model, with lines of its table `[search]`."""
    tiny_model(folder / "model")
    tiny_data(folder / "rows.jsonl")
    file = folder / "job.toml"
    text = 'schema_version = 1\nname = "tiny"\ndevices = ["local"]\n'
    text += 'objectives = ["error", "latency_mean_s"]\n[model]\nfolder = "model"\n'
    text += '[data]\nfile = "rows.jsonl"\n[workload]\nmax_len = 24\n[space]\n'
    file.write_text(f"{text}[search]\n{search}", encoding="utf-8")
    return file


def test_a_cached_network_serves_whatever_trained_it() -> None:
    keys = {
        supernet_key(weights_sha256="a", data_sha256="b", training=replace(FEW, device=device))
        for device in ("cpu", "cuda")
    }
    assert len(keys) == 1


def test_a_job_without_a_share_of_a_gpu_stays_on_processors(tmp_path: Path) -> None:
    material = open_material(load_job(job_file(tmp_path)))
    assert own_device(0.0) == material.training.device == "cpu"


def test_a_share_of_a_gpu_moves_training_and_whole_passes_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="dynsearch.quality.source")
    own_device.cache_clear()
    job = load_job(job_file(tmp_path, "gpu_share = 0.5\n"))
    material = open_material(job)
    quality = SupernetQuality(
        config=encoder_config(material.backbone, num_classes=2, norm_eps=1e-12),
        weights=read_pretrained(material.folder),
        splits=material.splits,
        weights_hash="tiny",
    )
    opened = Opened(job=job, run=None, material=material, quality=quality, scene=None, scored=())
    where = "cuda" if GPU else "cpu"
    assert material.training.device == opened.recorder.device == where
    assert opened.quality.device == "cpu"  # the stopwatch runs there
    assert ("torch finds no GPU here" in caplog.text) != GPU


class Counted:
    """A context that counts how often it was entered."""

    def __init__(self) -> None:
        self.entered = 0

    def __enter__(self) -> None:
        self.entered += 1

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("hopeless_s", "repeats"), [(0.0, 2), (math.inf, precision.REPEATS)])
def test_a_number_format_that_is_far_slower_is_tried_twice(
    hopeless_s: float, repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a processor lacks bf16, nine repeats would take half a minute of every training."""
    monkeypatch.setattr(precision, "ROWS", 4)
    counted = Counted()
    precision._step_seconds(counted, "cpu", hopeless_s=hopeless_s)
    assert counted.entered == repeats
