"""`dynsearch explain`: one configuration of a run's front, from the run folder alone."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cost_models.device import Device, load_device
from dynsearch.bench_select import for_batch
from dynsearch.evaluate import blank_trace
from dynsearch.explain.parts import parts
from dynsearch.explain.prices import Setting
from dynsearch.explain.waterfall import waterfall
from dynsearch.explain.whatif import Case, open_case, what_helps
from dynsearch.export.front import BENCH_FILE, read_front, read_json
from dynsearch.export.records import Front, FrontPoint
from dynsearch.quality.trace import Trace, load_trace, trace_header
from dynsearch.search.runs import Run, open_run
from dynsearch.sim.decide import exit_layers
from search_spaces.candidate import Candidate, apply_policy, policies_of
from search_spaces.codec import candidate_from_dict, candidate_hash
from search_spaces.errors import InputError, Problem
from search_spaces.workload import Workload

NEAR = 3  # ids or names that an error suggests
REACH_AGREES = 1e-9


def explain(
    run_dir: Path, id_: str, *, device: str | None = None, batch: int | None = None
) -> dict[str, Any]:
    """Why a configuration is as fast as it is, and what would make it faster.

    Args:
        run_dir: Run folder with a front.
        id_: The configuration.
        device: Name of a device of the run, or "local"; None: the one that was measured, else
            the configuration's first.
        batch: Inputs in a batch; None: the job's.

    Returns:
        `start_s`, `steps` and `total_s` of the waterfall, the full network's time, FLOPs,
        speed-ups, `helps` and what `parts.parts` tells; all times are seconds per input.

    Raises:
        InputError: no such run, configuration or device, or its trace is missing or damaged.
    """
    run = open_run(run_dir)
    front = read_front(run.path)
    source = Source(run=run, front=front, devices=_devices(run), batch=batch)
    mine = [p for p in front.front if p.id == id_]
    if not mine:
        raise _unknown_id(front, id_, run)
    return source.explain(_on_device(source, mine, device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A run that configurations are explained from."""

    run: Run
    front: Front
    devices: dict[str, Device]  # by name, and by the name of their file
    batch: int | None = None

    def explain(self, point: FrontPoint) -> dict[str, Any]:
        """One point of the front; see `explain`.

        Raises:
            InputError: its trace or device file is missing or damaged.
        """
        warnings: list[str] = []
        load = self._workload()
        candidate = self._as_run(candidate_from_dict(point.candidate))
        outer, trace = self._activity(candidate, point, warnings)
        own = self._case(outer, trace, candidate, point.device, load)
        full = self._full(point, trace, load)
        found = waterfall(own.account, full.account)
        return {
            "run": str(self.run.path),
            "id": point.id,
            "device": point.device,
            "family": point.family,
            "dtype": point.dtype,
            "batch": load.batch,
            "sort": load.sort,
            "rows": trace.num_samples,
            "origin": own.setting.device.origin,
            "full_s": found.full_s,
            "flops": own.account.flops,
            "full_flops": full.account.flops,
            "flops_share": found.flops_share,
            "speed_up": found.full_s / found.total_s,
            "start_s": found.start_s,
            "steps": [asdict(step) | {"label": step.label} for step in found.steps],
            "total_s": found.total_s,
            "helps": [asdict(one) for one in what_helps(own)],
            **parts(own),
            "warnings": warnings,
        }

    def _case(
        self, outer: Candidate, trace: Trace, candidate: Candidate, device: str, load: Workload
    ) -> Case:
        setting = Setting(
            outer=outer,
            device=self.devices[device],
            workload=load,
            num_classes=int(trace.logits.shape[2]),
        )
        return open_case(setting, trace, policies_of([candidate]))

    def _full(self, point: FrontPoint, trace: Trace, load: Workload) -> Case:
        """The full network of the point's format, on the same rows."""
        for p in self.front.front:
            if (p.family, p.dtype, p.device) == ("full", point.dtype, point.device):
                candidate = self._as_run(candidate_from_dict(p.candidate))
                blank = blank_trace(candidate, trace.lengths, int(trace.logits.shape[2]))
                return self._case(candidate, blank, candidate, point.device, load)
        text = f"no full network in {point.dtype} on {point.device} to compare with; "
        text += "`dynsearch resume RUN` writes the front again"
        raise InputError.one(self.run.path / "front.json", "front", point.dtype, text)

    def _workload(self) -> Workload:
        known = {f.name for f in fields(Workload)}
        load = Workload(**{k: v for k, v in self.front.workload.items() if k in known})
        return load if self.batch is None else replace(load, batch=self.batch)

    def _as_run(self, candidate: Candidate) -> Candidate:
        return for_batch(candidate, self.batch or 1)

    def _activity(
        self, candidate: Candidate, point: FrontPoint, warnings: list[str]
    ) -> tuple[Candidate, Trace]:
        """The outer setting of a configuration, and the trace of the search rows that fits it.

        A network without early exits decides nothing: of any trace it needs the lengths alone.
        """
        paths = sorted((self.run.path / "traces").glob("*.npz"))
        if candidate.exits is None:
            outer = replace(candidate, depth=candidate.backbone.num_layers)
            first = self._first_readable(paths, candidate)
            return outer, blank_trace(outer, first.lengths, int(first.logits.shape[2]))
        fitting = self._fitting(paths, candidate)
        best: tuple[float, Candidate, Trace] | None = None
        for outer, path in fitting:
            trace = self._load(path, candidate)
            off = self._reach_difference(trace, candidate, point)
            if best is None or off < best[0]:
                best = off, outer, trace
            if off <= REACH_AGREES:
                break
        assert best is not None
        if best[0] > REACH_AGREES:
            text = "the share of rows that reach a layer differs from the front's by up to "
            warnings.append(f"{text}{best[0] * 100:.2g} points: it was found on another trace")
        return best[1], best[2]

    @staticmethod
    def _reach_difference(trace: Trace, candidate: Candidate, point: FrontPoint) -> float:
        """Largest difference of the replayed reach from the one that the front states."""
        if point.reach is None:
            return 0.0
        exits = exit_layers(trace.logits, policies_of([candidate]))[0]
        reach = (exits[:, None] >= np.arange(len(point.reach))).mean(axis=0)
        return float(np.abs(reach - np.array(point.reach)).max())

    def _fitting(
        self, paths: Sequence[Path], candidate: Candidate
    ) -> list[tuple[Candidate, Path]]:
        """Traces of outer settings that give `candidate` under its own policy."""
        wanted, policy = candidate_hash(candidate), policies_of([candidate])
        found: list[tuple[Candidate, Path]] = []
        damaged: list[Problem] = []
        for path in paths:
            try:
                header = trace_header(path)
                outer = candidate_from_dict(_table(header, path), file=str(path))
            except InputError as error:
                damaged += error.problems
                continue
            if outer.backbone != candidate.backbone:
                continue
            deep = header.get("depth", outer.backbone.num_layers)
            if candidate_hash(apply_policy(outer, policy, 0)) == wanted and (
                isinstance(deep, int) and deep >= candidate.depth
            ):
                found.append((outer, path))
        if not found:
            text = "no trace of this configuration's outer setting is left; "
            text += "`dynsearch resume RUN` runs missing passes again"
            folder = str(self.run.path / "traces")
            raise InputError(damaged or [Problem(folder, "id", wanted[:8], text)])
        return found

    def _load(self, path: Path, candidate: Candidate) -> Trace:
        """A trace that fits the candidate's backbone and the run's workload."""
        trace = load_trace(path)
        n, layers = trace.lengths.size, candidate.backbone.num_layers
        logits, most = trace.logits.shape, int(self.front.workload["max_len"])
        again = "delete it and `dynsearch resume RUN` runs the pass again"
        if n == 0 or len(logits) != 3 or logits[:2] != (n, layers) or trace.labels.size != n:
            text = f"must hold logits of {n} rows and {layers} layers; {again}"
            raise InputError.one(path, "logits", logits, text)
        if trace.lengths.min() < 1 or trace.lengths.max() > most:
            text = f"rows must have 1 to {most} tokens as the run's workload says; {again}"
            raise InputError.one(path, "lengths", int(trace.lengths.max()), text)
        return trace

    def _first_readable(self, paths: Sequence[Path], candidate: Candidate) -> Trace:
        problems: list[Problem] = []
        for path in paths:
            try:
                return self._load(path, candidate)
            except InputError as error:
                problems += error.problems
        text = "holds no trace; `dynsearch resume RUN` runs missing passes again"
        raise InputError(problems or [Problem(str(self.run.path / "traces"), "", "", text)])


