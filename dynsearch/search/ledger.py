"""What finished passes yielded: traces and fronts on disk, merged fronts, hypervolume.

Everything here can be rebuilt: fronts from traces, the log from the study.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from dynsearch.errors import InputError
from dynsearch.export.records import HypervolumeStep
from dynsearch.quality.trace import Trace, load_trace, save_trace
from dynsearch.search.encoding import full_setting, setting_key
from dynsearch.search.fronts import (
    MergedFront,
    as_merged,
    load_fronts,
    merge,
    objective_points,
    save_fronts,
    thin,
)
from dynsearch.search.pareto import hypervolume
from dynsearch.search.runs import Run, append_log, write_log
from dynsearch.search.study import (
    Book,
    set_attr,
    tell_complete,
    tell_stopped,
    trial_constraints,
    trial_values,
)
from dynsearch.search.types import DeviceFront, Params, PassFronts, SearchProblem
from dynsearch.search.workers import Incumbent, PassResult, Stopped
from dynsearch.sim.ranking import error_of

_LOG = logging.getLogger(__name__)
COMPACT_POINTS = 64  # of a pass's front, kept in the study
ERROR_MARGIN = 0.10  # above the full network's error lies the reference point
REFERENCE_POINT = "reference_point"  # study attribute


@dataclass(slots=True)
class Ledger:
    """The results of a run so far."""

    run: Run
    book: Book
    problem: SearchProblem
    weights_hash: str
    full_key: str  # of the full network's setting
    reference: Trace | None = None  # the full network's trace
    elapsed_s: float = 0.0  # of all sessions before this one
    merged: dict[str, MergedFront] = field(default_factory=dict)
    traces: dict[int, str] = field(default_factory=dict)  # trace hash by trial number
    history: list[HypervolumeStep] = field(default_factory=list)

    def trace_hash(self, key: str) -> str:
        """Identity of a trace: weights, split and outer setting."""
        text = f"{self.weights_hash} {self.problem.split} {key}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def front_size(self) -> int:
        """Points of all merged fronts."""
        return sum(len(front) for front in self.merged.values())

    @property
    def passes(self) -> int:
        """Forward passes that are complete; those of an earlier run do not count."""
        return self.history[-1].passes if self.history else 0

    def reference_point(self, device: str) -> list[float] | None:
        """Upper end of each objective, in the job's order; None before the full network ran."""
        if self.reference is None:
            return None
        full = error_of(self.problem.metric, self.reference) + ERROR_MARGIN
        costs = self.problem.full_cost[device]
        return [full if name == "error" else costs[name] for name in self.problem.objectives]

    def set_reference(self, trace: Trace) -> None:
        """Take the full network's trace; its point is kept in the study."""
        self.reference = trace
        points = {name: self.reference_point(name) for name in self.problem.devices}
        if self.book.study.user_attrs.get(REFERENCE_POINT) != points:
            set_attr(self.book, REFERENCE_POINT, points)

    def add(self, number: int, fronts: PassFronts) -> None:
        """Merge the fronts of a pass."""
        for front in fronts.devices:
            part = as_merged(front, number)
            have = self.merged.get(front.device)
            parts = [part] if have is None else [have, part]
            self.merged[front.device] = merge(parts, self.problem.objectives)

    def hypervolumes(self) -> dict[str, float]:
        """Hypervolume of the merged fronts by device, 0..1."""
        found = {}
        for device, front in self.merged.items():
            reference = self.reference_point(device)
            if reference is not None:
                found[device] = hypervolume(front.points(self.problem.objectives), reference)
        return found

    def incumbent(self) -> Incumbent | None:
        """What a new pass must add to; None before every device has a front."""
        upper = {name: self.reference_point(name) for name in self.problem.devices}
        if self.reference is None or self.merged.keys() != upper.keys():
            return None
        points = {name: f.points(self.problem.objectives) for name, f in self.merged.items()}
        return Incumbent(
            points=points, references={n: tuple(r) for n, r in upper.items() if r is not None}
        )

    def stop(self, trial: Trial, stopped: Stopped, *, elapsed_s: float) -> None:
        """Write down a pass that was stopped after its first rows."""
        names = self.problem.objectives
        columns = ["error_bound" if name == "error" else name for name in names]
        bounds = {
            device: points[thin(points, COMPACT_POINTS)].tolist()
            for device, points in stopped.bounds.items()
        }
        screened = {
            "rows": stopped.rows,
            "of": stopped.of,
            "share": stopped.share,
            "columns": columns,
            "lower_bounds": bounds,
        }
        attrs = {
            "setting": self.book.codec.decode(trial.params),
            "screened": screened,
            "reason": f"its first {stopped.rows} of {stopped.of} rows say that it adds nothing",
            "seconds": {"pass": stopped.pass_s, "inner": 0.0, "elapsed": elapsed_s},
        }
        tell_stopped(self.book, trial, attrs)

    def complete(
        self,
        trial: Trial,
        result: PassResult,
        *,
        fresh: bool,
        elapsed_s: float,
        reused: bool = False,
    ) -> None:
        """Write down a finished pass: trace, fronts, then the trial, then the log.

        Args:
            trial: The trial, in state RUNNING.
            result: What its pass yielded.
            fresh: Whether the trace is not on disk yet.
            elapsed_s: Seconds that the search has run, earlier sessions included.
            reused: Whether an earlier run made the pass.
        """
        setting = self.book.codec.decode(trial.params)
        key = setting_key(setting)
        path = self.run.trace_file(trial.number, key)
        if fresh:
            save_trace(path, result.trace)
        save_fronts(self.run.fronts_file(path), result.fronts)
        if key == self.full_key:
            self.set_reference(result.trace)
        self.add(trial.number, result.fronts)
        self.traces[trial.number] = self.trace_hash(key)
        volumes = self.hypervolumes()
        step = _step(self.passes + (not reused), elapsed_s, volumes)
        attrs: dict[str, Any] = {
            "setting": setting,
            "trace": f"traces/{path.name}",
            "trace_hash": self.traces[trial.number],
            "seconds": {"pass": result.pass_s, "inner": result.inner_s, "elapsed": elapsed_s},
            "front": {front.device: self._compact(front) for front in result.fronts.devices},
            "hypervolume": volumes,
        }
        if reused:
            attrs["reused"] = True
        tell_complete(
            self.book,
            trial,
            values=trial_values(result.fronts),
            constraints=trial_constraints(result.fronts, self.problem.budgets),
            attrs=attrs,
        )
        self.history.append(step)
        append_log(self.run, _log_record(trial.number, step))

    def _compact(self, front: DeviceFront) -> dict[str, Any]:
        names = self.problem.objectives
        points = objective_points(front.error_bound, front.costs, names)
        columns = ["error_bound" if name == "error" else name for name in names]
        return {"columns": columns, "points": points[thin(points, COMPACT_POINTS)].tolist()}


