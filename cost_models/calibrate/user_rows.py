"""A user's CSV of matmuls: which to measure next, checks of what was measured, and its profile.

Columns: dtype, m, k, n and the time of one product in a column that names its unit (latency_us,
latency_ms or latency_s). It is what `target.py` writes; further columns are ignored.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cost_models.adapters.gpu_gemm import matmuls
from cost_models.calibrate.beliefs import default_prior, prior_only
from cost_models.calibrate.information import choose, require_enough
from cost_models.calibrate.ship import FEWEST, profile_of
from cost_models.calibrate.subjects import Subject
from cost_models.device import Device
from cost_models.measured import Measured
from cost_models.profile import Profile
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError, Problem

KEYS = ("dtype", "m", "k", "n")
TIMES = {"latency_us": 1e-6, "latency_ms": 1e-3, "latency_s": 1.0}
ROWS = (1, 4, 16, 64, 256, 1024)
WIDTHS = (256, 512, 1024, 2048, 4096)

Shape = tuple[str, int, int, int]


def next_shapes(
    device: Device, count: int, *, dtype: str = "fp32", threads: int = 1
) -> list[Shape]:
    """Shapes to measure on a device, the most telling first.

    Args:
        device: Facts of the device.
        count: Shapes to choose.
        dtype: Number format.
        threads: Threads that share a product (processor cores only).
    """
    pool: list[Shape] = [(dtype, m, k, n) for m in ROWS for k in WIDTHS for n in WIDTHS]
    measured = _measured(pool, [1.0] * len(pool), device, "", "plan")
    order = choose([measured], device, prior_only(device), count, threads=threads)
    return [pool[i] for i in order]


def plan_text(shapes: list[Shape]) -> str:
    """The plan file that `target.py` reads."""
    lines = [",".join(KEYS), *(",".join(str(v) for v in shape) for shape in shapes)]
    return "\n".join(lines) + "\n"


def fit_csv(path: Path, device: Device, runtime: str) -> Profile:
    """Profile of a device from a CSV of measured products.

    Args:
        path: The file.
        device: Facts of the device.
        runtime: What ran them.

    Raises:
        InputError: every fault of the file, or too few rows for the parameters.
    """
    measured = read_rows(path, device, runtime)
    if len(measured) < FEWEST:
        text = f"too few rows, {FEWEST} are needed at least and 20 are better; measure more"
        raise InputError.one(path, "rows", len(measured), text)
    require_enough([measured], device, prior_only(device, default_prior(device)))
    subject = Subject(device=device, runtime=runtime, training=False, tables=(measured,))
    return profile_of(subject)


def read_rows(path: Path, device: Device, runtime: str) -> Measured:
    """Rows of a CSV of matmuls.

    Raises:
        InputError: no such file, missing columns, several or no units of time, numbers that are
            not above 0, unknown formats, repeated shapes; all of them at once.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError.one(path, "", None, f"cannot be read: {error}") from None
    time = _time_column(path, header)
    problems: list[Problem] = []
    seen: dict[Shape, int] = {}
    seconds: list[float] = []
    for line, row in enumerate(rows, start=2):
        shape, taken = _parsed(row, time, f"{path}:{line}", problems)
        if shape is None:
            continue
        if shape in seen:
            text = f"the same shape as line {seen[shape]}; keep one, the median of both"
            problems.append(Problem(f"{path}:{line}", "dtype,m,k,n", str(shape), text))
            continue
        seen[shape] = line
        seconds.append(taken * TIMES[time])
    if problems:
        raise InputError(problems)
    if not seen:
        raise InputError.one(path, "rows", 0, "there is nothing to fit; measure a plan first")
    return _measured(list(seen), seconds, device, runtime, str(path.name))


def _time_column(path: Path, header: list[str]) -> str:
    problems = [
        Problem(str(path), name, "", f"column is missing; there are {', '.join(header) or 'none'}")
        for name in KEYS
        if name not in header
    ]
    times = [name for name in header if name.startswith(("latency", "time"))]
    known = [name for name in times if name in TIMES]
    if len(known) != 1 or len(times) != 1:
        text = f"give the time in one column with one unit: {' or '.join(TIMES)}"
        problems.append(Problem(str(path), "latency", ", ".join(times), text))
    if problems:
        raise InputError(problems)
    return known[0]


def _parsed(
    row: dict[str, str], time: str, place: str, problems: list[Problem]
) -> tuple[Shape | None, float]:
    before = len(problems)
    found: dict[str, float] = {}
    for key in ("m", "k", "n", time):
        text = row.get(key) or ""
        try:
            found[key] = float(text)
        except ValueError:
            found[key] = 0.0
        whole = key == time or found[key] % 1 == 0
        if not (np.isfinite(found[key]) and found[key] > 0 and whole):
            rule = "must be a number above 0" if key == time else "must be a whole number above 0"
            advice = f"{rule}, in the unit of the column's name alone; drop the row"
            problems.append(Problem(place, key, text, advice))
    if row.get("dtype") not in DTYPES:
        problems.append(
            Problem(place, "dtype", str(row.get("dtype")), f"must be one of {', '.join(DTYPES)}")
        )
    if len(problems) > before:
        return None, 0.0
    return (row["dtype"], int(found["m"]), int(found["k"]), int(found["n"])), found[time]


def _measured(
    shapes: list[Shape], seconds: list[float], device: Device, runtime: str, source: str
) -> Measured:
    m, k, n = (np.array([shape[i] for shape in shapes], dtype=np.int64) for i in (1, 2, 3))
    dtype = np.array([DTYPES.index(shape[0]) for shape in shapes], dtype=np.int64)
    return Measured(
        source=source,
        device=device.name,
        runtime=runtime,
        family="matmul",
        ops=matmuls(m, n, k, dtype),
        seconds=np.array(seconds, dtype=np.float64),
        calls=np.zeros(len(shapes)),
        group=np.array([f"{shape[0]} {shape[2]}x{shape[3]}" for shape in shapes]),
        weight_is_cached=True,
        peer_s={},
    )
