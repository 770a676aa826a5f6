"""What `dynsearch doctor` checks: whether this machine can search, and how far to trust it.

Every check is a reading (what was found) and a pure judgement of it: a row of check, state (ok,
warn, fail), found, advice. A reading that the system does not give is a warning, never an error.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cost_models.calibrate.host import processor, usable_cores
from cost_models.device import OutdatedProfileError, load_device
from dynsearch.commands.devices import local_file
from dynsearch.errors import DynsearchError, InputError
from dynsearch.formats import HIDDEN, formats_that_pay, time_formats
from dynsearch.quality import data
from search_spaces.errors import Problem

OK, WARN, FAIL = "ok", "warn", "fail"
GIB = 2.0**30
# Largest sum over all processes while the shipped job ran on 2 cores: 3.8 GiB; a supernet, its
# traces and a report take 0.2 GiB. See CHANGELOG.md.
MEMORY_NEEDED, DISK_NEEDED = 4.0 * GIB, 1.0 * GIB
NOISE_S, NOISE_CALL_S = 2.5, 0.005
NOISE_WARN = 0.10  # half the distance between quartiles, as a share of the median
STALE_DAYS = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the diagnosis."""

    check: str
    state: str  # ok, warn or fail
    found: str
    advice: str = ""


def doctor(out: Path = Path("runs/out")) -> dict[str, Any]:
    """All checks, in the order in which a search would meet their causes.

    Args:
        out: Folder that runs go to; its file system must have room.

    Returns:
        `checks`: rows; `status`: "failed" where one of them fails, else "done".
    """
    rows = [
        judge_python(sys.version_info[:3]),
        *judge_packages(read_packages()),
        judge_cores(usable_cores(), cpu_quota(), load_average()),
        judge_threads(os.environ.get("OMP_NUM_THREADS"), usable_cores()),
        judge_room("memory", available_memory(), MEMORY_NEEDED, "close other programs"),
        judge_room("disk for runs", free_disk(out), DISK_NEEDED, "free some, or give --out"),
        judge_room(
            "disk for the cache",
            free_disk(local_file().parent),
            DISK_NEEDED,
            "free some, or set DYNSEARCH_CACHE",
        ),
        judge_formats(time_formats()),
        judge_gpu(read_gpus()),
        judge_ray(try_ray),
        judge_demo(missing_demo()),
        judge_profile(),
        judge_noise(time_noise()),
    ]
    failed = any(row.state == FAIL for row in rows)
    return {"checks": [asdict(row) for row in rows], "status": "failed" if failed else "done"}


def judge_python(version: tuple[int, ...]) -> Row:
    """Python 3.11 or newer."""
    found = f"{'.'.join(map(str, version))} on {platform.system()} {platform.machine()}"
    if version < (3, 11):
        return Row(check="Python", state=FAIL, found=found, advice="install Python 3.11 or newer")
    return Row(check="Python", state=OK, found=found)


def read_packages() -> dict[str, tuple[str | None, str]]:
    """Installed version (None: missing) and requirement of what dynsearch declares, by name."""
    from packaging.requirements import Requirement

    found: dict[str, tuple[str | None, str]] = {}
    for text in importlib.metadata.requires("dynsearch") or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version: str | None = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        found[needed.name] = (version, str(needed.specifier))
    return found


def judge_packages(found: dict[str, tuple[str | None, str]]) -> list[Row]:
    """One row when all are there, else one a package that is missing or of a wrong version."""
    from packaging.specifiers import SpecifierSet

    rows = []
    for name, (version, needed) in sorted(found.items()):
        if version is not None and SpecifierSet(needed).contains(version, prereleases=True):
            continue
        text = f"{name} {version or 'missing'}"
        line = "pip install -c requirements/constraints.txt -e ."
        rows.append(
            Row(check="packages", state=FAIL, found=text, advice=f"needs {needed}; {line}")
        )
    if rows:
        return rows
    shown = ("torch", "optuna", "ray", "numpy")
    text = ", ".join(f"{n} {found[n][0]}" for n in shown if n in found)
    return [Row(check="packages", state=OK, found=text)]


