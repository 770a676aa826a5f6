"""What SIGINT does to a search in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from dynsearch.search import runs
from dynsearch.search.driver import SearchOptions
from dynsearch.search.study import open_storage

DRIVE = Path(__file__).parent / "drive.py"


def start(run: runs.Run, marks: Path, options: SearchOptions, sleep_s: float) -> Any:
    """A driver in a process group of its own, as a shell starts it."""
    marks.mkdir(exist_ok=True)
    quality = json.dumps({"sleep_s": sleep_s, "marks": str(marks)})
    command = [sys.executable, str(DRIVE), str(run.path), json.dumps(asdict(options)), quality]
    env = os.environ | {"PYTHONPATH": f"{DRIVE.parent}:{DRIVE.parents[2]}"}
    return subprocess.Popen(
        command, env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_passes(process: Any, marks: Path, count: int) -> None:
    """Until so many passes have begun."""
    while len(list(marks.iterdir())) < count:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)


def states(run: runs.Run) -> list[TrialState]:
    runs.mend_journal(run)
    storage = open_storage(run, "journal")
    return [t.state for t in optuna.load_study(study_name=run.study_name, storage=storage).trials]


@pytest.mark.parametrize(
    "workers", [0, pytest.param(2, marks=[pytest.mark.ray, pytest.mark.slow])]
)
def test_an_interrupt_lets_what_runs_finish_and_sums_up(tmp_path: Path, workers: int) -> None:
    run, marks = runs.create_run(tmp_path / "toy-00000000", ""), tmp_path / "marks"
    options = SearchOptions(trials=50, workers=workers, sampler="random")
    process = start(run, marks, options, sleep_s=0.4)
    wait_for_passes(process, marks, 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to workers, too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    result = json.loads(out)
    begun = len(list(marks.iterdir()))
    assert (result["stopped"], result["passes"], result["failed"]) == ("interrupted", begun, 0)
    assert result["front"] > 0
    assert states(run) == [TrialState.COMPLETE] * begun


def test_a_second_interrupt_does_not_wait_for_the_pass(tmp_path: Path) -> None:
    run, marks = runs.create_run(tmp_path / "toy-00000000", ""), tmp_path / "marks"
    options = SearchOptions(trials=50, workers=0, sampler="random")
    process = start(run, marks, options, sleep_s=5.0)
    wait_for_passes(process, marks, 2)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)  # two at once may reach a process as one
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert b"again: stop at once" in err
    assert states(run) == [TrialState.COMPLETE, TrialState.RUNNING]
