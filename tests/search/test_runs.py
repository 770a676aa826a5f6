from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from dynsearch.errors import InputError
from dynsearch.search import runs


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return runs.create_run(tmp_path / "demo-0123abcd", 'name = "demo"\n')


def test_a_folder_is_named_by_job_and_eight_digits(tmp_path: Path) -> None:
    folder = runs.run_folder(tmp_path, "demo", "0123abcd" + "f" * 56)
    assert folder == tmp_path / "demo-0123abcd"


def test_a_new_run_holds_job_and_versions_and_nothing_half_done(run: runs.Run) -> None:
    assert run.job_file.read_text() == 'name = "demo"\n'
    record = json.loads((run.path / "environment.json").read_text())
    assert record["schema_version"] == 1
    assert record["packages"]["optuna"].startswith("5.")
    assert [p.name for p in run.path.parent.iterdir()] == [run.path.name]


def test_no_file_of_a_new_run_names_the_folder_it_lies_in(run: runs.Run) -> None:
    for file in run.path.rglob("*"):
        if file.is_file():
            assert str(run.path.parent) not in file.read_text()


def test_a_moved_run_keeps_its_study(run: runs.Run, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(run.path, moved)
    assert runs.open_run(moved).study_name == run.study_name == "demo-0123abcd"


def test_creating_twice_opens_the_first(run: runs.Run) -> None:
    run.log.write_text("{}\n")
    again = runs.create_run(run.path, "other")
    assert again == run
    assert again.log.exists()
    assert again.job_file.read_text() == 'name = "demo"\n'


def test_fresh_starts_with_an_empty_run(run: runs.Run) -> None:
    run.log.write_text("{}\n")
    again = runs.create_run(run.path, "other", fresh=True)
    assert not again.log.exists()
    assert again.job_file.read_text() == "other"


def test_fresh_does_not_delete_a_run_that_a_driver_holds(run: runs.Run) -> None:
    with (
        runs.lock(run.lock_file),
        pytest.raises(InputError, match=f"pid {os.getpid()} on "),
    ):
        runs.create_run(run.path, "other", fresh=True)
    assert run.job_file.exists()


@pytest.mark.parametrize("name", ["job.toml", "environment.json", "traces", "fronts"])
def test_a_half_written_run_is_refused_by_name_of_what_is_missing(
    run: runs.Run, name: str
) -> None:
    victim = run.path / name
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    with pytest.raises(InputError, match="half-written") as caught:
        runs.open_run(run.path)
    assert [p.key for p in caught.value.problems] == [name]


def test_a_missing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        runs.open_run(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 2, "study": "x"}', "newer schema"),
        ('{"schema_version": 1', "damaged"),
        ("[]", "damaged"),
    ],
)
def test_an_unreadable_run_is_refused(run: runs.Run, text: str, message: str) -> None:
    (run.path / "environment.json").write_text(text)
    with pytest.raises(InputError, match=message):
        runs.open_run(run.path)


def test_a_second_driver_is_told_who_holds_the_run(run: runs.Run) -> None:
    with (
        runs.lock(run.lock_file),
        pytest.raises(InputError, match=f"pid {os.getpid()} on .*another driver"),
        runs.lock(run.lock_file),
    ):
        pass


def test_a_lock_ends_with_the_process_that_held_it(run: runs.Run) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dynsearch.search import runs\n"
        "with runs.lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(run.lock_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(InputError, match=f"pid {process.pid} on "), runs.lock(run.lock_file):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with runs.lock(run.lock_file):
        pass


def test_mending_removes_a_torn_last_line_and_a_leftover_lock(run: runs.Run) -> None:
    study = JournalStorage(JournalFileBackend(str(run.journal)))
    study.create_new_study([], "s")
    whole = run.journal.read_bytes()
    run.journal.write_bytes(whole + b'{"op_code": 2, "wor')
    (run.path / "study.journal.lock").symlink_to("gone")
    runs.mend_journal(run)
    assert run.journal.read_bytes() == whole
    assert not (run.path / "study.journal.lock").is_symlink()


def test_mending_leaves_a_whole_journal_alone(run: runs.Run) -> None:
    runs.mend_journal(run)
    assert not run.journal.exists()
    run.journal.write_bytes(b"a\nb\n")
    runs.mend_journal(run)
    assert run.journal.read_bytes() == b"a\nb\n"


def test_the_log_holds_one_object_a_line(run: runs.Run) -> None:
    runs.append_log(run, {"a": 1})
    runs.append_log(run, {"a": 2})
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert lines == [{"schema_version": 1, "a": 1}, {"schema_version": 1, "a": 2}]