def cpu_quota() -> float | None:
    """Cores that a container may use on average (cgroup); None where there is no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else float(limit) / float(period)
    except (OSError, ValueError):
        return None


def load_average() -> float | None:
    """Processes that ran or waited in the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def judge_cores(cores: int, quota: float | None, load: float | None) -> Row:
    """Cores that are there, allowed and idle."""
    found = f"{processor()}, {cores} cores"
    if quota is not None and quota < cores:
        found += f", of which the container may use {quota:g}"
        advice = f"set [search] workers = {max(1, int(quota))}: more would only wait"
        return Row(check="processor", state=WARN, found=found, advice=advice)
    if load is None:
        return Row(check="processor", state=WARN, found=f"{found}, load unknown")
    found += f", load {load:.1f}"
    if load > 0.5 * cores:
        advice = "other programs are running: calibrate and bench when the machine is quiet"
        return Row(check="processor", state=WARN, found=found, advice=advice)
    return Row(check="processor", state=OK, found=found)


def judge_threads(setting: str | None, cores: int) -> Row:
    """OMP_NUM_THREADS, which torch obeys."""
    if setting is None:
        return Row(check="threads", state=OK, found="OMP_NUM_THREADS not set: jobs decide")
    text = f"OMP_NUM_THREADS = {setting}"
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", setting):
        return Row(check="threads", state=FAIL, found=text, advice="unset it or give a number")
    if int(setting.split(",")[0]) > cores:
        advice = f"more than the {cores} cores: threads would wait for each other; unset it"
        return Row(check="threads", state=WARN, found=text, advice=advice)
    return Row(check="threads", state=OK, found=text)


def available_memory(path: Path = Path("/proc/meminfo")) -> float | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", path.read_text(), flags=re.MULTILINE)
    except OSError:
        return None
    return float(match.group(1)) * 1024 if match else None


def free_disk(folder: Path) -> float | None:
    """Free bytes on the file system that holds `folder`, or its nearest existing parent."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return float(shutil.disk_usage(place).free)
    except OSError:
        return None


def judge_room(check: str, free: float | None, needed: float, way_out: str) -> Row:
    """Bytes that are free against bytes that the shipped job needs."""
    if free is None:
        return Row(
            check=check, state=WARN, found="unknown", advice=f"needs {needed / GIB:.0f} GiB"
        )
    found = f"{free / GIB:.1f} GiB free, the shipped job needs up to {needed / GIB:.0f}"
    if free < needed:
        return Row(check=check, state=WARN, found=found, advice=way_out)
    return Row(check=check, state=OK, found=found)


def judge_formats(ratios: dict[str, dict[int, float]]) -> Row:
    """Which number formats pay here."""
    parts = [
        f"{name} " + ", ".join(f"{r:.2f}x at {m} rows" for m, r in of.items())
        for name, of in ratios.items()
    ]
    text = "; ".join(parts) + " (time over fp32's)"
    paying = formats_that_pay(ratios)
    slow = [name for name in ratios if name not in paying]
    if slow:
        left = json.dumps(paying)
        advice = f"slow here: {', '.join(slow)}; leave it out: [space] dtype = {left}"
        return Row(check="number formats", state=WARN, found=text, advice=advice)
    return Row(check="number formats", state=OK, found=text)


def read_gpus() -> list[str]:
    """Names of the GPUs that torch finds."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def judge_gpu(names: list[str]) -> Row:
    """Whether a GPU could train and record; none is needed."""
    if not names:
        return Row(check="GPU", state=OK, found="none that torch finds; processors do the work")
    advice = "[search] gpu_share = 0.25 trains on it and lets four workers share it"
    return Row(check="GPU", state=OK, found=", ".join(names), advice=advice)


def try_ray() -> float:
    """Seconds that a Ray of its own takes to start and to run one task, as a search does.

    Raises:
        Exception: whatever Ray raises.
    """
    from dynsearch.search.remote import open_ray

    start = time.perf_counter()
    with open_ray(1):
        import ray

        answer: Any = ray.remote(num_cpus=1)(_double).remote(21)
        if ray.get(answer, timeout=120) != 42:
            raise DynsearchError("a task gave a wrong answer")
    return time.perf_counter() - start


