"""Runs an export where this project is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch


def away_from_checkout(folder: Path, *arguments: str, given: str = "") -> str:
    """Run a fresh Python that sees installed packages but not this project (no .pth files)."""
    environment = {
        "PYTHONPATH": str(Path(torch.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=folder,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
