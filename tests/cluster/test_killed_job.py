"""A job in one process, killed at random points, ends where an undisturbed one does."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_job import comparable, passes_told, write_large_job
from told import finished

from dynsearch.cli import run
from dynsearch.search import runs

ROOT = Path(__file__).parents[2]
KILLS, TRIALS = 5, 30


def search(home: Path, out: Path) -> list[str]:
    words = ["search", str(home / "large.toml"), "--out", str(out)]
    return [*words, "--workers", "1", "--trials", str(TRIALS), "-q"]


def opened(out: Path) -> tuple[runs.Run, dict[str, Any]]:
    (folder,) = out.glob("tiny-*")
    return runs.open_run(folder), json.loads((folder / "front.json").read_text())


@pytest.mark.slow
def test_a_job_killed_at_five_random_points_ends_where_an_undisturbed_one_does(
    tmp_path: Path,
) -> None:
    write_large_job(tmp_path)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(search(tmp_path, whole)) == 0
    rng = random.Random(11)
    command = [sys.executable, "-m", "dynsearch.cli", *search(tmp_path, cut)]
    for _ in range(KILLS):
        wanted = passes_told(cut) + rng.randint(1, 3)
        with subprocess.Popen(command, cwd=ROOT) as process:
            while passes_told(cut) < wanted and process.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.15)
            process.send_signal(signal.SIGKILL)
    subprocess.run(command, cwd=ROOT, check=True)
    undisturbed, front = opened(whole)
    killed, again = opened(cut)
    assert finished(killed) == finished(undisturbed)
    assert comparable(again) == comparable(front)
