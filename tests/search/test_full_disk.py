"""A disk that fills up in the middle of a search loses nothing that was told."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from told import check_none_lost_twice_or_mispaired, finished
from toy_problem import ToyQuality, toy_problem, toy_space

from dynsearch.cli import run as run_command
from dynsearch.commands.no_room import no_room
from dynsearch.search import runs
from dynsearch.search.driver import SearchOptions, SearchResult, run_search

TRIALS = 12


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def search(run: runs.Run) -> SearchResult:
    return run_search(
        run,
        space=toy_space(),
        quality=ToyQuality(),
        problem=toy_problem(),
        options=SearchOptions(trials=TRIALS, workers=0, sampler="random"),
    )


@pytest.mark.parametrize("room", [40_000, 70_000, 100_000])
def test_a_full_disk_ends_a_search_that_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, room: int
) -> None:
    run = runs.create_run(small_disk / "toy-00000000", "")
    ballast = small_disk / "ballast"
    disk = os.statvfs(small_disk)
    ballast.write_bytes(bytes(disk.f_bavail * disk.f_frsize - room))
    with pytest.raises(OSError, match="No space left") as caught:
        search(run)
    assert "no room left on the disk" in str(no_room(caught.value))
    ballast.unlink()
    runs.mend_journal(run)
    before = finished(run)
    assert search(run).passes == TRIALS
    after = finished(run)
    assert after[: len(before)] == before
    check_none_lost_twice_or_mispaired(run, TRIALS)
    straight = runs.create_run(tmp_path / "toy-11111111", "")
    search(straight)
    assert after == finished(straight)


def test_a_full_disk_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **options: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "traces/1.npz")
        except OSError as error:
            raise RuntimeError("cannot be written") from error

    monkeypatch.setattr("dynsearch.main_job.front", full)
    assert run_command(["front", "run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no room left on the disk at traces/1.npz" in line
    assert "unexpected" not in line


def test_other_errors_are_not_about_room() -> None:
    assert no_room(OSError(errno.EACCES, "Permission denied", "x")) is None
    assert no_room(ValueError("x")) is None
