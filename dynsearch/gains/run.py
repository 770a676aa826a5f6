"""One job and one seed, compared by the strictest protocol, from training to the stopwatch.

Order: search every family on the search rows; name points; freeze them (`named.json`); only then
read the report rows; fine-tune the references; time everything in turns in a fresh process;
write `result.json`. Every stage leaves its result on disk, so that an interrupted comparison goes
on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.calibrate.host import processor, usable_cores
from dynsearch.errors import InputError
from dynsearch.evaluate import static_costs
from dynsearch.export.files import write_atomic
from dynsearch.export.records import Confirmed, family_of
from dynsearch.formats import FORMATS, formats_that_pay, time_formats
from dynsearch.front_points import FullNetwork
from dynsearch.gains.families import Searched, fronts_for, full_network, search_families
from dynsearch.gains.picks import (
    FamilyFront,
    bound_of,
    confirm_picks,
    confirm_static,
    family_fronts,
    same_rows_s,
)
from dynsearch.gains.remembered import RememberingQuality
from dynsearch.gains.timed import time_apart, timed_rows, whole_rows
from dynsearch.job import Job
from dynsearch.progress import Progress
from dynsearch.quality.apart import run_apart
from dynsearch.quality.references import open_reference, reference_candidate
from dynsearch.search.runs import source_commit
from dynsearch.threads import all_cores
from search_spaces.codec import candidate_to_dict
from search_spaces.space import FAMILIES
from search_spaces.workload import Workload

SCHEMA_VERSION = 1
BATCHES = (1, 8)  # above 1 sorted by length
STATIC_LAYERS = (2, 3, 4)
STATIC = "static"
COMPARED = (*FAMILIES, STATIC)
MIN_ROWS = 400


def compare(
    job: Job,
    *,
    out: Path,
    seed: int,
    trials: int | None = None,
    rows: int = MIN_ROWS,
    repeats: int = 5,
    formats: Sequence[str] | None = None,
    families: Sequence[str] = COMPARED,
    progress: Progress,
) -> dict[str, Any]:
    """Compare the families of `job` for one seed; what is on disk already is used again.

    Args:
        job: The job; its budgets and other devices are left out.
        out: Folder of the comparison; gets `<job>-seed<seed>/` and the run folders.
        seed: Of training and search.
        trials: Forward passes of each family in each number format; None: the job's.
        rows: Report rows to time.
        repeats: Repeats of the timing.
        formats: Number formats to search, fp32 among them, whatever the job's are; None: the job's
            that are not slower than fp32 on this machine. In the others static networks are timed.
        families: Which of `COMPARED`, one that is searched among them.
        progress: Shows what happens.

    Returns:
        The content of `result.json`, of a finished comparison if it has all `families`.

    Raises:
        InputError: whatever is wrong with the job.
    """
    folder = out / f"{job.name}-seed{seed}"
    done = folder / "result.json"
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if set(families) <= set(found["families"]):
            return found
    if job.quality.metric != "accuracy":
        raise InputError.one(
            job.source, "quality.metric", job.quality.metric, "families are compared by accuracy"
        )
    folder.mkdir(parents=True, exist_ok=True)
    searchable = _formats(folder, job, formats)
    searched = search_families(
        job,
        out=out / "runs",
        traces=folder / "traces",
        formats=searchable,
        seed=seed,
        trials=trials,
        progress=progress,
        families=[name for name in FAMILIES if name in families],
    )
    one = searched[0]
    full = full_network(one, searchable)
    static = [k for k in STATIC_LAYERS if k < full.trace.num_layers] if STATIC in families else []
    progress.stage("naming points on the search rows")
    fronts = _all_fronts(searched, full, progress)
    _freeze(folder, fronts, full)  # nothing is chosen after this line
    progress.stage("confirming them on the report rows")
    quality = one.opened.quality
    with all_cores():
        full_report = quality.record(full.outer["fp32"], "report")
    correct = full_report.logits[:, -1].argmax(axis=-1) == full_report.labels
    picks = [p for f in fronts for p in f.picks]
    confirmed = confirm_picks(
        picks,
        scene=one.opened.scene,
        full=full,
        full_report=full_report,
        quality=quality,
        on_progress=progress.share,
    )
    timed = timed_rows(full_report.lengths, rows)
    known = same_rows_s(picks, scene=one.opened.scene, quality=quality, rows=timed)
    references = _references(one, static, full, correct, folder / "traces", progress)
    progress.stage("timing everything in turns")
    timings = folder / "timings.json"
    plan = folder / "to-time.json"
    wanted = {"rows": rows, "repeats": repeats} | _to_time(one, static, full, fronts)
    if not plan.is_file() or json.loads(plan.read_text(encoding="utf-8")) != wanted:
        timings.unlink(missing_ok=True)
        _write(plan, wanted)
    if not timings.is_file():
        run_apart(
            time_apart,
            timings,
            plan,
            one.opened.run.path,
            progress=progress.share,
        )
    result = {
        "schema_version": SCHEMA_VERSION,
        "job": job.name,
        "seed": seed,
        "commit": source_commit(),
        "processor": processor(),
        "cores": usable_cores(),
        "threads": one.opened.scene.workload.threads,
        "families": [name for name in COMPARED if name in families],
        "passes": {s.family: len(s.traces) for s in searched},
        "rows": {
            "search": full.trace.num_samples,
            "report": full_report.num_samples,
            "timed": int(timed.size),
            "repeats": repeats,
        },
        "full": {
            "selected_error": full.error,
            "confirmed_error": float(1.0 - correct.mean()),
        },
        "not_searched": [d for d in FORMATS if d not in searchable],
        "references": references,
        "fronts": [_front_record(f, confirmed, known) for f in fronts],
        **json.loads(timings.read_text(encoding="utf-8")),
    }
    _write(done, result)
    return result


def _all_fronts(
    searched: Sequence[Searched], full: FullNetwork, progress: Progress
) -> list[FamilyFront]:
    """Fronts of every family at every batch size."""
    out = []
    pairs = [(one, batch) for one in searched for batch in BATCHES]
    for i, (one, batch) in enumerate(pairs):
        workload = one.opened.scene.workload.at_batch(batch)
        parts = fronts_for(one, workload, full.trace)
        full_s = _full_seconds(one, full, workload, formats=tuple(full.outer))
        out += family_fronts(one, parts, full, workload=workload, full_s=full_s)
        progress.share((i + 1) / len(pairs))
    return out


def _full_seconds(
    searched: Searched,
    full: FullNetwork,
    workload: Workload,
    *,
    formats: Sequence[str],
    rows: int | None = None,
) -> dict[str, float]:
    """Predicted time per sample of the full network over the first search rows, by format."""
    scene = replace(searched.opened.scene, workload=workload)
    name = scene.devices[0].name
    batching = full.exit_batching if workload.batch == 1 else "compact"
    return {
        dtype: static_costs(
            scene,
            replace(full.outer["fp32"], dtype=dtype),
            full.trace.num_layers,
            full.trace.lengths[:rows],
            costs=("time_per_sample_s",),
            exit_batching=batching,
        )[name]["time_per_sample_s"]
        for dtype in formats
    }


def _freeze(folder: Path, fronts: Sequence[FamilyFront], full: FullNetwork) -> None:
    _write(
        folder / "named.json",
        {
            "schema_version": SCHEMA_VERSION,
            "full_error": full.error,
            "fronts": [_front_record(f, {}, {}) for f in fronts],
        },
    )


def _front_record(
    front: FamilyFront,
    confirmed: Mapping[str, Confirmed],
    same_rows: Mapping[tuple[str, int], float],
) -> dict[str, Any]:
    return {
        "family": front.family,
        "dtype": front.dtype,
        "batch": front.batch,
        "passes": front.passes,
        "hypervolume": front.hypervolume,
        "full_predicted_s": front.full_s,
        "points": [
            {
                "id": p.id,
                "levels": list(p.levels),
                "candidate": candidate_to_dict(p.candidate),
                "selected_error": p.selected_error,
                "selected_loss": p.selected_loss,
                "error_bound": p.error_bound,
                "predicted_s": p.predicted_s,
                "predicted_high_s": p.predicted_high_s,
                "predicted_same_rows_s": same_rows.get((p.id, front.batch)),
                "confirmed": asdict(confirmed[p.id]) if p.id in confirmed else None,
            }
            for p in front.picks
        ],
    }


def _references(
    one: Searched,
    static: Sequence[int],
    full: FullNetwork,
    correct: NDArray[np.bool_],
    traces: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The conventional network and the first `static` layers, fine-tuned.

    Their passes are kept in `traces`.
    """
    material, layers = one.opened.material, full.trace.num_layers
    out = []
    for k in [layers, *static]:
        name = "conventional" if k == layers else f"first {k} layers, fine-tuned"
        progress.stage(f"reference: {name}")
        tuned = open_reference(material, k, progress=progress.share)
        quality = RememberingQuality.of(tuned.on(one.opened.quality.device), traces)
        outer = reference_candidate(material, k, "fp32")
        with all_cores():
            selected, bound = bound_of(quality.record(outer, "search"), full)
            found = confirm_static(quality.record(outer, "report"), correct)
        out.append(
            {
                "name": name,
                "layers": k,
                "selected_error": selected,
                "selected_loss": selected - full.error,
                "error_bound": bound,
                "confirmed": asdict(found),
            }
        )
    return out


