"""Fit and write the profile of every device and runtime that a data folder covers.

    python -m cost_models.calibrate.ship --data DIR [--out FOLDER] [--only TEXT] [--rows N]

One command makes all shipped profiles again, so that no number in them is typed by hand.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters import scan
from cost_models.calibrate.beliefs import Posterior, Prior, default_prior
from cost_models.calibrate.intervals import Spread, split
from cost_models.calibrate.posterior import LeftOut, fit_rows, left_out
from cost_models.calibrate.rows import Prepared, prepare
from cost_models.calibrate.subjects import FIT_ROWS, Subject, gather
from cost_models.calibrate.write import profile_text
from cost_models.device import Device
from cost_models.price import MATMULS
from cost_models.profile import PROFILES, Profile
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError
from search_spaces.ops import KIND, KINDS, OpTable

F64 = NDArray[np.float64]

TOOL = "cost_models.calibrate.ship"
FEWEST = 5  # rows of a profile
LEARNED = 0.9  # a parameter is fitted where its spread fell below this share of the prior's


def ship(root: Path, out: Path = PROFILES, *, only: str = "", rows: int = FIT_ROWS) -> list[str]:
    """Write a profile for every subject of a data folder.

    Args:
        root: Folder with measured CSV files.
        out: Folder for the profiles; files of subjects that are not there stay.
        only: Subjects whose name contains this.
        rows: Rows that one fit looks at.

    Returns:
        One line for each subject: what was written, or why nothing was.

    Raises:
        InputError: nothing in the folder is recognised.
    """
    found = scan(root)
    subjects, told = gather(found.tables)
    told += [str(problem) for problem in found.faulty]
    if not subjects:
        text = "no table of a device that has a file; nothing can be fitted"
        raise InputError.one(root, "tables", "0", text)
    out.mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        if subject.training or only not in subject.name:
            continue
        try:
            profile = profile_of(subject, rows=rows)
        except InputError as error:
            told.append(f"{subject.name}: none, {error.problems[0].message}")
            continue
        text = profile_text(subject.device.kind, profile)
        (out / f"{subject.name}.toml").write_text(text, encoding="utf-8")
        told.append(f"{subject.name}: {profile.n} rows, {100 * profile.mape:.1f} % left out")
    return told


def profile_of(
    subject: Subject,
    *,
    today: str | None = None,
    rows: int = FIT_ROWS,
    names: Sequence[str] | None = None,
) -> Profile:
    """Fit one subject, and estimate its errors from groups left out.

    Args:
        subject: Device and runtime with their tables.
        today: Date of the profile, that of this day where None.
        rows: Rows that one fit looks at.
        names: Parameters to fit; None: those that rows of others can tell apart.

    Raises:
        InputError: too few rows or groups.
    """
    if len(subject) < FEWEST:
        text = f"too few rows, {FEWEST} are needed; measure more"
        raise InputError.one(subject.name, "rows", len(subject), text)
    device = subject.device
    posterior = fit_rows(subject.tables, device, names=names, limit=rows, learning=True)
    outside = left_out(subject.tables, device, names=names, limit=rows, learning=True)
    prepared = prepare(subject.tables)
    fitted = posterior.on(device)
    spread = _spread(subject, prepared, fitted, outside)
    told, model, covariance = _learned(default_prior(device, names), posterior)
    ape = np.abs(np.exp(-outside.log_error) - 1)
    return Profile(
        name=subject.name,
        base=device.name,
        date=today or datetime.date.today().isoformat(),
        tool=TOOL,
        driver="",
        runtime=subject.runtime,
        threads=prepared.threads,
        n=len(subject),
        mape=_short(np.mean([ape[outside.table == t].mean() for t in np.unique(outside.table)])),
        machine="",
        shared_log_sd=_short(spread.shared_log_sd),
        residual_log_sd={k: _short(v) for k, v in spread.residual_log_sd.items()},
        covered=covered(prepared.ops),
        model=model,
        formats=tuple(DTYPES[i] for i in np.unique(prepared.ops.dtype)),
        sources=tuple(dict.fromkeys(t.source for t in subject.tables)),
        kind_log_sd={k: _short(v) for k, v in spread.kind_log_sd.items()},
        uncertain=told,
        log_covariance=covariance,
        learned=posterior.learned,
    )


def _spread(subject: Subject, rows: Prepared, fitted: Device, found: LeftOut) -> Spread:
    kind = row_kinds(subject, rows, fitted)
    spread = split(found.log_error, found.parameter_log_sd, found.group, kind)
    inside = {KINDS[k] for k in np.unique(rows.ops.kind)} - set(spread.residual_log_sd)
    if not inside or not (kind == "").any():
        return spread
    # Kinds that were seen only inside networks: as wrong as networks are before errors of their
    # shapes average out; the share of the networks' error that this explains is not counted twice.
    total = spread.shared_log_sd
    alone = float(np.median(concentration(rows, fitted)[kind == ""]))
    return Spread(
        shared_log_sd=total * float(np.sqrt(max(1 - alone, 0.1))),
        kind_log_sd=spread.kind_log_sd,
        residual_log_sd=spread.residual_log_sd | dict.fromkeys(sorted(inside), total),
    )


def row_kinds(subject: Subject, rows: Prepared, device: Device) -> NDArray[np.str_]:
    """Operator kind that takes most of each row's time [N]; "" for whole networks."""
    time = _times(rows, device)
    seconds = np.stack([time @ (rows.ops.kind == k) for k in range(len(KINDS))], axis=1)
    found = np.array(KINDS)[seconds.argmax(axis=1)]
    network = np.array([t.family == "end_to_end" for t in subject.tables])
    return np.where(network[rows.table], "", found)


