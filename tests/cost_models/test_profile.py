"""Profiles: files laid over devices, one for each runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cost_models import profile as profiles
from cost_models.calibrate.write import profile_text
from cost_models.device import device_names, load_device
from cost_models.price import price_ops
from cost_models.profile import Profile, load_profile, profile_file, profile_names
from search_spaces.errors import InputError

from .calibrate.synthetic import matmuls

NAME = "nvidia-a100-80g-sxm"
PROFILE = Profile(
    name=f"{NAME}--vllm",
    base=NAME,
    date="2025-01-01",
    tool="test",
    driver="",
    runtime="vllm",
    threads=1,
    n=100,
    mape=0.05,
    machine="",
    shared_log_sd=0.05,
    residual_log_sd={"matmul": 0.1},
    covered={"m": (1.0, 512.0), "attention_prefill.n": (16.0, 4096.0)},
    model={"launch_half": 7e-6, "efficiency_half": 0.7},
    sources=("gpu/a.csv", "gpu/b.csv"),
    formats=("bf16", "fp8"),
    kind_log_sd={"matmul": 0.04},
    network_log_sd=0.07,
    uncertain=("launch_half", "efficiency_half"),
    log_covariance=((0.04, 0.001), (0.001, 0.01)),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    profile_file(NAME, "vllm").write_text(profile_text("gpu", PROFILE), encoding="utf-8")
    return tmp_path


def test_a_profile_is_read_back_as_it_was_written(folder: Path) -> None:
    found = load_profile(profile_file(NAME, "vllm"))
    assert found.model == pytest.approx(PROFILE.model)
    for key in set(Profile.__slots__) - {"model"}:
        assert getattr(found, key) == getattr(PROFILE, key), key


def test_a_runtime_lays_its_profile_over_the_device_and_none_leaves_it(folder: Path) -> None:
    plain = load_device(NAME)
    assert plain.origin == "datasheet"
    for laid in (load_device(NAME, runtime="vllm"), load_device(f"{NAME}@vllm")):
        assert laid.parameter("launch_half") == pytest.approx(7e-6)
        assert laid.origin == f"profile:{NAME}--vllm"
        assert laid.quantities["peak.fp32"] == plain.quantities["peak.fp32"]
    assert profile_names() == [(NAME, "vllm")]
    assert profile_names("other") == []


def test_a_runtime_without_a_profile_is_refused_with_those_that_there_are(folder: Path) -> None:
    with pytest.raises(InputError, match=r"runtime = trt: .*there are vllm"):
        load_device(f"{NAME}@trt")
    with pytest.raises(InputError, match="this device has none"):
        load_device("google-tpu-v5e", runtime="vllm")


def text_with(line: str) -> str:
    return profile_text("gpu", PROFILE) + line


def test_a_profile_that_sets_a_peak_is_refused(folder: Path) -> None:
    profile_file(NAME, "vllm").write_text(text_with("bf16_gflops = 1e6\n"), encoding="utf-8")
    with pytest.raises(InputError, match="may not set facts of the device such as peaks"):
        load_device(NAME, runtime="vllm")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"attention_prefill.n"', '"attention.n"', "profile.covered.attention.n"),
        ("m = [1.0, 512.0]", "m = [1.0]", "profile.covered.m"),
        (
            'names = ["launch_half", "efficiency_half"]',
            'names = ["sync"]',
            "profile.covariance.names",
        ),
        ("[0.04, 0.001]", "[0.04]", "profile.covariance.log"),
        ("network_log_sd = 0.07", 'network_log_sd = "0.07"', "profile.network_log_sd"),
        ("matmul = 0.04", "matmull = 0.04", "profile.kind_log_sd.matmull"),
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ("threads = 1", "thread = 1", "profile.thread"),
    ],
)
def test_faults_of_a_profile_are_named(folder: Path, old: str, new: str, key: str) -> None:
    text = profile_text("gpu", PROFILE)
    assert old in text
    profile_file(NAME, "vllm").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as raised:
        load_device(NAME, runtime="vllm")
    assert key in [p.key for p in raised.value.problems]


def test_every_shipped_profile_fits_its_device() -> None:
    for device, runtime in profile_names():
        assert device in device_names()
        laid = load_device(device, runtime=runtime)
        assert laid.profile is not None
        assert laid.profile.n > 0
        assert laid.profile.sources


@pytest.mark.parametrize(
    "device", ["raspberry-pi-4", "intel-xeon-e5-2640-v4", "intel-xeon-8375c-c6i-2xlarge"]
)
def test_measured_processors_are_priced_more_surely_than_from_their_datasheet(device: str) -> None:
    plain, fitted = load_device(device), load_device(f"{device}@torch-eager")
    ops = matmuls([64, 128], [768, 512], [512, 1024], dtype="fp32")
    assert fitted.origin == f"profile:{device}--torch-eager"
    before, after = price_ops(ops, plain), price_ops(ops, fitted)
    assert not np.allclose(before.time_s, after.time_s, rtol=0.01)
    assert np.all(after.high_s / after.low_s < before.high_s / before.low_s)
