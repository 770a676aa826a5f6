"""The way of a job, from its file to a run folder, and what can be done with that folder.

`search` reads top to bottom: open model and data, find devices, price the full network, resolve
budgets and anchors, search, freeze the front, confirm it on report rows, write everything.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dynsearch.errors import DynsearchError, InputError
from dynsearch.evaluate import Costs, lower_bounds
from dynsearch.export.files import write_atomic
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
from dynsearch.front_quality import length_buckets
from dynsearch.job import Job, job_hash, override, resolve_to_toml
from dynsearch.opened import (
    Opened,
    job_of,
    open_all,
    pass_fronts,
    reopen,
    same_material,
)
from dynsearch.problem import problem_of
from dynsearch.progress import Progress
from dynsearch.quality.data import Text
from dynsearch.quality.opening import Material, open_material, report_texts
from dynsearch.quality.source import SupernetQuality, split_hash
from dynsearch.quality.trace import Trace, load_trace
from dynsearch.redact import redact_url
from dynsearch.rejection import budget_rejection
from dynsearch.risk.certify import certify_front, risk_record
from dynsearch.search.database import forget_run
from dynsearch.search.driver import SearchOptions, SearchResult, SearchState, run_search
from dynsearch.search.remote import slots
from dynsearch.search.runs import Run, create_run, open_run, run_folder
from dynsearch.search.screen import make_screen
from dynsearch.search.stagnation import stands_still
from dynsearch.search.types import SearchProblem
from dynsearch.search.warm import WarmStart, gather, still_there
from dynsearch.threads import all_cores
from search_spaces.candidate import Candidate

logger = logging.getLogger(__name__)


def search(
    job: Job,
    *,
    out: Path,
    trials: int | None = None,
    workers: int | None = None,
    seed: int | None = None,
    storage: str | None = None,
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
        storage: Of the study: journal, memory or the URL of a database; None: the job's.
        fresh: Start anew; a cached supernet is used again.
        progress: Shows what happens.

    Returns:
        `run`, `passes`, `front` and more, as `--json` prints it.

    Raises:
        InputError: bad input, an impossible budget, or a run that another driver holds.
        DynsearchError: the search could not go on.
    """
    job = override(job, trials=trials, workers=workers, seed=seed, storage=storage)
    progress.stage("reading model and data")
    material = open_material(job)
    run = make_run(job, material, out, fresh=fresh)
    if fresh:
        forget_run(job.search.storage, run.study_name)
    return _carry_on(job, run, material, progress)


def make_run(job: Job, material: Material, out: Path, *, fresh: bool = False) -> Run:
    """The run folder of a job, made unless it is there; it holds no password of a database."""
    key = job_hash(job, model_hash=material.model_sha256, data_hash=material.data_sha256)
    safe = job.model_copy(
        update={
            "search": job.search.model_copy(update={"storage": redact_url(job.search.storage)})
        }
    )
    folder = run_folder(out, job.name, key)
    run = create_run(folder, resolve_to_toml(safe), fresh=fresh, seed=job.search.seed)
    kept = job_of(run)
    if kept.risk != job.risk:  # no part of the hash: a finished run can be certified later
        if kept.risk is not None and job.risk is not None:
            logger.warning(
                "the calibration rows of this run were opened before, for another [risk]; whoever "
                "chooses between the two pays with the sum of both deltas"
            )
        changed = kept.model_copy(update={"risk": job.risk})
        write_atomic(run.job_file, resolve_to_toml(changed))
    return run