def concentration(rows: Prepared, device: Device) -> F64:
    """Sum of squared shares of time of a row's distinct operators [N], 1 for a single one."""
    time = _times(rows, device)
    share = time.power(2).sum(axis=1) / np.maximum(np.asarray(time.sum(axis=1)) ** 2, 1e-300)
    return np.asarray(share, dtype=np.float64).reshape(-1)


def _times(rows: Prepared, device: Device):  # type: ignore[no-untyped-def]
    return rows.counts.multiply(rows.once(device)[None, :]).tocsr()


def _learned(
    prior: Prior, posterior: Posterior
) -> tuple[tuple[str, ...], dict[str, float], tuple[tuple[float, ...], ...]]:
    """Names, values and covariance of the parameters that the rows told something of."""
    before, after = prior.log_sd, posterior.log_sd
    known = [i for i, n in enumerate(posterior.names) if after[n] < LEARNED * before[n]]
    names = tuple(posterior.names[i] for i in known)
    covariance = posterior.covariance[np.ix_(known, known)]
    model = {name: _short(posterior.model[name]) for name in names}
    return names, model, tuple(tuple(float(v) for v in row) for row in covariance)


def _short(value: float | np.floating[Any]) -> float:
    """Five significant digits: what a file states."""
    return float(f"{value:.5g}")


def covered(ops: OpTable) -> dict[str, tuple[float, float]]:
    """Smallest and largest sizes by kind, in the keys that a profile states."""
    found: dict[str, tuple[float, float]] = {}
    parts = [("", MATMULS), *((k, (k,)) for k in KINDS if k not in MATMULS)]
    for key, kinds in parts:
        mine = np.isin(ops.kind, [KIND[k] for k in kinds])
        axes = ("m", "n") if key else ("m", "k", "n")
        for axis in axes if mine.any() and key != "host_sync" else ():
            size = getattr(ops, axis)[mine]
            found[f"{key}.{axis}" if key else axis] = (float(size.min()), float(size.max()))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with measured CSV files")
    parser.add_argument("--out", type=Path, default=PROFILES, help="folder for profiles")
    parser.add_argument("--only", default="", help="subjects whose name contains this")
    parser.add_argument("--rows", type=int, default=FIT_ROWS, help="rows that one fit looks at")
    given = parser.parse_args(arguments)
    try:
        lines = ship(given.data, given.out, only=given.only, rows=given.rows)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