def open_ledger(run: Run, book: Book, problem: SearchProblem, weights_hash: str) -> Ledger:
    """The results of the passes that are complete, as far as they are on disk.

    Raises:
        InputError: when the full network's trace is damaged or comes from other weights.
    """
    full = setting_key(full_setting(book.codec))
    ledger = Ledger(run=run, book=book, problem=problem, weights_hash=weights_hash, full_key=full)
    complete = book.trials(TrialState.COMPLETE)
    complete.sort(key=lambda t: t.user_attrs["seconds"]["elapsed"])
    for trial in complete:
        key = setting_key(trial.user_attrs["setting"])
        ledger.traces[trial.number] = ledger.trace_hash(key)
        elapsed = trial.user_attrs["seconds"]["elapsed"]
        volumes = trial.user_attrs["hypervolume"]
        passes = ledger.passes + (not trial.user_attrs.get("reused"))
        ledger.history.append(_step(passes, elapsed, volumes))
        ledger.elapsed_s = elapsed
        path = stored_trace(run, trial)
        if key == full and path.exists():
            ledger.set_reference(load_trace(path, weights_hash))
        fronts = load_fronts(run.fronts_file(path)) if path.exists() else None
        if fronts is not None:
            ledger.add(trial.number, fronts)
    records = zip(complete, ledger.history, strict=True)
    write_log(run, [_log_record(trial.number, step) for trial, step in records])
    return ledger


def stored_trace(run: Run, trial: FrozenTrial) -> Path:
    """Where the trace of a COMPLETE trial lies."""
    return run.path / str(trial.user_attrs["trace"])


def to_rebuild(ledger: Ledger) -> list[FrozenTrial]:
    """COMPLETE trials whose fronts or trace are not on disk any more."""
    missing = []
    for trial in ledger.book.trials(TrialState.COMPLETE):
        path = stored_trace(ledger.run, trial)
        if not path.exists() or load_fronts(ledger.run.fronts_file(path)) is None:
            missing.append(trial)
    return missing


def rebuild(ledger: Ledger, trial: FrozenTrial, result: PassResult) -> None:
    """Write trace and fronts of a COMPLETE trial again; the trial itself stays as it is."""
    path = stored_trace(ledger.run, trial)
    if not path.exists():
        save_trace(path, result.trace)
    save_fronts(ledger.run.fronts_file(path), result.fronts)
    if setting_key(trial.user_attrs["setting"]) == ledger.full_key:
        ledger.set_reference(result.trace)
    ledger.add(trial.number, result.fronts)


def trace_of_stale(ledger: Ledger, number: int, setting: Params) -> Trace | None:
    """The complete trace of a trial whose driver died, if there is one."""
    path = ledger.run.trace_file(number, setting_key(setting))
    if not path.exists():
        return None
    try:
        return load_trace(path, ledger.weights_hash)
    except InputError as error:
        _LOG.warning("pass %d runs again: %s", number, error)
        return None


def _step(passes: int, seconds: float, volumes: dict[str, float]) -> HypervolumeStep:
    mean = sum(volumes.values()) / len(volumes) if volumes else 0.0
    return HypervolumeStep(passes=passes, seconds=seconds, mean=mean, devices=dict(volumes))


def _log_record(number: int, step: HypervolumeStep) -> dict[str, Any]:
    return {
        "event": "pass",
        "trial": number,
        "passes": step.passes,
        "elapsed_s": step.seconds,
        "hypervolume": step.mean,
        "hypervolume_by_device": step.devices,
    }