def resume(
    run_dir: Path,
    *,
    trials: int | None = None,
    workers: int | None = None,
    storage: str | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Go on with the search of a run folder; `storage` gives a password that it does not hold.

    Raises:
        InputError: the folder is no run, or model or data are not those it began with.
        DynsearchError: the search could not go on.
    """
    run = open_run(run_dir)
    job = override(job_of(run), trials=trials, workers=workers, storage=storage)
    left = {"warm_start": still_there(job.search.warm_start)}
    job = job.model_copy(update={"search": job.search.model_copy(update=left)})
    progress.stage("reading model and data")
    return _carry_on(job, run, same_material(job, run), progress)


def front(run_dir: Path) -> dict[str, Any]:
    """The front of a run folder."""
    return _front_result(open_run(run_dir), read_front(run_dir))


def export(
    run_dir: Path,
    format_: str,
    out: Path,
    ids: tuple[str, ...] = (),
    *,
    opset: int | None = None,
    rows: int = 0,
) -> dict[str, Any]:
    """Write the front to files (json, csv, toml), or its models so that they run (torch, onnx).

    With `rows`, as many report rows go with each model, for `dynsearch verify`.

    Raises:
        InputError: no such configuration, the run has no front yet, or the format cannot express
            a configuration.
    """
    found = read_front(run_dir)
    _check_ids(found, ids, run_dir)
    if format_ == "torch":
        from dynsearch.export.torch_export import export_torch

        texts = _report_texts(run_dir, rows)
        return {"files": [str(p) for p in export_torch(run_dir, ids, out, texts)]}
    if format_ == "onnx":
        from dynsearch.export.onnx_export import export_onnx
        from dynsearch.export.onnx_graph import OPSET

        chosen, texts = OPSET if opset is None else opset, _report_texts(run_dir, rows)
        return {"files": [str(p) for p in export_onnx(run_dir, ids, out, chosen, texts)]}
    if ids:
        found = replace(found, front=tuple(p for p in found.front if p.id in ids))
    out.mkdir(parents=True, exist_ok=True)
    if format_ == "toml":
        return {"files": [str(p) for p in write_front_toml(found, out)]}
    write = {"json": write_front_json, "csv": write_front_csv}[format_]
    return {"files": [str(write(found, out))]}


def report(run_dir: Path, *, figures: bool = False) -> dict[str, Any]:
    """Write `report.html` into the run folder; with `figures`, fronts as SVG files beside it."""
    from dynsearch.report.figures import write_figures
    from dynsearch.report.html import build_report

    made = [build_report(run_dir), *(write_figures(run_dir) if figures else ())]
    return {"files": [str(path) for path in made]}


def bench(
    run_dir: Path,
    *,
    rows: int = 400,
    configs: int = 24,
    batches: tuple[int, ...] = (1, 8),
    repeats: int = 5,
    runtime: str = "torch",
    progress: Progress,
) -> dict[str, Any]:
    """Time configurations of a run on this machine, beside their predictions.

    Raises:
        InputError: the run has no front, or was not priced for this machine.
    """
    from dynsearch.timing import bench_run_folder

    progress.stage("opening the run")
    opened = reopen(open_run(run_dir))
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
        repeats=repeats,
        on_progress=lambda share: progress.share(share),
        runtime=runtime,
    )
    report(run_dir)
    return result


def bench_data(
    run_dir: Path,
    data: Path,
    *,
    rows: int = 400,
    repeats: int = 5,
    progress: Progress,
) -> dict[str, Any]:
    """Named points of a run on the texts of another file: exit rates, cost, quality, budgets.

    Raises:
        InputError: the run has no front or was not priced for this machine, or no such texts.
    """
    from dynsearch.shift import read_other, shift

    progress.stage("opening the run")
    opened = reopen(open_run(run_dir))
    other = read_other(data, opened)
    progress.stage("running configurations on the other texts")
    return shift(
        opened,
        read_front(run_dir),
        other,
        rows=rows,
        repeats=repeats,
        on_progress=progress.share,
    )


def _finished(job: Job, run: Run) -> Front | None:
    """The confirmed front of a run that needs no more passes, which nothing may touch."""
    try:
        found = read_front(run.path)
    except InputError:
        return None  # no front yet, or a damaged one: it is derived and is written again
    complete = found.hypervolume and (
        found.hypervolume[-1].passes + found.screened >= job.search.trials
        or stands_still(found.hypervolume, job.search.patience)
    )
    confirmed = all(p.confirmed is not None for p in found.front)
    certified = found.risk == risk_record(job.risk)
    return found if complete and confirmed and certified else None


def _carry_on(job: Job, run: Run, material: Material, progress: Progress) -> dict[str, Any]:
    done = _finished(job, run)
    if done is not None:
        passes = done.hypervolume[-1].passes
        return _front_result(run, done) | {
            "passes": passes,
            "stopped": "trials" if passes >= job.search.trials else "stagnation",
        }
    opened = open_all(job, run, material, progress)
    problem, full_by_dtype = problem_of(opened)
    result = run_passes(opened, problem, progress)
    found = _finish(opened, problem, full_by_dtype, result, progress)
    progress.stage("writing report")
    report(run.path)
    answer = _front_result(run, found)
    answer |= {"passes": result.passes, "reused": result.reused, "screened": result.screened}
    answer["stopped"] = result.stopped
    if result.reason:
        answer["warnings"] = [f"{result.failed} passes failed; the last: {result.reason}"]
    return answer


def run_passes(opened: Opened, problem: SearchProblem, progress: Progress) -> SearchResult:
    """The passes of a run, or those that it still lacks; no front is frozen.

    Raises:
        DynsearchError: interrupted before the first pass was complete, or too many failed.
    """
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

    result = run_search(
        opened.run,
        space=space,
        quality=opened.recorder,
        problem=problem,
        options=SearchOptions(
            trials=job.search.trials,
            workers=slots(job.search.workers),
            seed=job.search.seed,
            sampler=job.search.sampler,
            storage=job.search.storage,
            max_failures=job.search.max_failures,
            timeout_s=job.search.timeout_s,
            patience=job.search.patience,
            gpu_share=job.search.gpu_share,
            screen_rows=job.search.screen_rows,
        ),
        warm=_warm_start(opened),
        screen=make_screen(
            lower_bound=lambda outer: lower_bounds(opened.scene, outer, lengths),
            budgets=problem.budgets,
            min_depth=space.inner.min_depth,
        ),
        progress=told,
    )
    if result.stopped == "interrupted" and result.passes == 0:
        raise DynsearchError("interrupted before the first pass was complete; nothing to show")
    return result


def _warm_start(opened: Opened) -> WarmStart:
    """What the runs and fronts that the job names leave to its run."""
    quality = opened.quality
    return gather(
        opened.job.search.warm_start,
        space=opened.material.space,
        weights_hash=quality.weights_hash,
        split="search",
        split_hash=split_hash(quality.splits["search"]),
        trials=opened.job.search.trials,
    )


def _finish(
    opened: Opened,
    problem: SearchProblem,
    full_by_dtype: Mapping[str, Costs],
    result: SearchResult,
    progress: Progress,
) -> Front:
    """Freeze the front, confirm it, write it."""
    run, space, scene, quality = opened.run, opened.material.space, opened.scene, opened.recorder
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
        metric=scene.metric,
    )
    chosen = choose(parts, outers, full, problem.objectives)
    searched = {d.name for d in scene.devices}
    elsewhere = tuple(d for d in opened.scored if d.name not in searched)
    names = tuple(d.name for d in elsewhere)
    chosen = [replace(one, devices=(*one.devices, *names)) for one in chosen]
    priced = replace(scene, devices=(*scene.devices, *elsewhere))
    search_trace = _kept_traces(quality, outers, traces)
    points = make_points(
        chosen,
        scene=priced,
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
        screened=result.spent - result.passes,
        front=points,
        budget_rejection=budget_rejection(space, scene, problem.budgets),
        metric=scene.metric,
        length_buckets=length_buckets(full.trace.lengths, None),
    )
    write_front_json(front, run.path)  # frozen: nothing is chosen after this line
    if opened.job.risk is not None:
        progress.stage("certifying named configurations on calibration rows")
        front, chosen = certify_front(
            front,
            chosen,
            opened.job.risk,
            scene=priced,
            full=full,
            quality=quality,
            search_trace=search_trace,
        )
        points = front.front
        write_front_json(front, run.path)
    progress.stage("confirming the front on report rows")
    with all_cores():
        full_report = quality.record(full_outer, "report")
    points = confirm(
        points,
        chosen,
        scene=scene,
        full=full,
        full_report=full_report,
        report_trace=lambda one, depth: (
            full_report
            if one.outer == full_outer
            else quality.record(replace(one.outer, depth=depth), "report")
        ),
        on_progress=lambda share: progress.share(share),
    )
    front = replace(
        front,
        front=points,
        reference=reference_of(points, full, full_report),
        length_buckets=length_buckets(full.trace.lengths, full_report.lengths),
    )
    write_front_json(front, run.path)
    write_front_csv(front, run.path)
    write_front_toml(front, run.path / "configurations")
    return front


def _kept_traces(
    quality: SupernetQuality, outers: Mapping[int, Candidate], traces: Mapping[int, Path]
) -> Callable[[Chosen, int], Trace]:
    """Search traces by outer setting: from the run folder, else a pass that is run now."""
    by_outer = {outer: traces[n] for n, outer in outers.items() if n in traces}

    def find(one: Chosen, depth: int) -> Trace:
        path = by_outer.get(one.outer)
        if path is not None:
            trace = load_trace(path, quality.weights_hash)
            if trace.depth >= depth:
                return trace
        return quality.record(replace(one.outer, depth=depth), "search")

    return find


def _front_result(run: Run, found: Front) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(asdict(found)))
    return {
        "run": str(run.path),
        "front": data["front"],
        "reference": data["reference"],
        "metric": data["metric"],
        "budgets": data["budgets"],
        "length_buckets": data["length_buckets"],
        "uncertified": data["uncertified"],
        "hypervolume": data["hypervolume"][-1]["mean"] if data["hypervolume"] else 0.0,
    }


def _report_texts(run_dir: Path, rows: int) -> list[tuple[Text, str]]:
    """The first report rows of a run, with their labels."""
    if not rows:
        return []
    run = open_run(run_dir)
    return report_texts(job_of(run), same_material(job_of(run), run).labels, rows)


def _check_ids(found: Front, ids: tuple[str, ...], run_dir: Path) -> None:
    known = {p.id for p in found.front}
    for key in ids:
        if key not in known:
            text = f"no such configuration; `dynsearch front {run_dir}` lists them"
            raise InputError.one(run_dir, "id", key, text)