def _double(x: int) -> int:
    return 2 * x


def judge_ray(attempt: Callable[[], float]) -> Row:
    """Whether a task comes back."""
    try:
        seconds = attempt()
    except Exception as error:  # whatever it is, it is what a search would meet
        lines = str(error).strip().splitlines() or [""]
        text = f"{type(error).__name__}: {lines[0]}"[:200]
        advice = "a search starts it: try again when the machine is idle, else reinstall ray"
        return Row(check="Ray", state=FAIL, found=text, advice=advice)
    return Row(check="Ray", state=OK, found=f"started and ran a task in {seconds:.1f} s")


def missing_demo() -> list[str]:
    """Packages of the shipped jobs that are not installed."""
    missing = []
    for package in (*data.DEMO_MODELS, *data.DEMO_DATA):
        try:
            data.package_folder(package)
        except InputError:
            missing.append(package)
    return missing


def judge_demo(missing: list[str]) -> Row:
    """Model and texts of the shipped jobs; one's own data need neither."""
    if missing:
        found = f"not installed: {', '.join(missing)}"
        return Row(check="demo packages", state=WARN, found=found, advice=data.DEMO_INSTALL)
    return Row(check="demo packages", state=OK, found="installed")


def judge_profile() -> Row:
    """The calibrated profile of this machine: there, readable, of this processor, not old."""
    file, check = local_file(), "calibration"
    if not file.is_file():
        found = "none yet; a search calibrates first, in about 100 s"
        return Row(check=check, state=OK, found=found)
    try:
        profile = load_device(file).profile
    except OutdatedProfileError:
        found = "of an earlier version; a search calibrates again, in about 100 s"
        return Row(check=check, state=OK, found=found)
    except InputError as error:
        problem: Problem = error.problems[0]
        advice = f"delete it or run: dynsearch calibrate ({problem.message})"
        return Row(check=check, state=FAIL, found=f"{file} is damaged", advice=advice)
    if profile is None:
        advice = "run: dynsearch calibrate"
        return Row(check=check, state=WARN, found=f"{file} holds no profile", advice=advice)
    days = (time.time() - file.stat().st_mtime) / 86400
    found = f"{profile.name}, {days:.0f} days old, {100 * profile.mape:.1f} % error left out"
    if profile.machine and profile.machine != processor():
        advice = f"it was made on {profile.machine}; run: dynsearch calibrate"
        return Row(check=check, state=FAIL, found=found, advice=advice)
    if days > STALE_DAYS:
        return Row(check=check, state=WARN, found=found, advice="run: dynsearch calibrate")
    return Row(check=check, state=OK, found=found)


def time_noise() -> list[float]:
    """Seconds of a fixed piece of work of about 5 ms, again and again on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.ones(HIDDEN, HIDDEN)
        start = time.perf_counter()
        torch.mm(x, x)
        start = time.perf_counter()
        torch.mm(x, x)
        calls = max(1, round(NOISE_CALL_S / max(time.perf_counter() - start, 1e-6)))
        spent: list[float] = []
        end = time.perf_counter() + NOISE_S
        while time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(calls):
                torch.mm(x, x)
            spent.append(time.perf_counter() - start)
        return spent
    finally:
        torch.set_num_threads(before)


def judge_noise(seconds: list[float]) -> Row:
    """How far repeated timings of the same work lie apart."""
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    worst = float(np.quantile(seconds, 0.95))
    spread = float((high - low) / 2 / middle)
    found = (
        f"the same work {len(seconds)} times: half of them within {100 * spread:.1f} % of the "
        f"median, one in twenty above {worst / middle:.2f}x"
    )
    if spread > NOISE_WARN:
        advice = f"timed figures will wander by about {100 * spread:.0f} %: close other programs"
        return Row(check="timing noise", state=WARN, found=found, advice=advice)
    return Row(check="timing noise", state=OK, found=found)
