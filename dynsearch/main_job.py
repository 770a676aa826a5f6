"""The way of a job, from its file to a run folder, and what can be done with that folder.

`search` reads top to bottom: open model and data, find devices, price the full network, resolve
budgets and anchors, search, freeze the front, confirm it on report rows, write everything.
"""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cost_models.calibrate.host import usable_cores
from cost_models.calibrate.write import device_text
from cost_models.device import Device, load_device
from dynsearch.commands.devices import calibrate, local_file
from dynsearch.errors import DynsearchError, InputError
from dynsearch.evaluate import Costs, Scene, inner_spec, lower_bounds, static_costs
from dynsearch.export.front import (
    Front,
    read_front,
    write_front_csv,
    write_front_json,
    write_front_toml,
)
from dynsearch.front_points import (
    Chosen,
    FullNetwork,
    choose,
    confirm,
    make_points,
    reference_of,
)
from dynsearch.job import Job, job_from_dict, job_hash, override, resolve_to_toml
from dynsearch.job_checks import LOCAL
from dynsearch.progress import Progress, make_progress
from dynsearch.quality.opening import Material, open_material, open_quality
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.trace import Trace, load_trace
from dynsearch.rejection import budget_rejection
from dynsearch.search.driver import SearchOptions, SearchResult, SearchState, run_search
from dynsearch.search.fronts import MergedFront, as_merged, load_fronts
from dynsearch.search.runs import Run, create_run, open_run, run_folder
from dynsearch.search.screen import make_screen
from dynsearch.search.study import anchor_costs, redact_url
from dynsearch.search.types import SearchProblem
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict
from search_spaces.workload import Workload

logger = logging.getLogger(__name__)

