"""Work in a process of its own."""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dynsearch.quality.apart import keep_freed_memory, run_apart

BYTES = 64 << 20
PAGE = 4096


def count_faults(progress: Callable[[float, str], None], file: Path, keep: bool) -> None:
    """Page faults of asking for the same memory a second time."""
    if keep:
        keep_freed_memory()
    np.full(BYTES, 1, dtype=np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(BYTES, 1, dtype=np.uint8)
    file.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt belongs to glibc")
def test_memory_that_is_kept_costs_no_page_faults_when_it_is_asked_for_again(tmp_path):
    faults = {}
    for keep in (False, True):
        run_apart(count_faults, tmp_path / "faults", keep)
        faults[keep] = int((tmp_path / "faults").read_text())
    assert faults[True] < 0.01 * BYTES / PAGE
    assert faults[False] > 10 * faults[True]