def open_source(run_dir: Path, front: Front) -> Source:
    """A run whose front was read already, for the report.

    Raises:
        InputError: the folder is no run, or a device file is damaged.
    """
    run = open_run(run_dir)
    return Source(run=run, front=front, devices=_devices(run))


def _table(header: dict[str, Any], path: Path) -> dict[str, Any]:
    outer = header.get("outer")
    if not isinstance(outer, dict):
        text = "states no outer setting; delete it and `dynsearch resume RUN` runs the pass again"
        raise InputError.one(path, "outer", None, text)
    return outer


def _devices(run: Run) -> dict[str, Device]:
    """Devices of the run by name; a file's own name stands for its device, too."""
    found: dict[str, Device] = {}
    for file in sorted((run.path / "devices").glob("*.toml")):
        device = load_device(file)
        found[device.name] = device
        found.setdefault(file.stem, device)
    return found


def _on_device(source: Source, mine: Sequence[FrontPoint], wanted: str | None) -> FrontPoint:
    """The configuration's point on the device that was asked for."""
    by_name = {p.device: p for p in mine}
    if wanted is None:
        bench = source.run.path / BENCH_FILE
        measured = read_json(bench, "").get("device") if bench.exists() else None
        name = measured if measured in by_name else mine[0].device
    else:
        name = source.devices[wanted].name if wanted in source.devices else wanted
    if name not in by_name:
        others = ", ".join(sorted(by_name))
        here = "the run has no such device" if name not in source.front.devices else "is no device"
        text = f"{here} that this configuration was priced on; use one of {others}"
        raise InputError.one(source.run.path, "device", wanted, text)
    if name not in source.devices:
        text = f"its file is missing; restore the file of {name} or run the search again"
        raise InputError.one(source.run.path / "devices", "", name, text)
    return by_name[name]


def _unknown_id(front: Front, id_: str, run: Run) -> InputError:
    ids = list(dict.fromkeys(p.id for p in front.front))
    near = [x for x in ids if id_ and x.startswith(id_)][:NEAR]
    near = near or difflib.get_close_matches(id_, ids, NEAR, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    text = f"no such configuration; {hint}`dynsearch front {run.path}` lists them"
    return InputError.one(run.path, "id", id_, text)