CALIBRATION_S = 80.0
ANCHOR_SETTINGS = 12  # outer settings whose shallowest cost bounds the anchors from below
BUDGETABLE = ("latency_mean_s", "latency_worst_s", "peak_bytes", "time_per_sample_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run with everything that its commands work with."""

    job: Job
    run: Run
    material: Material
    quality: SupernetQuality
    scene: Scene

    @property
    def settings(self) -> dict[int, Candidate]:
        """Outer setting of each finished pass, by trial, read from its trace."""
        return {n: trace_setting(path) for n, path in pass_fronts(self.run)[1].items()}

    @property
    def exit_batching(self) -> str:
        """How static networks are batched: the first way that the space offers."""
        return self.material.space.inner.exit_batching[0]


def search(
    job: Job,
    *,
    out: Path,
    trials: int | None = None,
    workers: int | None = None,
    seed: int | None = None,
    fresh: bool = False,
    progress: Progress,
) -> dict[str, Any]:
    """Run a job to a confirmed front, or go on with it.

    Args:
        job: The job.
        out: Folder that gets `<job>-<hash8>/`.
        trials: Forward passes in all; None: the job's.
        workers: Parallel passes; None: the job's.
        seed: Of the sampler; None: the job's.
        fresh: Start anew; a cached supernet is used again.
        progress: Shows what happens.

    Returns:
        `run`, `passes`, `front` and more, as `--json` prints it.

    Raises:
        InputError: bad input, an impossible budget, or a run that another driver holds.
        DynsearchError: the search could not go on.
    """
    job = override(job, trials=trials, workers=workers, seed=seed)
    progress.stage("reading model and data")
    material = open_material(job)
    key = job_hash(job, model_hash=material.model_sha256, data_hash=material.data_sha256)
    safe = job.model_copy(
        update={
            "search": job.search.model_copy(update={"storage": redact_url(job.search.storage)})
        }
    )
    run = create_run(run_folder(out, job.name, key), resolve_to_toml(safe), fresh=fresh)
    return _carry_on(job, run, material, progress)


def resume(
    run_dir: Path,
    *,
    trials: int | None = None,
    workers: int | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Go on with the search of a run folder.

    Raises:
        InputError: the folder is no run, or model or data are not those it began with.
        DynsearchError: the search could not go on.
    """
    run = open_run(run_dir)
    job = override(_job_of(run), trials=trials, workers=workers)
    progress.stage("reading model and data")
    return _carry_on(job, run, _same_material(job, run), progress)


def front(run_dir: Path) -> dict[str, Any]:
    """The front of a run folder."""
    return _front_result(open_run(run_dir), read_front(run_dir))


def export(run_dir: Path, format_: str, out: Path, ids: tuple[str, ...] = ()) -> dict[str, Any]:
    """Write the front to files (json, csv, toml), or its models so that they run (torch).

    Raises:
        InputError: no such configuration, or the run has no front yet.
    """
    found = read_front(run_dir)
    _check_ids(found, ids, run_dir)
    if format_ == "torch":
        from dynsearch.export.torch_export import export_torch

        return {"files": [str(p) for p in export_torch(run_dir, ids, out)]}
    if ids:
        found = replace(found, front=tuple(p for p in found.front if p.id in ids))
    out.mkdir(parents=True, exist_ok=True)
    if format_ == "toml":
        return {"files": [str(p) for p in write_front_toml(found, out)]}
    write = {"json": write_front_json, "csv": write_front_csv}[format_]
    return {"files": [str(write(found, out))]}


def report(run_dir: Path) -> dict[str, Any]:
    """Write `report.html` into the run folder."""
    from dynsearch.report.html import build_report

    return {"files": [str(build_report(run_dir))]}


def bench(
    run_dir: Path,
    *,
    rows: int = 400,
    configs: int = 24,
    batches: tuple[int, ...] = (1, 8),
    seconds: float | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Time configurations of a run on this machine, beside their predictions.

    Raises:
        InputError: the run has no front, or was not priced for this machine.
    """
    from dynsearch.timing import bench_run_folder

    progress.stage("opening the run")
    opened = _reopen(open_run(run_dir))
    parts, traces = pass_fronts(opened.run)
    progress.stage("timing configurations")
    result = bench_run_folder(
        opened,
        front=read_front(run_dir),
        parts=parts,
        traces=traces,
        rows=rows,
        configs=configs,
        batches=batches,
        seconds=seconds,
        on_progress=lambda share: progress.share(share),
    )
    report(run_dir)
    return result


def _carry_on(job: Job, run: Run, material: Material, progress: Progress) -> dict[str, Any]:
    opened = _open(job, run, material, progress)
    problem, full_by_dtype = _problem(opened)
    result = _search(opened, problem, progress)
    if result.stopped == "interrupted" and result.passes == 0:
        raise DynsearchError("interrupted before the first pass was complete; nothing to show")
    found = _finish(opened, problem, full_by_dtype, result, progress)
    progress.stage("writing report")
    report(run.path)
    answer = _front_result(run, found) | {"passes": result.passes, "stopped": result.stopped}
    if result.reason:
        answer["warnings"] = [f"{result.failed} passes failed; the last: {result.reason}"]
    return answer


def _open(job: Job, run: Run, material: Material, progress: Progress) -> Opened:
    def told(share: float, text: str) -> None:
        progress.share(share, text)

    progress.stage("supernet: training it, unless it is cached")
    quality = open_quality(material, run.path, progress=told)
    workload = Workload(
        batch=job.workload.batch,
        max_len=job.workload.max_len,
        sort=job.workload.sort,
        threads=job.workload.threads,
        runtime=job.workload.runtime,
    )
    devices = tuple(_device(name, job, run, progress) for name in job.devices)
    scene = Scene(devices=devices, workload=workload, num_classes=len(material.labels))
    return Opened(job=job, run=run, material=material, quality=quality, scene=scene)


def _reopen(run: Run) -> Opened:
    """Everything of a run whose search has left a front, without training or calibrating."""
    job = _job_of(run)
    return _open(job, run, _same_material(job, run), make_progress(quiet=True))


def _job_of(run: Run) -> Job:
    raw = tomllib.loads(run.job_file.read_text(encoding="utf-8"))
    return job_from_dict(raw, file=str(run.job_file), base=run.path, check_files=False)


def _same_material(job: Job, run: Run) -> Material:
    material = open_material(job)
    key = job_hash(job, model_hash=material.model_sha256, data_hash=material.data_sha256)
    if not run.path.name.endswith(key[:8]) and not run.study_name.endswith(key[:8]):
        text = "model, data or settings differ from what the run began with; start a new search"
        raise InputError.one(run.job_file, "", None, text)
    return material


def _device(name: str, job: Job, run: Run, progress: Progress) -> Device:
    """A device as the run began with it: its file is copied into the run folder once."""
    mine = run.path / "devices" / f"{Path(name).stem}.toml"
    if mine.is_file():
        return load_device(mine)
    if name == LOCAL:
        file = local_file(job.workload.threads)
        if not file.is_file():
            progress.stage("calibrating the cost model to this machine")
            calibrate(
                None, seconds=CALIBRATION_S, threads=job.workload.threads, progress=progress.share
            )
        device = load_device(file)
    else:
        device = load_device(name)
    mine.parent.mkdir(exist_ok=True)
    part = mine.with_suffix(".part")
    part.write_text(device_text(device, device.profile), encoding="utf-8")
    part.rename(mine)
    return device


def _problem(opened: Opened) -> tuple[SearchProblem, dict[str, Costs]]:
    """Budgets and anchors in SI units, from what the full network costs on each device."""
    job, scene, space = opened.job, opened.scene, opened.material.space
    lengths = opened.quality.splits["search"].tokens.lengths
    objectives = tuple(job.objectives)
    wanted = tuple(dict.fromkeys([*objectives[1:], *job.budgets, *BUDGETABLE]))
    costs = tuple(n for n in dict.fromkeys([job.cost_objective, *wanted]) if n != "error")

    def price(outer: Candidate, depth: int) -> Costs:
        return static_costs(
            scene, outer, depth, lengths, costs=costs, exit_batching=opened.exit_batching
        )

    full = space.full()
    dtypes = space.table.dtype
    by_dtype = {d: price(replace(full, dtype=d), full.backbone.num_layers) for d in dtypes}
    reference = by_dtype[full.dtype]
    budgets = {
        device.name: {
            name: float(limit)
            if isinstance(limit, float | int)
            else limit.of_full_network * reference[device.name][name]
            for name, limit in job.budgets.items()
        }
        for device in scene.devices
    }
    rng = np.random.default_rng(0)
    tried = [replace(full, dtype=d) for d in dtypes]
    tried += [space.decode(p) for p in space.sample_outer(rng, ANCHOR_SETTINGS)]
    shallow = [price(outer, space.inner.min_depth) for outer in tried]
    _check_budgets(opened, budgets, shallow)
    anchors = {}
    for device in scene.devices:
        name, cost = device.name, job.cost_objective
        low = min(found[name][cost] for found in shallow)
        high = budgets[name].get(cost, reference[name][cost])
        anchors[name] = anchor_costs(low * 0.999, high)
    spec = inner_spec(
        scene, inner_space=space.inner, objectives=objectives, budgets=budgets, anchors=anchors
    )
    problem = SearchProblem(
        devices=tuple(d.name for d in scene.devices),
        objectives=objectives,
        budgets=budgets,
        anchors=anchors,
        full_cost={
            name: {c: values[c] for c in objectives if c != "error"}
            for name, values in reference.items()
        },
        inner_spec=spec,
    )
    return problem, by_dtype


def _check_budgets(
    opened: Opened, budgets: Mapping[str, Mapping[str, float]], shallow: list[Costs]
) -> None:
    """Refuse budgets that no candidate can be within on any device, naming the one that binds."""
    worst: tuple[float, str, float, float, str] | None = None
    for device, limits in budgets.items():
        gaps = []
        for name, limit in limits.items():
            best = min(found[device][name] for found in shallow)
            gaps.append((best / limit, name, limit, best, device))
        if not gaps or max(gaps)[0] <= 1.0:
            return
        if worst is None or max(gaps) < worst:
            worst = max(gaps)
    if worst is not None:
        _, name, limit, best, device = worst
        raise InputError.one(
            opened.job.source,
            f"budgets.{name}",
            f"{limit:.4g}",
            f"impossible on {device}: the cheapest candidate needs {best:.4g}; "
            f"allow at least {best * 1.02:.4g}, or a smaller space.exits.min_depth",
        )


def _search(opened: Opened, problem: SearchProblem, progress: Progress) -> SearchResult:
    job, space = opened.job, opened.material.space
    lengths = opened.quality.splits["search"].tokens.lengths
    progress.stage("searching")

    def told(state: SearchState) -> None:
        progress.update(
            state.done,
            state.running,
            state.failed,
            state.front_size,
            state.hypervolume,
            state.eta_s,
            total=state.total,
        )

    return run_search(
        opened.run,
        space=space,
        quality=opened.quality,
        problem=problem,
        options=SearchOptions(
            trials=job.search.trials,
            workers=job.search.workers or usable_cores(),
            seed=job.search.seed,
            sampler=job.search.sampler,
            storage=job.search.storage,
            max_failures=job.search.max_failures,
            timeout_s=job.search.timeout_s,
        ),
        screen=make_screen(
            lower_bound=lambda outer: lower_bounds(opened.scene, outer, lengths),
            budgets=problem.budgets,
            min_depth=space.inner.min_depth,
        ),
        progress=told,
    )


def pass_fronts(run: Run) -> tuple[list[MergedFront], dict[int, Path]]:
    """Fronts of all finished passes, and the trace file of each trial."""
    parts: list[MergedFront] = []
    traces: dict[int, Path] = {}
    for file in sorted((run.path / "fronts").glob("*.npz")):
        fronts = load_fronts(file)
        trace = run.path / "traces" / file.name
        if fronts is None or not trace.exists():
            continue
        number = int(file.name.partition("-")[0])
        traces[number] = trace
        parts += [as_merged(f, number) for f in fronts.devices]
    return parts, traces


def trace_setting(path: Path) -> Candidate:
    """The outer setting whose pass left a trace."""
    header = load_trace(path).header
    outer: Any = header["outer"]
    return candidate_from_dict(outer, file=str(path))


def _finish(
    opened: Opened,
    problem: SearchProblem,
    full_by_dtype: Mapping[str, Costs],
    result: SearchResult,
    progress: Progress,
) -> Front:
    """Freeze the front, confirm it, write it."""
    run, space, scene, quality = opened.run, opened.material.space, opened.scene, opened.quality
    progress.stage("freezing the front")
    parts, traces = pass_fronts(run)
    outers = {n: space.decode(setting) for n, setting in result.settings.items()}
    full_outer = space.full()
    full_trial = next(n for n, outer in outers.items() if outer == full_outer)
    full = FullNetwork(
        trial=full_trial,
        outer={d: replace(full_outer, dtype=d) for d in full_by_dtype},
        trace=load_trace(traces[full_trial], quality.weights_hash),
        exit_batching=opened.exit_batching,
    )
    chosen = choose(parts, outers, full, problem.objectives)
    search_trace = _kept_traces(opened, outers, traces)
    points = make_points(
        chosen,
        scene=scene,
        full=full,
        objectives=problem.objectives,
        budgets=problem.budgets,
        search_trace=search_trace,
        on_progress=lambda share: progress.share(share),
    )
    front = Front(
        job=opened.job.name,
        run=run.path.name,
        workload=asdict(scene.workload),
        objectives=problem.objectives,
        budgets={name: dict(limits) for name, limits in problem.budgets.items()},
        reference=reference_of(points, full, None),
        hypervolume=result.history,
        front=points,
        budget_rejection=budget_rejection(space, scene, problem.budgets),
    )
    write_front_json(front, run.path)  # frozen: nothing is chosen after this line
    progress.stage("confirming the front on report rows")
    with _all_threads():
        full_report = quality.record(full_outer, "report")
        points = confirm(
            points,
            chosen,
            scene=scene,
            full_report=full_report,
            report_trace=lambda one: (
                full_report if one.outer == full_outer else quality.record(one.outer, "report")
            ),
            on_progress=lambda share: progress.share(share),
        )
    front = replace(front, front=points, reference=reference_of(points, full, full_report))
    write_front_json(front, run.path)
    write_front_csv(front, run.path)
    write_front_toml(front, run.path / "configurations")
    return front


def _kept_traces(
    opened: Opened, outers: Mapping[int, Candidate], traces: Mapping[int, Path]
) -> Callable[[Chosen], Trace]:
    """Search traces by outer setting: from the run folder, else a pass that is run now."""
    by_outer = {outer: traces[n] for n, outer in outers.items() if n in traces}

    def find(one: Chosen) -> Trace:
        path = by_outer.get(one.outer)
        if path is not None:
            return load_trace(path, opened.quality.weights_hash)
        with _all_threads():
            return opened.quality.record(one.outer, "search")

    return find


class _all_threads:  # noqa: N801 - reads as a statement
    """All cores for passes that run in this process."""

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(usable_cores())

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)


def _front_result(run: Run, found: Front) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(asdict(found)))
    return {
        "run": str(run.path),
        "front": data["front"],
        "reference": data["reference"],
        "hypervolume": data["hypervolume"][-1]["mean"] if data["hypervolume"] else 0.0,
    }


def _check_ids(found: Front, ids: tuple[str, ...], run_dir: Path) -> None:
    known = {p.id for p in found.front}
    for key in ids:
        if key not in known:
            text = f"no such configuration; `dynsearch front {run_dir}` lists them"
            raise InputError.one(run_dir, "id", key, text)