def _formats(folder: Path, job: Job, asked: Sequence[str] | None) -> list[str]:
    """The number formats that are searched; told once and written down."""
    file = folder / "formats.json"
    if file.is_file():
        return [str(name) for name in json.loads(file.read_text(encoding="utf-8"))]
    if asked is None:
        named = np.atleast_1d(job.space.get("dtype", "fp32"))
        asked = [name for name in formats_that_pay(time_formats()) if name in ("fp32", *named)]
    found = [name for name in FORMATS if name in asked]
    _write(file, found)
    return found


def _to_time(
    one: Searched, static: Sequence[int], full: FullNetwork, fronts: Sequence[FamilyFront]
) -> dict[str, Any]:
    """Named points and references of each number format and batch size."""
    groups, few = [], whole_rows(full.trace.num_samples)
    whole = {
        batch: _full_seconds(one, full, workload, formats=FORMATS, rows=few)
        for batch in BATCHES
        for workload in [one.opened.scene.workload.at_batch(batch)]
    }
    for dtype in FORMATS:
        outer = replace(full.outer["fp32"], dtype=dtype)
        for batch in BATCHES:
            named = {
                p.id: candidate_to_dict(p.candidate)
                for f in fronts
                if (f.dtype, f.batch) == (dtype, batch)
                for p in f.picks
                if p.levels and family_of(p.candidate) != "full"
            }
            entries = named | {
                f"first {k} layers": candidate_to_dict(replace(outer, depth=k)) for k in static
            }
            entries["full"] = candidate_to_dict(outer)
            groups.append(
                {
                    "dtype": dtype,
                    "batch": batch,
                    "whole_predicted_s": whole[batch][dtype],
                    "entries": entries,
                    "same": {  # by name: an entry that is the same network
                        p.id: "full"
                        for f in fronts
                        for p in f.picks
                        if family_of(p.candidate) == "full"
                    },
                }
            )
    return {"threads": one.opened.scene.workload.threads, "groups": groups}


def _write(path: Path, data: Any) -> None:
    write_atomic(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
