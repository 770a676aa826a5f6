"""The validation of made-up devices whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cost_models.adapters as adapters
from cost_models.calibrate.subjects import Subject
from cost_models.device import load_device
from cost_models.scored import Scored
from cost_models.scores import Score
from cost_models.validate import (
    GIVEN,
    KNOWN,
    POOLED,
    RELATIVE,
    TASK,
    UNKNOWN,
    Report,
    unknown_devices,
    validate,
)
from search_spaces.errors import InputError

from .calibrate.synthetic import measured_on
from .made_up import DEVICES, MadeUp, write_folder

NOISE = 0.05


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = write_folder(tmp_path_factory.mktemp("data"), rows=100, noise=NOISE)
    (folder / "notes.csv").write_text("who,what\nx,y\n")
    (folder / "bad.csv").write_text(
        "device,made_up_m,made_up_k,made_up_n,training,latency_us\nbox,1,1,1,0,-5\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "adapters", lambda: {"made_up": MadeUp})
        return validate(folder)


def rows(report: Report, **wanted: object) -> list[Score]:
    return [
        row
        for row in report.rows
        if all(getattr(row, name) == value for name, value in wanted.items())
    ]


def test_a_known_device_is_predicted_down_to_its_noise(report: Report) -> None:
    found = rows(report, protocol=KNOWN, training=False, dtype="bf16")
    assert [row.device for row in found] == sorted(DEVICES)
    for row in found:
        assert row.known_device
        assert row.mape < 1.5 * NOISE
        assert row.mape < row.roofline_mape / 3


def test_intervals_cover_what_they_promise(report: Report) -> None:
    (pooled,) = rows(report, protocol=KNOWN, training=False, runtime=POOLED)
    assert pooled.n == 4 * 100 - 20
    assert 0.84 < pooled.coverage < 0.95


def test_an_unmeasured_device_errs_more_and_is_less_sure(report: Report) -> None:
    (known,) = rows(report, protocol=KNOWN, training=False, runtime=POOLED)
    (none,) = rows(report, protocol=UNKNOWN, rows_seen=0, runtime=POOLED)
    (some,) = rows(report, protocol=UNKNOWN, rows_seen=GIVEN, runtime=POOLED)
    assert not none.known_device
    assert none.width > some.width > 0.8 * known.width
    assert some.coverage > 0.8
    assert none.mape > some.mape
    assert some.mape < 1.6 * NOISE
    assert some.n == none.n - GIVEN * len(DEVICES)
    assert none.coverage > 0.8


def test_training_is_never_pooled_with_inference(report: Report) -> None:
    training = rows(report, training=True)
    assert {row.device for row in training} == {DEVICES[0], "all gpu"}
    assert all(row.n == 20 for row in training)
    assert {row.protocol for row in training} == {KNOWN}


def test_other_predictors_stand_beside_where_they_speak(report: Report) -> None:
    assert all(row.peer_mape == pytest.approx({"peer": 0.5}) for row in report.rows)


def test_files_that_were_not_scored_are_told(report: Report) -> None:
    assert report.unrecognised == ("notes.csv",)
    assert any("bad.csv: latency_us, row 2 = -5" in text for text in report.warnings)
    assert set(report.read) == {f"{name}.csv" for name in DEVICES}


def test_a_folder_that_nobody_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("who,what\nx,y\n")
    with pytest.raises(InputError, match=r"columns = x\.csv: no adapter knows"):
        validate(tmp_path)


@pytest.fixture(scope="module")
def networks() -> list[Scored]:
    """Whole networks of two tasks on two devices."""
    subjects = []
    for name in DEVICES[:2]:
        device = load_device(name)
        table = measured_on(device, {}, np.random.default_rng(1), rows=120, noise=NOISE)
        task = np.where(np.arange(120) < 60, "one", "two")
        table = replace(table, family="end_to_end", task=task)
        subjects.append(Subject(device=device, runtime="test", training=False, tables=(table,)))
    return unknown_devices(subjects, {}, lambda share, text: None)


def test_whole_networks_are_scored_with_10_20_and_30_of_their_own(networks: list[Scored]) -> None:
    mine = [s for s in networks if s.subject.device.name == DEVICES[0] and s.protocol == UNKNOWN]
    assert [(s.rows_seen, len(s.table)) for s in mine] == [
        (0, 120),
        (10, 110),
        (20, 100),
        (30, 90),
    ]


def test_a_task_is_scored_by_a_fit_that_saw_50_rows_of_the_others(networks: list[Scored]) -> None:
    mine = [s for s in networks if s.subject.device.name == DEVICES[0] and s.protocol == TASK]
    assert [set(s.table.task.tolist()) for s in mine] == [{"one"}, {"two"}]  # type: ignore[union-attr]
    assert {(s.rows_seen, len(s.table)) for s in mine} == {(50, 60)}
    assert all(np.abs(s.error).mean() < 1.6 * NOISE for s in mine)


def test_rows_of_other_tasks_say_how_far_apart_tasks_are() -> None:
    """Of three tasks one is left out, and one of those given takes twice as long as the other."""
    subjects = []
    for name in DEVICES[:2]:
        device = load_device(name)
        table = measured_on(device, {}, np.random.default_rng(1), rows=150, noise=NOISE)
        task = np.array(["one", "two", "three"])[np.arange(150) % 3]
        slow = np.where(task == "two", 2.0, 1.0)
        table = replace(table, family="end_to_end", task=task, seconds=table.seconds * slow)
        subjects.append(Subject(device=device, runtime="test", training=False, tables=(table,)))
    found = unknown_devices(subjects, {}, lambda share, text: None)
    mine = {
        str(s.table.task[0]): s  # type: ignore[index]
        for s in found
        if s.subject.device.name == DEVICES[0] and s.protocol == TASK
    }
    owns = {name: s.own for name, s in mine.items()}
    assert owns["one"] is not None
    assert owns["two"] is not None
    assert np.abs(owns["one"].log_error).mean() > 0.3  # "two" and "three" miss each other
    assert np.abs(owns["two"].log_error).mean() < 2 * NOISE
    assert owns["one"].count == pytest.approx(2, rel=0.05)  # two tasks, whatever their rows
    assert owns["two"].count > 2 * owns["one"].count
    assert mine["one"].log_sd.mean() > 2 * mine["two"].log_sd.mean()


def test_rows_beside_relatives_share_no_group_with_the_given_ones(networks: list[Scored]) -> None:
    mine = [s for s in networks if s.subject.device.name == DEVICES[0] and s.protocol == RELATIVE]
    assert [s.rows_seen for s in mine] == [5, 10]
    few, more = (set(s.table.group.tolist()) for s in mine)
    assert more < few
    assert np.abs(mine[1].error).mean() < 1.6 * NOISE


def test_few_rows_of_a_device_set_the_width_of_its_intervals(networks: list[Scored]) -> None:
    widths = {(s.protocol, s.rows_seen): float(np.median(s.log_sd)) for s in networks}
    for protocol, seen in (
        (UNKNOWN, 10),
        (UNKNOWN, 20),
        (UNKNOWN, 30),
        (TASK, 50),
    ):
        assert NOISE / 2 < widths[protocol, seen] < 0.15, (protocol, seen)
    assert widths[UNKNOWN, 0] > 0.25
