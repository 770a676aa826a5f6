"""A run with everything that commands work with: job, folder, model, data, devices."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.calibrate.write import device_text
from cost_models.device import Device, load_device
from dynsearch.commands.devices import calibrate, is_calibrated, local_file
from dynsearch.errors import InputError
from dynsearch.evaluate import Scene
from dynsearch.job import Job, job_from_dict, job_hash
from dynsearch.job_checks import LOCAL, short_name
from dynsearch.progress import Progress, make_progress
from dynsearch.quality.opening import Material, open_material, open_quality
from dynsearch.quality.source import SupernetQuality, own_device
from dynsearch.quality.trace import load_trace
from dynsearch.search.fronts import MergedFront, as_merged, load_fronts
from dynsearch.search.runs import Run
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict
from search_spaces.workload import Workload

CALIBRATION_S = 70.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run with everything that its commands work with."""

    job: Job
    run: Run
    material: Material
    quality: SupernetQuality
    scene: Scene
    scored: tuple[Device, ...]  # the front that is found is priced on these, too

    @property
    def recorder(self) -> SupernetQuality:
        """What runs whole passes in this process: `quality`, on a GPU if the job wants one."""
        return self.quality.on(own_device(self.job.search.gpu_share))

    @property
    def settings(self) -> dict[int, Candidate]:
        """Outer setting of each finished pass, by trial, read from its trace."""
        return {n: trace_setting(path) for n, path in pass_fronts(self.run)[1].items()}

    @property
    def search_lengths(self) -> NDArray[np.int64]:
        """Tokens of the search rows [N]."""
        return self.quality.splits["search"].tokens.lengths

    @property
    def exit_batching(self) -> str:
        """How static networks are batched: the first way that the space offers."""
        return self.material.space.inner.exit_batching[0]


def open_all(job: Job, run: Run, material: Material, progress: Progress) -> Opened:
    """Train or load the supernet, open the devices (calibrating this machine if need be).

    Args:
        job: The job.
        run: Its run folder, which keeps copies of the supernet and the device files.
        material: Model and data, from `open_material`.
        progress: Shows what happens.

    Raises:
        InputError: no such device, or a damaged file.
    """

    def told(share: float, text: str) -> None:
        progress.share(share, text)

    progress.stage("supernet: training it, unless it is cached")
    quality = open_quality(material, run.path, progress=told)
    workload = workload_of(job)
    devices = tuple(_device(name, job, run, progress) for name in job.devices)
    scored = tuple(_device(name, job, run, progress) for name in job.score_on)
    scene = Scene(
        devices=devices,
        workload=workload,
        num_classes=len(material.labels),
        metric=job.quality.metric,
    )
    return Opened(job=job, run=run, material=material, quality=quality, scene=scene, scored=scored)


def workload_of(job: Job) -> Workload:
    """The workload that a job describes."""
    table = job.workload
    return Workload(
        batch=table.batch,
        max_len=table.max_len,
        sort=table.sort,
        threads=table.threads,
        runtime=table.runtime,
    )


def reopen(run: Run) -> Opened:
    """Everything of a run whose search has left a front, without training or calibrating."""
    job = job_of(run)
    return open_all(job, run, same_material(job, run), make_progress(quiet=True))


def job_of(run: Run) -> Job:
    """The job that a run folder was made for.

    Raises:
        InputError: the job file in it was changed and is faulty.
    """
    raw = tomllib.loads(run.job_file.read_text(encoding="utf-8"))
    return job_from_dict(raw, file=str(run.job_file), base=run.path, check_files=False)


def same_material(job: Job, run: Run) -> Material:
    """Model and data of a run, opened again.

    Raises:
        InputError: they are not what the run began with.
    """
    material = open_material(job)
    key = job_hash(job, model_hash=material.model_sha256, data_hash=material.data_sha256)
    if not run.path.name.endswith(key[:8]) and not run.study_name.endswith(key[:8]):
        text = "model, data or settings differ from what the run began with; start a new search"
        raise InputError.one(run.job_file, "", None, text)
    return material


def _device(name: str, job: Job, run: Run, progress: Progress) -> Device:
    """A device as the run began with it: its file is copied into the run folder once."""
    mine = run.path / "devices" / f"{short_name(name)}.toml"
    if mine.is_file():
        return load_device(mine)
    if name == LOCAL:
        file = local_file(job.workload.threads)
        if not is_calibrated(job.workload.threads):
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


def pass_fronts(run: Run) -> tuple[list[MergedFront], dict[int, Path]]:
    """Fronts of all finished passes in the order of their trials, and each one's trace file."""
    parts: list[MergedFront] = []
    traces: dict[int, Path] = {}
    files = {int(f.name.partition("-")[0]): f for f in (run.path / "fronts").glob("*.npz")}
    for number, file in sorted(files.items()):
        fronts = load_fronts(file)
        trace = run.path / "traces" / file.name
        if fronts is None or not trace.exists():
            continue
        traces[number] = trace
        parts += [as_merged(f, number) for f in fronts.devices]
    return parts, traces


def trace_setting(path: Path) -> Candidate:
    """The outer setting whose pass left a trace."""
    header = load_trace(path).header
    outer: Any = header["outer"]
    return candidate_from_dict(outer, file=str(path))
