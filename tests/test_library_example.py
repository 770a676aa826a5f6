from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dynsearch

ROOT = Path(__file__).parent.parent


def test_the_example_of_the_library_call_prints_a_front_within_its_budgets() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "library_call.py")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    lines = done.stdout.splitlines()
    assert len(lines) > 3
    assert all("'experts': 8" not in line and "'keep': 1.0" not in line for line in lines)
    errors = [float(line.split()[1].rstrip(",")) for line in lines]
    assert errors == sorted(errors)


def test_every_name_of_the_package_loads_and_no_other_does() -> None:
    assert all(getattr(dynsearch, name) is not None for name in dynsearch.__all__)
    assert not hasattr(dynsearch, "optimise")
