"""Profiles made by one command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cost_models.adapters as adapters
from cost_models import profile as profiles
from cost_models.calibrate.rows import prepare
from cost_models.calibrate.ship import concentration, covered, main, profile_of, row_kinds
from cost_models.calibrate.subjects import Subject
from cost_models.device import load_device
from cost_models.price import price_ops
from search_spaces.errors import InputError

from ..made_up import DEVICES, MadeUp, write_folder
from .synthetic import matmuls, measured_on, table

NAME = DEVICES[0]


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(adapters, "adapters", lambda: {"made_up": MadeUp})
    monkeypatch.setattr(profiles, "PROFILES", tmp_path / "profiles")
    data = write_folder(tmp_path / "data", devices=DEVICES[:1], rows=80)
    assert main(["--data", str(data), "--out", str(tmp_path / "profiles"), "--only", NAME]) == 0
    return tmp_path / "profiles"


def test_one_command_writes_profiles_that_devices_load(shipped: Path) -> None:
    assert [file.name for file in shipped.iterdir()] == [f"{NAME}--test.toml"]
    device = load_device(NAME, runtime="test")
    assert device.profile is not None
    assert device.profile.n == 60  # training rows are not shipped
    assert device.profile.sources == (f"{NAME}.csv",)
    assert device.profile.mape < 0.08
    assert device.parameter("efficiency_half") == pytest.approx(0.60, rel=0.05)
    assert "sync" not in device.profile.model  # no row tells of it


def test_the_prices_of_a_profile_cover_rows_like_those_it_was_fitted_to(shipped: Path) -> None:
    device = load_device(NAME, runtime="test")
    plain = load_device(NAME)
    truth = {
        "launch_half": 1.6 * plain.parameter("launch_half"),
        "efficiency_half": 0.6,
        "bandwidth_share_half": 0.55,
    }
    rows = measured_on(plain, truth, np.random.default_rng(99), rows=400, noise=0.05)
    cost = price_ops(rows.ops, device)
    inside = (rows.seconds >= cost.low_s) & (rows.seconds <= cost.high_s)
    assert 0.82 < inside.mean() < 0.99
    assert cost.parameter_log_sd.shape[1] == len(device.profile.uncertain)  # type: ignore[union-attr]


def test_a_folder_with_nothing_to_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_text("who,what\nx,y\n")
    assert main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "nothing can be fitted" in capsys.readouterr().err


def subject(**changes: object) -> Subject:
    device = load_device(NAME)
    rows = measured_on(device, {}, np.random.default_rng(1), rows=40)
    return Subject(
        device=device, runtime="test", training=False, tables=(replace(rows, **changes),)
    )


def test_few_rows_make_no_profile() -> None:
    few = subject()
    few = replace(few, tables=(few.tables[0].take(np.arange(3)),))
    with pytest.raises(InputError, match="too few rows, 5 are needed"):
        profile_of(few)


def test_kinds_that_were_seen_in_networks_only_are_as_wrong_as_networks_are() -> None:
    found = profile_of(subject(family="end_to_end"))
    assert found.residual_log_sd["matmul"] >= found.shared_log_sd
    assert found.kind_log_sd == {}


def test_a_row_shows_the_kind_that_takes_its_time_and_a_network_none() -> None:
    s = subject()
    assert set(row_kinds(s, prepare(s.tables), s.device)) == {"matmul"}
    s = subject(family="end_to_end")
    assert set(row_kinds(s, prepare(s.tables), s.device)) == {""}


def test_concentration_is_one_over_the_number_of_equal_operators() -> None:
    ops = matmuls([64, 64, 128], [512, 512, 512], 512)
    ops.candidate[:] = [0, 0, 1]
    rows = prepare([table(ops, [1.0, 1.0], NAME)])
    assert concentration(rows, load_device(NAME)) == pytest.approx([1, 1])
    ops = matmuls([64, 64], [512, 1024], [1024, 512])
    ops.candidate[:] = 0
    both = concentration(prepare([table(ops, [1.0], NAME)]), load_device(NAME))
    assert both == pytest.approx([0.5], abs=0.01)


def test_ranges_are_those_of_the_rows() -> None:
    assert covered(matmuls([1, 64], [256, 512], 128)) == {
        "m": (1.0, 64.0),
        "k": (256.0, 512.0),
        "n": (128.0, 128.0),
    }
