"""`dynsearch calibrate plan|measure|fit`: a new device in twenty measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from cost_models.device import load_device
from dynsearch.errors import InputError

HOST, PLAN, MEASURE, FIT = "host", "plan", "measure", "fit"
ACTIONS = (HOST, PLAN, MEASURE, FIT)


def run(
    action: str,
    *,
    device: str | None,
    rows: Path | None,
    out: Path | None,
    count: int,
    dtype: str,
    runtime: str,
    threads: int,
    ops: str = "matmul,attention,network",
) -> dict[str, Any]:
    """One step of the way to a profile.

    Args:
        action: "plan", "measure" or "fit".
        device: Name or file of the device (plan, fit).
        rows: The plan (measure) or the measured CSV (fit; plan: what is known already).
        out: File to write.
        count: Shapes to plan.
        dtype: Number format to plan.
        runtime: What ran the rows (plan, fit).
        threads: Threads of the measured runtime.
        ops: What to plan, with commas.

    Raises:
        InputError: an unknown action or number format, a missing option, faulty rows.
    """
    if action not in ACTIONS:
        text = f"must be one of {', '.join(ACTIONS)}"
        raise InputError.one("command line", "ACTION", action, text)
    target = _given(out, "--out", action)
    if action == PLAN:
        wanted = tuple(name.strip() for name in ops.split(","))
        known = _given(device, "--device", action)
        return _plan(known, target, count, dtype, threads, wanted, runtime, rows)
    source = _given(rows, "--rows", action)
    if action == MEASURE:
        return _measure(source, target, threads)
    return _fit(_given(device, "--device", action), source, target, runtime, threads)


def show(result: dict[str, Any], out: TextIO) -> None:
    """What was written, and how wrong the profile is."""
    out.write("{n} rows in {file}\n".format(**result))
    if "error" in result:
        out.write(f"error on groups left out of the fit: {100 * result['error']:.1f} %\n")


def _given(value: Any, option: str, action: str) -> Any:
    if value is None:
        raise InputError.one("command line", option, "", f"calibrate {action} needs this option")
    return value


def _plan(
    device: str,
    out: Path,
    count: int,
    dtype: str,
    threads: int,
    ops: tuple[str, ...],
    runtime: str,
    known: Path | None,
) -> dict[str, Any]:
    from cost_models.calibrate.target import FORMATS, OPS
    from cost_models.calibrate.user_rows import next_shapes, plan_text

    if dtype not in FORMATS:
        text = f"must be one of {', '.join(FORMATS)}: those that measure can time"
        raise InputError.one("command line", "--dtype", dtype, text)
    wrong = [name for name in ops if name not in OPS]
    if wrong:
        text = f"must be some of {', '.join(OPS)}, with commas"
        raise InputError.one("command line", "--ops", ", ".join(wrong), text)
    shapes = next_shapes(
        load_device(device),
        count,
        dtype=dtype,
        threads=threads,
        ops=ops,
        runtime=runtime,
        known=known,
    )
    out.write_text(plan_text(shapes), encoding="utf-8")
    return {"file": str(out), "n": len(shapes)}


def _measure(plan: Path, out: Path, threads: int) -> dict[str, Any]:
    from cost_models.calibrate import target

    fault = target.fault_of(plan, out)
    if fault is not None:
        raise InputError.one(plan, "", None, fault)
    timer, runtime = target.engine_of("auto", threads)
    return {"file": str(out), "n": target.measure(plan, out, timer, runtime), "runtime": runtime}


def _fit(device: str, rows: Path, out: Path, runtime: str, threads: int) -> dict[str, Any]:
    from cost_models.calibrate.user_rows import fit_csv
    from cost_models.calibrate.write import device_text

    base = load_device(device)
    profile = fit_csv(rows, base, runtime, threads=threads)
    out.write_text(device_text(base, profile), encoding="utf-8")
    return {"file": str(out), "n": profile.n, "error": profile.mape}
