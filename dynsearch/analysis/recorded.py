"""A run's passes as they were recorded, opened from the run folder alone: no model, no texts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from cost_models.device import load_device
from dynsearch.evaluate import Scene, down_to
from dynsearch.export.front import read_front
from dynsearch.export.records import Front, FrontPoint
from dynsearch.opened import job_of, pass_fronts
from dynsearch.quality.trace import Trace, load_trace, trace_header
from dynsearch.search.fronts import MergedFront
from dynsearch.search.inner import InnerProblem
from dynsearch.search.ledger import ERROR_MARGIN
from dynsearch.search.runs import Run, open_run
from dynsearch.sim.ranking import error_of
from dynsearch.sim.replay import Replayer
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict, candidate_hash
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace
from search_spaces.workload import Workload

Limits = dict[str, dict[str, float]]  # device -> cost -> limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """What the passes of a run left."""

    run: Run
    front: Front
    space: SearchSpace
    scene: Scene  # the devices that were searched, in the order of the job
    parts: list[MergedFront]  # front of each pass on each device
    traces: dict[int, Path]  # by trial
    outers: dict[int, Candidate]  # outer setting by trial
    depths: dict[int, int]  # layers that its pass ran, by trial
    full: Trace  # of the full network

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices that were searched."""
        return tuple(device.name for device in self.scene.devices)

    @property
    def costs(self) -> tuple[str, ...]:
        """Costs that are objectives, in their order."""
        return tuple(name for name in self.front.objectives if name != "error")

    @property
    def limits(self) -> Limits:
        """Budgets by device."""
        return {name: dict(self.front.budgets.get(name, {})) for name in self.devices}

    @property
    def budgets(self) -> tuple[str, ...]:
        """Names of all budgets."""
        return tuple(dict.fromkeys(name for mine in self.limits.values() for name in mine))

    def reference_point(self, device: str) -> list[float]:
        """Upper end of each objective, as the search had it.

        Raises:
            InputError: the front does not price the full network on the device.
        """
        full = self.front.reference.cost(device, self.space.full().dtype)
        if full is None:
            text = "does not price the full network there; `dynsearch resume RUN` writes it again"
            raise InputError.one(self.run.path / "front.json", "reference.costs", device, text)
        costs = {
            name: full.per_sample_s if name == PER_SAMPLE else getattr(full, name)
            for name in self.costs
        }
        error = error_of(self.front.metric, self.full) + ERROR_MARGIN
        return [error if name == "error" else float(costs[name]) for name in self.front.objectives]

    def trace(self, trial: int) -> Trace:
        """What the pass of a trial recorded.

        Raises:
            InputError: its file is damaged.
        """
        return load_trace(self.traces[trial])

    def replayer(self, outer: Candidate, trace: Trace) -> Replayer:
        """A trace with the prices of an outer setting."""
        return self.scene.replayer(outer, trace, self.full)

    def problem(self, outer: Candidate, depth: int, limits: Limits) -> InnerProblem:
        """What the inner search is asked on a trace of so many layers, within some limits."""
        return InnerProblem(
            space=down_to(self.space.inner, depth),
            cost=self.costs[0],
            budgets=limits,
            also=self.costs[1:],
            peak_bytes=lambda policies: self.scene.peak_bytes(outer, policies),
        )


PER_SAMPLE = "time_per_sample_s"


def value_of(point: FrontPoint, cost: str) -> float:
    """What a point costs, by the name of a budget or objective."""
    found = point.predicted
    return float(found.per_sample_s if cost == PER_SAMPLE else getattr(found, cost))


def open_recorded(run_dir: Path) -> RecordedRun:
    """The recorded passes of a run with a front.

    Raises:
        InputError: no such run, no front yet, damaged files, or no trace of the full network.
    """
    run = open_run(run_dir)
    front, job = read_front(run.path), job_of(run)
    parts, traces = pass_fronts(run)
    headers = {number: trace_header(path) for number, path in traces.items()}
    outers = {n: candidate_from_dict(h["outer"], file=str(traces[n])) for n, h in headers.items()}
    backbones = list(dict.fromkeys(outer.backbone for outer in outers.values()))
    if not backbones:
        text = "holds no recorded pass; `dynsearch resume RUN` runs missing passes again"
        raise InputError.one(run.path / "traces", "", None, text)
    space = SearchSpace.from_dict(job.space, backbone=backbones[0], file=str(run.job_file))
    wanted = candidate_hash(space.full())
    full = next((n for n, outer in outers.items() if candidate_hash(outer) == wanted), None)
    if full is None:
        text = "lacks the pass of the full network; `dynsearch resume RUN` runs it again"
        raise InputError.one(run.path / "traces", "", None, text)
    trace = load_trace(traces[full])
    known = {f.name for f in fields(Workload)}
    found = {device.name: device for device in map(load_device, _device_files(run))}
    names = list(dict.fromkeys(part.device for part in parts))
    if missing := [name for name in names if name not in found]:
        text = "its file is missing; restore it or run the search again"
        raise InputError.one(run.path / "devices", "", missing[0], text)
    scene = Scene(
        devices=tuple(found[name] for name in names),
        workload=Workload(**{k: v for k, v in front.workload.items() if k in known}),
        num_classes=int(trace.logits.shape[2]),
        metric=front.metric,
    )
    return RecordedRun(
        run=run,
        front=front,
        space=space,
        scene=scene,
        parts=parts,
        traces=traces,
        outers=outers,
        depths={n: int(h.get("depth", outers[n].backbone.num_layers)) for n, h in headers.items()},
        full=trace,
    )


def _device_files(run: Run) -> list[Path]:
    return sorted((run.path / "devices").glob("*.toml"))
