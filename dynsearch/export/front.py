"""The front of a search as JSON, CSV and one TOML per configuration; reading it back.

Records are in `records.py`, the columns of the table in `table.py`. All writes are atomic.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dynsearch.export.files import write_atomic
from dynsearch.export.records import (
    FIDELITIES,
    LOSS_LEVELS,
    Confirmed,
    Front,
    FrontPoint,
    FullCost,
    HypervolumeStep,
    Measured,
    Predicted,
    Reference,
    Selected,
    family_of,
    mark_named,
)
from dynsearch.export.table import CSV_COLUMNS, write_front_csv
from dynsearch.risk.certificate import void_reasons
from search_spaces import codec
from search_spaces.errors import InputError, Problem

__all__ = [
    "BENCH_FILE",
    "CSV_COLUMNS",
    "FIDELITIES",
    "FRONT_FILE",
    "LOSS_LEVELS",
    "Confirmed",
    "Front",
    "FrontPoint",
    "FullCost",
    "HypervolumeStep",
    "Measured",
    "Predicted",
    "Reference",
    "Selected",
    "family_of",
    "mark_named",
    "read_front",
    "read_json",
    "with_measurements",
    "write_front_csv",
    "write_front_json",
    "write_front_toml",
]

SCHEMA_VERSION = 1
FRONT_FILE = "front.json"
BENCH_FILE = "bench.json"
logger = logging.getLogger(__name__)
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


def write_front_json(front: Front, run_dir: Path) -> Path:
    """Write `front.json` into the run folder.

    Raises:
        ValueError: when a figure is not finite (JSON has no such number).
    """
    data = {"schema_version": SCHEMA_VERSION, **asdict(front)}
    text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False)
    return write_atomic(run_dir / FRONT_FILE, text + "\n")


def read_front(run_dir: Path) -> Front:
    """The front of a run folder, with the figures of `bench.json` laid over it when present.

    A certificate that does not fit its configuration is void: it is left out, with a warning.

    Raises:
        InputError: when the folder or file is missing, half-written, of a newer schema or does
            not fit the schema; every misfit is listed.
    """
    if not run_dir.is_dir():
        raise InputError.one(
            run_dir, "", None, "no such run folder; `dynsearch search JOB.toml` makes one"
        )
    path = run_dir / FRONT_FILE
    front = _front_from(
        read_json(path, "the search has left no front yet; `dynsearch resume RUN` finishes it"),
        path,
    )
    front = replace(front, front=tuple(_with_valid(front, p, path) for p in front.front))
    if (run_dir / BENCH_FILE).exists():
        return with_measurements(front, read_json(run_dir / BENCH_FILE, ""))
    return front


def read_json(path: Path, when_missing: str) -> dict[str, Any]:
    """One of a run's JSON objects.

    Raises:
        InputError: when it is missing, not a JSON object, or of a newer schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise InputError.one(path, "", None, when_missing) from None
    except ValueError as error:
        raise InputError.one(
            path, "", None, f"not complete JSON ({error}); `dynsearch resume` writes it again"
        ) from None
    if not isinstance(data, dict):
        raise InputError.one(path, "", type(data).__name__, "must hold one JSON object")
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError.one(path, "schema_version", version, f"must be {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise InputError.one(
            path,
            "schema_version",
            version,
            f"written by a newer dynsearch; this one reads up to {SCHEMA_VERSION}: upgrade it",
        )
    return data


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def with_measurements(front: Front, bench: Mapping[str, Any]) -> Front:
    """The front with `measured` filled from the bench rows of the job's own workload."""
    batch = front.workload.get("batch", 1)
    rows = {
        row["id"]: row
        for row in bench.get("rows", ())
        if row.get("batch") == batch and row.get("measured_s") is not None
    }

    def overlay(p: FrontPoint) -> FrontPoint:
        row = rows.get(p.id)
        if row is None or p.device != bench.get("device"):
            return p
        measured = Measured(
            latency_mean_s=row["measured_s"],
            time_per_sample_s=row["time_per_sample_s"],
            runtime=row["runtime"],
            threads=row["threads"],
            batch=row["batch"],
            n=bench["timed_rows"],
            repeats=bench["repeats"],
        )
        return replace(p, measured=measured, fidelity="measured")

    return replace(front, front=tuple(overlay(p) for p in front.front))


