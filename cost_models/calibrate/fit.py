"""Calibration of a processor: measured rows -> parameters of the form with their error.

Maximum a posteriori on the logarithm of time with a robust loss: every parameter has a prior
around its default, every row (operators, seconds) pulls on the parameters of its operators.
Chains of whole layers weigh more than single operators, because they show what an operator costs
inside a model. Errors come from groups of rows left out of the fit, never from the fit itself.

`calibrate_host` writes ONE file: the device (facts of this machine) with its profile in the
table `profile`. `load_device` reads it.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from cost_models.calibrate import measure
from cost_models.calibrate.host import (
    cache_bytes,
    host_name,
    memory_bytes,
    processor,
    usable_cores,
)
from cost_models.calibrate.plan import GENERIC, Item, make_plan, ops_of, working_set_bytes
from cost_models.calibrate.write import device_text
from cost_models.device import Device, Quantity
from cost_models.forms import cpu, parameters_of
from cost_models.profile import CALIBRATION_TOOL, Profile
from search_spaces.candidate import DTYPES, Backbone
from search_spaces.errors import DynsearchError
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]
log = logging.getLogger(__name__)

FOLDS = 6
SIGMA_CHAIN = 0.05  # log noise assumed for a chain of layers
SIGMA_OPERATOR = 0.12  # and for a single operator
ROBUST_FROM = 2.0  # residuals beyond this many sigmas count linearly
PEAK_MARGIN = 1.05  # a peak is the best rate seen times this, so efficiencies stay below 1
SHARED_FLOOR = 0.04  # drift of a machine between two days, at least
RESIDUAL_FLOOR = 0.03
NOISY = 0.15  # rounds that differ by more come from a busy machine
RESERVED_S = 20.0  # of the budget, for start-up and the fits
KIND_OF: dict[str, str] = {
    "matmul": "matmul",
    "attention_prefill": "attention_prefill",
    "attention_importance": "attention_importance",
    "gelu": "elementwise",
    "residual_norm": "elementwise",
    "mean": "reduce",
    "gather": "gather",
    "host_sync": "host_sync",
    "experts": "grouped_matmul",
}
IN_CONTEXT = ("chain", "experts", "exit_check")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """N measured rows with their operators, flattened to R."""

    ops: OpTable  # [R]
    owner: NDArray[np.int64]  # [R] row that an operator belongs to
    working_set: F64  # [R] bytes
    in_context: F64  # [R] 1 inside a model, 0 in a loop of its own
    call: tuple[str, ...]  # [N] dtype of rows that are a whole forward pass, else ""
    seconds: F64  # [N]
    sigma: F64  # [N] log noise
    group: NDArray[np.int64]  # [N] rows that are left out together
    kind: tuple[str, ...]  # [N] operator kind whose residual the row shows; "" for chains

    def __len__(self) -> int:
        return int(self.seconds.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Parameters and their error on rows left out."""

    model: dict[str, float]  # name -> SI value
    held_out_log: F64  # [N] log(predicted / measured) of each row when its group was left out
    mape: float  # of the chains among them, or of all rows where there is no chain
    shared_log_sd: float
    network_log_sd: float | None  # where whole layers were measured
    residual_log_sd: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What runs the operators that are measured."""

    name: str
    driver: str  # library and version
    program: tuple[str, ...]  # arguments of Python: a script, or -m and a module
    plan: Callable[[Backbone], list[Item]]


def calibrate_host(
    out: Path,
    *,
    backbone: Backbone | None = None,
    seconds: float = 100.0,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
    runtime: Runtime | None = None,
) -> Path:
    """Measure this machine, fit the processor form, write a device file with its profile.

    Args:
        out: TOML file to write; it appears only when it is complete.
        backbone: Geometry whose shapes are measured; None: a 6 x 384 encoder.
        seconds: Budget of the whole call. One round of measurements is always finished.
        threads: Torch threads.
        progress: Called with the share of the budget that is used.
        runtime: What runs the operators; None: torch.

    Returns:
        `out`.

    Raises:
        DynsearchError: the measuring process failed, with the end of its output.
    """
    b = backbone or GENERIC
    runtime = runtime or torch_runtime()
    items = runtime.plan(b)
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        plan, rows = Path(folder) / "plan.json", Path(folder) / "rows.jsonl"
        plan.write_text(json.dumps({"items": items}), encoding="utf-8")
        budget = max(1.0, seconds - RESERVED_S)
        _run_measure(runtime.program, plan, rows, budget, threads, progress)
        rounds = read_rounds(rows)
    measured, noise = medians(rounds), round_noise(rounds)
    if noise > NOISY:
        log.warning(
            "rounds differ by %.0f %%: the machine was busy; calibrate again when it is quiet",
            100 * noise,
        )
    device = host_device(items, measured)
    fitted = fit(rows_of(items, measured, b), device, threads=threads)
    log.info("calibrated: %.1f %% mean error on chains left out", 100 * fitted.mape)
    text = device_text(device, _profile(fitted, device, items, measured, threads, runtime))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(out)
    return out


def _run_measure(
    program: Sequence[str],
    plan: Path,
    rows: Path,
    seconds: float,
    threads: int,
    progress: Callable[[float], None] | None,
) -> None:
    """Run the measuring script in a process of its own, so that no thread pool is inherited."""
    command = [sys.executable, *program, str(plan), str(rows)]
    command += ["--seconds", str(seconds), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if progress is not None:
                    progress(min(0.95, 0.95 * (time.monotonic() - start) / seconds))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode != 0:
            output.seek(0)
            tail = "\n".join(output.read().splitlines()[-5:])
            raise DynsearchError(f"measuring failed with status {process.returncode}:\n{tail}")


def read_rounds(path: Path) -> dict[int, list[float]]:
    """Seconds of every round by item id. A last line that was cut off is ignored."""
    rounds: dict[int, list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rounds.setdefault(int(row["id"]), []).append(float(row["seconds"]))
    return rounds


def medians(rounds: Mapping[int, Sequence[float]]) -> dict[int, float]:
    """Median seconds over rounds by item id."""
    return {number: float(np.median(values)) for number, values in rounds.items()}


def round_noise(rounds: Mapping[int, Sequence[float]]) -> float:
    """Typical disagreement of two rounds: median over items of the log standard deviation."""
    return float(np.median([np.std(np.log(values)) for values in rounds.values()]))


def rows_of(items: Sequence[Item], measured: Mapping[int, float], backbone: Backbone) -> Rows:
    """Join measured items to their operators; items without operators or time are left out."""
    used = [i for i in items if i["id"] in measured and i["op"] != "copy"]
    tables = [ops_of(item, backbone) for item in used]
    sizes = [len(table) for table in tables]
    names = {name: number for number, name in enumerate(sorted({i["group"] for i in used}))}

    def spread(values: list[float]) -> F64:
        return np.repeat(np.asarray(values, dtype=np.float64), sizes)

    return Rows(
        ops=OpTable.concat(tables),
        owner=np.repeat(np.arange(len(used)), sizes),
        working_set=spread([working_set_bytes(i, t) for i, t in zip(used, tables, strict=True)]),
        in_context=spread([float(i["op"] in IN_CONTEXT) for i in used]),
        call=tuple(i["dtype"] if i.get("ends", False) else "" for i in used),
        seconds=np.array([measured[i["id"]] for i in used]),
        sigma=np.array([SIGMA_CHAIN if i["op"] == "chain" else SIGMA_OPERATOR for i in used]),
        group=np.array([names[i["group"]] for i in used]),
        kind=tuple(KIND_OF.get(i["op"], "") for i in used),
    )


def predict(rows: Rows, device: Device, model: Mapping[str, float], threads: int = 1) -> F64:
    """Seconds of every row [N] with the given parameters."""
    once = cpu.times_from(
        rows.ops, device, model.__getitem__, threads, rows.working_set, rows.in_context
    )
    total = np.bincount(rows.owner, weights=once * rows.ops.count, minlength=len(rows))
    start = {"": 0.0} | {d: model[cpu.call_parameter(d)] for d in DTYPES}
    seconds: F64 = total + np.array([start[name] for name in rows.call])
    return seconds


def fit(rows: Rows, device: Device, *, threads: int = 1, folds: int = FOLDS) -> Fitted:
    """Fit all rows, and estimate the error from fits that leave groups out.

    Args:
        rows: What was measured.
        device: Facts of the machine; its own parameters are not used.
        threads: Threads that were used.
        folds: Parts that the groups are dealt into; 1 leaves nothing out and estimates no error.

    Returns:
        Parameters of the fit to all rows, errors of the rows when left out.
    """
    everything = np.ones(len(rows), dtype=bool)
    model = _solve(rows, device, everything, threads)
    held_out = np.zeros(len(rows))
    fold = np.random.default_rng(0).permutation(int(rows.group.max()) + 1)[rows.group] % folds
    for part in range(folds):
        out = fold == part
        if out.any() and not out.all():
            found = _solve(rows, device, ~out, threads)
            held_out[out] = np.log(predict(rows, device, found, threads) / rows.seconds)[out]
    chains = np.array([kind == "" for kind in rows.kind])
    judged = held_out[chains] if chains.any() else held_out
    return Fitted(
        model=model,
        held_out_log=held_out,
        mape=float(np.mean(np.abs(np.exp(judged) - 1))),
        shared_log_sd=_shared(judged),
        network_log_sd=math.hypot(_spread(judged), SHARED_FLOOR) if chains.any() else None,
        residual_log_sd=_residuals(rows, held_out),
    )


def _solve(rows: Rows, device: Device, keep: NDArray[np.bool_], threads: int) -> dict[str, float]:
    """Parameters that maximise the posterior given the rows in `keep`."""
    known = parameters_of(device.kind)
    names = list(known)
    prior = np.log([known[n].default for n in names])
    width = np.array([known[n].log_sd for n in names])
    top = np.log([known[n].ceiling or math.inf for n in names])

    def residuals(x: F64) -> F64:
        model = dict(zip(names, np.exp(x), strict=True))
        error = np.log(predict(rows, device, model, threads) / rows.seconds) / rows.sigma
        return np.concatenate([error[keep], (x - prior) / width])

    found = least_squares(
        residuals,
        np.minimum(prior, top - 1e-6),
        bounds=(np.full(len(names), -np.inf), top),
        x_scale=width,
        loss="soft_l1",
        f_scale=ROBUST_FROM,
        max_nfev=60,
    )
    return {name: float(value) for name, value in zip(names, np.exp(found.x), strict=True)}


def _shared(errors: F64) -> float:
    """Error that whole networks keep after the parts have averaged out."""
    return max(SHARED_FLOOR, _spread(errors))


def _residuals(rows: Rows, errors: F64) -> dict[str, float]:
    """Spread of the errors of single operators by kind, around their own median."""
    kinds = np.array(rows.kind)
    found = {}
    for kind in sorted(set(rows.kind) - {""}):
        mine = errors[kinds == kind]
        found[kind] = max(RESIDUAL_FLOOR, _spread(mine - np.median(mine)))
    return found


def _spread(values: F64) -> float:
    """Standard deviation of the bulk: the 90 % quantile of |values| over that of a normal."""
    return float(np.quantile(np.abs(values), 0.9) / 1.6448536)


def host_device(items: Sequence[Item], measured: Mapping[int, float]) -> Device:
    """This machine as a device: stated facts, and peaks and bandwidth from the rows.

    A peak is the best matmul rate of one thread times the cores, plus a margin, so that
    efficiencies stay below 1.
    """
    cores = usable_cores()
    today = datetime.date.today().isoformat()

    def quantity(value: float, dimension: str, source: str) -> Quantity:
        return Quantity(value=value, dimension=dimension, source=source, grade="measured")

    stated = "stated by the operating system"
    quantities: dict[str, Quantity] = {}
    for dtype in DTYPES:
        rates = [
            2.0 * i["m"] * i["k"] * i["n"] / measured[i["id"]]
            for i in items
            if i["op"] == "matmul" and i["dtype"] == dtype and i["id"] in measured
        ]
        if rates:
            quantities[f"peak.{dtype}"] = quantity(
                max(rates) * PEAK_MARGIN * cores,
                "flops_per_s",
                f"best matmul of one thread on {today} x {PEAK_MARGIN} x {cores} cores",
            )
    copies = [
        i["bytes"] / measured[i["id"]] for i in items if i["op"] == "copy" and i["id"] in measured
    ]
    quantities["memory.capacity"] = quantity(memory_bytes(), "bytes", stated)
    quantities["memory.bandwidth"] = quantity(
        max(copies), "bytes_per_s", f"copy of a large array by one thread on {today}"
    )
    for level, size in cache_bytes().items():
        quantities[f"cache.{level}"] = quantity(size, "bytes", stated)
    quantities["compute.units"] = quantity(float(cores), "number", stated)
    return Device(
        name=host_name(), kind="cpu", summary=f"this machine: {processor()}", quantities=quantities
    )


def _profile(
    fitted: Fitted,
    device: Device,
    items: Sequence[Item],
    measured: Mapping[int, float],
    threads: int,
    runtime: Runtime,
) -> Profile:
    shapes = [i for i in items if i["op"] == "matmul" and i["id"] in measured]
    return Profile(
        name=f"{device.name}-t{threads}",
        base=device.name,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        tool=CALIBRATION_TOOL,
        driver=runtime.driver,
        runtime=runtime.name,
        threads=threads,
        n=len(measured),
        mape=fitted.mape,
        machine=processor(),
        shared_log_sd=fitted.shared_log_sd,
        network_log_sd=fitted.network_log_sd,
        residual_log_sd=fitted.residual_log_sd,
        covered={
            axis: (float(min(s[axis] for s in shapes)), float(max(s[axis] for s in shapes)))
            for axis in ("m", "k", "n")
        },
        model=fitted.model,
    )


def torch_runtime() -> Runtime:
    """PyTorch, measured by the standalone script."""
    return Runtime(
        name="torch",
        driver=f"torch {version('torch')}",
        program=(measure.__file__,),
        plan=make_plan,
    )
