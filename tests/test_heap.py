"""Memory that was freed, and who has it."""

from __future__ import annotations

import json
import mmap
import platform
import resource
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from cost_models.calibrate import measure
from dynsearch.bench_timing import quiet_machine
from dynsearch.heap import give_freed_memory_back, keep_freed_memory
from dynsearch.quality.apart import Work, run_apart

BYTES = 64 << 20
PAGE = mmap.PAGESIZE
PIECE = 100_000  # below what glibc maps by itself

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="mallopt and malloc_trim belong to glibc"
)


def count_faults(progress: Callable[[float, str], None], file: Path, keep: bool) -> None:
    """Page faults of asking for the same memory a second time."""
    if keep:
        keep_freed_memory()
    np.full(BYTES, 1, dtype=np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(BYTES, 1, dtype=np.uint8)
    file.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))


def counted(file: Path, work: Work, *options: bool) -> int:
    """What `work` counts in a process of its own."""
    run_apart(work, file, *options)
    return int(file.read_text())


def test_memory_that_is_kept_costs_no_page_faults_when_it_is_asked_for_again(tmp_path):
    faults = {keep: counted(tmp_path / "faults", count_faults, keep) for keep in (False, True)}
    assert faults[True] < 0.01 * BYTES / PAGE
    assert faults[False] > 10 * faults[True]


def test_an_environment_that_says_what_becomes_of_freed_memory_is_heard(tmp_path, monkeypatch):
    kept = counted(tmp_path / "faults", count_faults, True)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", str(BYTES // 4))
    given = counted(tmp_path / "faults", count_faults, True)
    assert given > 10 * kept  # of huge pages, where there are such, there are few


def faults_of_blocks(progress: Callable[[float, str], None], file: Path, quiet: bool) -> None:
    """Page faults of memory asked for a second time by what is timed."""
    with quiet_machine(1) if quiet else nullcontext():
        count_faults(progress, file, False)


def test_what_is_timed_keeps_memory_that_it_frees(tmp_path):
    faults = {q: counted(tmp_path / "faults", faults_of_blocks, q) for q in (False, True)}
    assert faults[True] < 0.01 * BYTES / PAGE
    assert faults[False] > 10 * faults[True]


def faults_of_measuring(progress: Callable[[float, str], None], file: Path) -> None:
    """Page faults of memory asked for a second time in a process that measures operators."""
    plan = file.with_name("plan.json")
    item = {"id": 0, "op": "gelu", "dtype": "fp32", "m": 8, "n": 8}
    plan.write_text(json.dumps({"items": [item]}))
    measure.main([str(plan), str(file.with_name("rows.jsonl")), "--seconds", "0"])
    count_faults(progress, file, False)


def test_operators_are_measured_as_networks_are_timed(tmp_path, monkeypatch):
    measured = counted(tmp_path / "faults", faults_of_measuring)
    assert counted(tmp_path / "faults", count_faults, False) > 10 * measured
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", str(BYTES // 4))
    assert counted(tmp_path / "faults", faults_of_measuring) > 10 * measured


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def holes() -> list[np.ndarray]:
    """A few small arrays between which many were freed."""
    pieces = [np.full(PIECE, 1, dtype=np.uint8) for _ in range(2 * BYTES // PIECE)]
    return pieces[::16]


def drop_of(progress: Callable[[float, str], None], file: Path, give: bool) -> None:
    """How much memory is gone after many arrays were freed between others."""
    before = resident()
    kept = holes()
    if give:
        give_freed_memory_back()
    file.write_text(str(resident() - before))
    assert kept


def test_memory_given_back_is_gone_though_it_lay_between_arrays_that_stay(tmp_path):
    grown = {give: counted(tmp_path / "drop", drop_of, give) for give in (False, True)}
    assert grown[False] > 1.5 * BYTES
    assert grown[True] < 0.5 * BYTES