def write_front_toml(front: Front, out: Path) -> tuple[Path, ...]:
    """One TOML per configuration, named after its id, with its figures as comments on top."""
    by_id: dict[str, list[FrontPoint]] = {}
    for p in front.front:
        by_id.setdefault(p.id, []).append(p)
    return tuple(
        write_atomic(
            out / f"{key}.toml",
            _toml_header(front, points)
            + codec.to_toml(codec.candidate_from_dict(points[0].candidate)),
        )
        for key, points in by_id.items()
    )


def _front_from(data: Mapping[str, Any], path: Path) -> Front:
    """The records in `data`; every misfit is one problem of a single InputError."""
    from pydantic import TypeAdapter, ValidationError

    try:
        front = TypeAdapter(Front).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise InputError(
            Problem(
                str(path),
                ".".join(str(part) for part in e["loc"]),
                "" if e["type"] == "missing" else repr(e["input"])[:80],
                f"{e['msg']}; `dynsearch resume RUN` writes the file again",
            )
            for e in error.errors(include_url=False)
        ) from None
    problems = list(_misfits(front, str(path)))
    if problems:
        raise InputError(problems)
    return front


def _with_valid(front: Front, p: FrontPoint, path: Path) -> FrontPoint:
    """The point, without a certificate that does not apply to it."""
    if p.certificate is None:
        return p
    reasons = void_reasons(
        p.certificate,
        candidate=codec.candidate_from_dict(p.candidate),
        max_len=front.workload.get("max_len"),
    )
    if not reasons:
        return p
    logger.warning("%s: the certificate of %s is void: %s", path, p.id, "; ".join(reasons))
    fidelity = "confirmed" if p.fidelity == "certified" else p.fidelity
    return replace(p, certificate=None, fidelity=fidelity)


def _misfits(front: Front, path: str) -> Iterator[Problem]:
    seen: set[tuple[str, str]] = set()
    for i, p in enumerate(front.front):
        if not _ID.fullmatch(p.id):
            yield Problem(path, f"front.{i}.id", p.id, "must be letters and digits, at most 64")
        if (p.id, p.device) in seen:
            yield Problem(path, f"front.{i}.id", p.id, f"appears twice for device {p.device}")
        if p.fidelity not in FIDELITIES:
            allowed = ", ".join(FIDELITIES)
            yield Problem(path, f"front.{i}.fidelity", p.fidelity, f"must be one of {allowed}")
        seen.add((p.id, p.device))


def _toml_header(front: Front, points: list[FrontPoint]) -> str:
    """Comment lines: where the configuration comes from and its figures on each device."""
    first = points[0]
    lines = [
        f"configuration {first.id}, family {first.family}",
        f"job {front.job}, run {front.run}",
        f"selected (search rows, n = {first.selected.n}): error {first.selected.error:.4f}, "
        f"loss {first.selected.loss:+.4f}, error bound {first.error_bound:.4f}",
    ]
    if first.confirmed is not None:
        c = first.confirmed
        lines.append(
            f"confirmed (report rows, n = {c.n}): error {c.error:.4f}, "
            f"loss {c.loss:+.4f}, 95 % interval {c.low:+.4f} to {c.high:+.4f}"
        )
    if first.certificate is not None:
        lines.append(f"certified: {first.certificate.statement}")
    for p in points:
        lines.append(
            f"{p.device}: predicted mean {p.predicted.latency_mean_s:.3e} s "
            f"({p.predicted.low_s:.3e} to {p.predicted.high_s:.3e}), "
            f"worst {p.predicted.latency_worst_s:.3e} s, peak {p.predicted.peak_bytes:.0f} bytes"
        )
        if p.measured is not None:
            lines.append(
                f"{p.device}: measured mean {p.measured.latency_mean_s:.3e} s "
                f"({p.measured.runtime}, batch {p.measured.batch}, {p.measured.n} rows)"
            )
    # a name may hold a line break, which would end the comment
    return "".join(f"# {' '.join(line.split())}\n" for line in lines) + "\n"
