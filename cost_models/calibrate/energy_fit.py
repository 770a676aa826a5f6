"""Fit of energy coefficients to rows that state power, each left out in turn.

    python -m cost_models.calibrate.energy_fit DATA

Three numbers a device: what runs whatever is computed (`active`, or `host` where the wall was
measured), all operations by one factor, bytes of the main memory. Maximum a posteriori around the
power budget's values on the logarithm of power; coefficients stay in the literature's range.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from cost_models.adapters import scan
from cost_models.device import Device, load_device
from cost_models.energy import (
    OP_OF,
    Coefficients,
    coefficients,
    idle_of,
    range_of,
    rows_energy_j,
    with_coefficients,
)
from cost_models.measured import Measured
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError

F64 = NDArray[np.float64]

WIDTH = {"base": 0.7, "op": 0.4, "dram": 0.5}  # of the priors, standard deviations of logarithms
NOISE = 0.05  # log noise of a row's power
ROBUST = 2.0
TOOL = "cost_models.calibrate.energy_fit"  # named as source of what it fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerErrors:
    """Relative errors of the power of N rows."""

    measured_w: F64
    nothing_fitted: F64  # from the datasheet alone
    row_left_out: F64  # NaN where there is one workload only
    workload_left_out: F64


def unfitted(device: Device) -> Device:
    """The device without the energy coefficients that were fitted to measured rows.

    Shipped coefficients have seen the rows that they are scored on: an error of rows left out
    starts from what is known without them. Idle power is a fact and stays.
    """
    kept = {
        key: q
        for key, q in device.quantities.items()
        if not (key.startswith("energy.") and TOOL in q.source)
    }
    return replace(device, quantities=kept)


def fit_power(rows: Measured, prior: Coefficients, kind: str) -> Coefficients:
    """Coefficients of a device fitted to rows with joules.

    Args:
        rows: One table of the family "energy".
        prior: What the device file or its power budget say.
        kind: Class of the device, for the ranges.

    Raises:
        InputError: the table holds no joules.
    """
    if rows.energy is None:
        raise InputError.one(rows.source, "joules", None, "the rows state no energy")
    truth = np.log(rows.energy.joules)
    base = "host_w" if rows.energy.wall and prior.host_w > 0 else "active_w"
    low, high = _bounds(prior, kind, np.unique(rows.ops.dtype))

    def tried(x: F64) -> Coefficients:
        op, dram = (float(np.exp(v)) for v in x[1:])
        values = {base: getattr(prior, base) * float(np.exp(x[0])), "dram_j": prior.dram_j * dram}
        return with_coefficients(prior, op=op, **values)

    def errors(x: F64) -> F64:
        found = (np.log(rows_energy_j(rows, tried(x))) - truth) / NOISE
        robust = np.sign(found) * ROBUST * np.sqrt(2 * (np.sqrt(1 + (found / ROBUST) ** 2) - 1))
        return np.concatenate([robust, x / np.array(list(WIDTH.values()))])

    return tried(least_squares(errors, np.clip(np.zeros(3), low, high), bounds=(low, high)).x)


def _bounds(prior: Coefficients, kind: str, used: NDArray[np.int64]) -> tuple[F64, F64]:
    """Logarithms that keep every coefficient inside its range, if it is there to begin with."""
    ratios = [np.log(np.array(range_of(kind, "dram")) / prior.dram_j)]
    by_type = []
    for dtype in used:
        allowed = np.array(range_of(kind, OP_OF.get(DTYPES[dtype], "op_fp32")))
        by_type.append(np.log(allowed / prior.op_j[dtype]))
    common = np.array([min(0.0, max(r[0] for r in by_type)), max(0.0, min(r[1] for r in by_type))])
    low = np.array([-3.0, common[0] - 1e-6, min(0.0, ratios[0][0]) - 1e-6])
    high = np.array([3.0, common[1] + 1e-6, max(0.0, ratios[0][1]) + 1e-6])
    return low, high


def left_out(rows: Measured, prior: Coefficients, kind: str) -> PowerErrors:
    """How far the power of each row is off when it, or its whole workload, was left out."""
    assert rows.energy is not None
    power = rows.energy.joules / rows.seconds
    size = len(rows)
    by_row, by_group = np.full(size, np.nan), np.full(size, np.nan)
    family = np.array([str(g).split("-9")[0] for g in rows.group])  # accuracy targets are one
    several = np.unique(family).size > 1
    for i in range(size):
        for found, out in ((by_row, np.arange(size) == i), (by_group, family == family[i])):
            if several or not out.all():
                fitted = fit_power(rows.take(~out), prior, kind)
                found[i] = float(rows_energy_j(rows, fitted)[i] / rows.energy.joules[i] - 1)
    return PowerErrors(
        measured_w=power,
        nothing_fitted=rows_energy_j(rows, prior) / rows.energy.joules - 1,
        row_left_out=by_row if several else np.full(size, np.nan),
        workload_left_out=by_group if several else np.full(size, np.nan),
    )


def energy_tables(root: Path) -> Sequence[Measured]:
    """All tables of the family "energy" of a data folder."""
    return [table for table in scan(root).tables if table.family == "energy"]


def main(arguments: list[str]) -> int:
    """Print coefficients and errors of every device with power rows."""
    out = sys.stdout
    for rows in energy_tables(Path(arguments[0])):
        device = unfitted(load_device(rows.device))
        prior = coefficients(device, idle_w=idle_of(rows))
        fitted, found = fit_power(rows, prior, device.kind), left_out(rows, prior, device.kind)
        out.write(f"{rows.device}, {rows.source}, {len(rows)} rows\n")
        ops = dict(zip(DTYPES, fitted.op_j * 1e12, strict=True))
        out.write(f"    active {fitted.active_w:.1f} W, host {fitted.host_w:.1f} W, ")
        out.write(f"dram {fitted.dram_j * 1e12:.1f} pJ/B, ")
        out.write(", ".join(f"{n} {v:.3f}" for n, v in ops.items()) + " pJ\n")
        for i, group in enumerate(rows.group):
            out.write(f"    {group:24s} {found.measured_w[i]:8.1f} W, errors %: ")
            out.write(f"nothing fitted {100 * found.nothing_fitted[i]:+.1f}, ")
            out.write(f"row left out {100 * found.row_left_out[i]:+.1f}, ")
            out.write(f"workload left out {100 * found.workload_left_out[i]:+.1f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
