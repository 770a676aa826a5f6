"""A user's CSV: what to measure next, checks of what was measured, and its profile.

Columns: dtype, m, k, n and the time of one execution in a column that names its unit (latency_us,
latency_ms or latency_s); op, batch, heads and layers as `target.py` has them, a product where
they are absent. It is what `target.py` writes; further columns are ignored.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cost_models.calibrate.beliefs import default_prior, prior_only
from cost_models.calibrate.information import TOLD_ROWS, choose, told_by
from cost_models.calibrate.posterior import fit_rows, predict_rows
from cost_models.calibrate.shapes import measured, pool
from cost_models.calibrate.ship import FEWEST, profile_of
from cost_models.calibrate.subjects import Subject
from cost_models.calibrate.target import KEYS, MATMUL, NETWORK, OPS, Shape, shape_of
from cost_models.device import Device
from cost_models.forms import parameters_of
from cost_models.measured import Measured
from cost_models.profile import Profile
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError, Problem

log = logging.getLogger(__name__)
TIMES = {"latency_us": 1e-6, "latency_ms": 1e-3, "latency_s": 1.0}
SLIP = 100.0  # forms err by less, even before anything is measured; units differ by 1000
SIZES = Shape._fields[2:]


def next_shapes(
    device: Device,
    count: int,
    *,
    dtype: str = "fp32",
    threads: int = 1,
    ops: Sequence[str] = OPS,
    runtime: str = "",
    known: Path | None = None,
) -> list[Shape]:
    """Shapes to measure on a device, the most telling first.

    Args:
        device: Facts of the device.
        count: Shapes to choose.
        dtype: Number format.
        threads: Threads that share an execution (processor cores only).
        ops: What to choose from, of `target.OPS`.
        runtime: What will run them.
        known: CSV of what was measured already; it is not asked for again.

    Raises:
        InputError: as `read_rows`, of `known`.
    """
    shapes, names = pool(dtype, ops), tuple(parameters_of(device.kind))
    posterior = prior_only(device, default_prior(device, names))
    before: list[Measured] = []
    if known is not None:
        done = _shapes_of(known)[0]
        before = read_rows(known, device, runtime, threads=threads)
        posterior = replace(posterior, values=fit_rows(before, device, names=names).values)
        shapes = [shape for shape in shapes if shape not in done]
    tables, number = measured(
        shapes, [1.0] * len(shapes), device, runtime, "plan", threads=threads
    )
    order = choose(tables, device, posterior, count, threads=threads, known=before)
    return [shapes[i] for i in number[order]]


def plan_text(shapes: list[Shape]) -> str:
    """The plan file that `target.py` reads."""
    lines = [",".join(Shape._fields), *(",".join(str(v) for v in shape) for shape in shapes)]
    return "\n".join(lines) + "\n"


def fit_csv(path: Path, device: Device, runtime: str, *, threads: int = 1) -> Profile:
    """Profile of a device from a CSV of measurements.

    All parameters of the form are fitted: rows of single operators tell apart what whole networks
    of others cannot.

    Args:
        path: The file.
        device: Facts of the device.
        runtime: What ran them.
        threads: Threads that shared an execution (processor cores only).

    Raises:
        InputError: every fault of the file, rows in another unit than the others, or too few
            rows for any parameter. A parameter that
            fewer rows tell of stays near its prior, and a warning names it.
    """
    tables = read_rows(path, device, runtime, threads=threads)
    rows = sum(len(table) for table in tables)
    if rows < FEWEST:
        text = f"too few rows, {FEWEST} are needed at least and 20 are better; measure more"
        raise InputError.one(path, "rows", rows, text)
    names = tuple(parameters_of(device.kind))
    _, lacking = told_by(tables, device, prior_only(device, default_prior(device, names)))
    if lacking:
        log.warning(_few_told(path, lacking))
    subject = Subject(device=device, runtime=runtime, training=False, tables=tuple(tables))
    return profile_of(subject, names=names)


def _few_told(path: Path, lacking: dict[str, int]) -> str:
    """What a user is told of parameters that some rows, but too few, tell of."""
    few = ", ".join(f"{count} for {name}" for name, count in lacking.items())
    return (
        f"{path}: each parameter needs {TOLD_ROWS} rows that depend on it, there are only {few}; "
        "these stay near the form's prior: `dynsearch calibrate plan --rows` asks for more shapes"
    )


def read_rows(path: Path, device: Device, runtime: str, *, threads: int = 1) -> list[Measured]:
    """Rows of a CSV, one table for each family; arguments and errors as `fit_csv`."""
    lines, seconds = _shapes_of(path)
    shapes = list(lines)
    tables, number = measured(shapes, seconds, device, runtime, path.name, threads=threads)
    _one_unit(path, tables, device, [lines[shapes[i]] for i in number])
    return tables


def _one_unit(path: Path, tables: list[Measured], device: Device, lines: Sequence[int]) -> None:
    """Refuse rows SLIP times off beside the others, and a file SLIP times too fast for its device.

    Args:
        path: The file.
        tables: Its N rows.
        device: Facts of the device.
        lines: That of each row in the file [N].
    """
    taken = np.concatenate([table.seconds for table in tables])
    off = np.log(taken / predict_rows(tables, device))
    middle = float(np.median(off))
    if middle < -np.log(SLIP):
        text = (
            f"the median row {_times(middle)} what the device could do by its file; give the "
            "unit in the column's name, or correct the peak in the device file"
        )
        raise InputError.one(path, "latency", f"{np.median(taken):.3g} s", text)
    problems = [
        Problem(
            f"{path}:{lines[i]}",
            "latency",
            f"{taken[i]:.3g} s",
            f"{_times(off[i] - middle)} what the other rows lead to expect; is it in another unit "
            "than they are? correct or drop it",
        )
        for i in np.flatnonzero(np.abs(off - middle) > np.log(SLIP)).tolist()
    ]
    if problems:
        raise InputError(problems)


def _times(log_ratio: float) -> str:
    size = float(np.exp(abs(log_ratio)))
    return f"is 1/{size:.0f} of" if log_ratio < 0 else f"is {size:.0f} times"


def _shapes_of(path: Path) -> tuple[dict[Shape, int], list[float]]:
    """Shapes of a CSV with their lines, and their seconds.

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
            problems.append(Problem(f"{path}:{line}", "dtype,m,k,n", _told(shape), text))
            continue
        seen[shape] = line
        seconds.append(taken * TIMES[time])
    if problems:
        raise InputError(problems)
    if not seen:
        raise InputError.one(path, "rows", 0, "there is nothing to fit; measure a plan first")
    return seen, seconds


def _told(shape: Shape) -> str:
    return " ".join(str(v) for v in shape)


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
    for key in (*SIZES, time):
        text = row.get(key) or ("" if key in (*KEYS, time) else "1")
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
    op = row.get("op") or MATMUL
    if op not in OPS:
        problems.append(Problem(place, "op", op, f"must be one of {', '.join(OPS)}"))
    if op == NETWORK and found["heads"] > 0 and found["k"] % found["heads"]:
        text = f"must divide k = {found['k']:g}, the width of a layer"
        problems.append(Problem(place, "heads", f"{found['heads']:g}", text))
    if len(problems) > before:
        return None, 0.0
    whole_row = row | {key: str(int(found[key])) for key in SIZES}
    return shape_of(whole_row), found[time]
