"""A library call whose process is killed goes on as if it had not been."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drive_call import call

DRIVE = Path(__file__).parent / "drive_call.py"
KILLS = 5


def start(url: str, marks: Path, trials: int) -> subprocess.Popen[bytes]:
    path = {"PYTHONPATH": f"{DRIVE.parent}:{DRIVE.parents[2]}"}
    command = [sys.executable, str(DRIVE), url, str(marks), str(trials)]
    return subprocess.Popen(command, env=os.environ | path, stdout=subprocess.PIPE)


@pytest.mark.slow
def test_a_call_killed_at_five_random_points_evaluates_what_an_undisturbed_one_does(
    tmp_path: Path,
) -> None:
    url, marks, trials, rng = (
        f"sqlite:///{tmp_path}/study.db",
        tmp_path / "marks",
        24,
        random.Random(3),
    )
    marks.mkdir()
    for _ in range(KILLS):
        wanted = len(list(marks.iterdir())) + rng.randint(1, 3)
        with start(url, marks, trials) as process:
            while len(list(marks.iterdir())) < wanted and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.random() * 0.2)
            process.kill()
    with start(url, marks, trials) as process:
        found = json.loads(process.communicate()[0])
    assert found == json.loads(json.dumps(call(None, trials)))
    assert trials <= len(list(marks.iterdir())) <= trials + KILLS  # one is under way at a time
