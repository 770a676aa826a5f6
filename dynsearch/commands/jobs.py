"""`dynsearch submit`, `status`, `logs`, `stop` and `list`: jobs on a Ray cluster."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from dynsearch.cluster.client import Cluster, JobState
from dynsearch.job import Job

Result = dict[str, Any]
_STATUS = {"succeeded": "done", "failed": "failed", "stopped": "failed"}
_BAD_INPUT = 2  # exit status of a driver that found its input bad


def open_cluster(address: str | None, *, token_file: Path | None, wait_s: float) -> Cluster:
    """The cluster that a command is about, see `Cluster`."""
    return Cluster(address, token_file=token_file, wait_s=wait_s)


def submit(
    cluster: Cluster,
    job: Job,
    *,
    out: str,
    in_place: bool,
    follow: bool,
    options: tuple[str, ...] = (),
    log: TextIO | None = None,
) -> Result:
    """Submit a job; with `follow`, hand its log on to `log` until it has ended."""
    id_ = cluster.submit(job, out=out, in_place=in_place, options=options)
    if follow:
        write = log.write if log is not None else lambda text: None
        write(f"submitted {id_}\n")
        cluster.follow(id_, write)
    return _one(cluster, cluster.job(id_), watched=follow)


def status(cluster: Cluster, id_: str | None) -> Result:
    """One job, or without an id those that have not ended, else the newest."""
    if id_ is not None:
        return _some(cluster, [cluster.job(id_)])
    jobs = cluster.jobs()
    return _some(cluster, [job for job in jobs if not job.ended] or jobs[:1])


def list_jobs(cluster: Cluster) -> Result:
    """All jobs that the cluster knows of, the newest first."""
    return _some(cluster, cluster.jobs())


def logs(cluster: Cluster, id_: str, *, follow: bool, to: TextIO) -> Result:
    """What a job wrote; with `follow` handed on as it comes, until the job has ended."""
    if follow:
        cluster.follow(id_, to.write)
        return {"id": id_, "log": "", "address": cluster.address}
    return {"id": id_, "log": cluster.log(id_), "address": cluster.address}


def stop(cluster: Cluster, id_: str) -> Result:
    """Have a job finish the passes under way, write its front and end."""
    stopping = cluster.stop(id_)
    return _one(cluster, cluster.job(id_)) | {"stopping": stopping}


def _one(cluster: Cluster, job: JobState, *, watched: bool = False) -> Result:
    result = {**asdict(job), "address": cluster.address}
    if watched:
        bad = job.state == "failed" and job.exit_status == _BAD_INPUT
        result["status"] = "bad_input" if bad else _STATUS.get(job.state, "failed")
    return result


def _some(cluster: Cluster, jobs: list[JobState]) -> Result:
    return {"address": cluster.address, "jobs": [asdict(job) for job in jobs]}


def show_submitted(result: Result, out: TextIO) -> None:
    """The id, alone on its line, then what to do with it."""
    out.write(f"{result['id']}\n")
    out.write(f"state: {result['state']}\n")
    out.write(f"runs go to: {result['out']} (on the cluster)\n")
    _show_end(result, out)


def show_jobs(result: Result, out: TextIO) -> None:
    """One line a job."""
    rows = [("id", "state", "passes", "minutes")]
    for job in result["jobs"]:
        total = "" if job["total"] is None else f"/{job['total']}"
        minutes = "" if job["seconds"] is None else f"{job['seconds'] / 60.0:.1f}"
        rows.append((job["id"], job["state"], f"{job['passes']}{total}", minutes))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.write("  ".join(padded).rstrip() + "\n")
    if len(result["jobs"]) == 1:
        _show_end(result["jobs"][0], out)


def show_log(result: Result, out: TextIO) -> None:
    """The log as it is."""
    out.write(result["log"])


def show_stopped(result: Result, out: TextIO) -> None:
    """What happens now."""
    if result["stopping"]:
        out.write(f"{result['id']} finishes the passes under way and writes its front\n")
    else:
        out.write(f"{result['id']} had ended: {result['state']}\n")


def _show_end(job: Result, out: TextIO) -> None:
    if job["run"]:
        out.write(f"run: {job['run']} (on the cluster)\n")
    if job["reason"]:
        out.write(f"reason: {job['reason']}\n")


def local_job(
    path: Path,
    *,
    trials: int | None,
    workers: int | None,
    seed: int | None,
    storage: str | None,
    gpu_share: float | None,
    in_place: bool,
) -> Job:
    """The job that is to travel, with values from the command line; its storage is checked."""
    from dynsearch.cluster.luggage import check_storage
    from dynsearch.job import find_job, load_job, override

    loaded = load_job(find_job(path), check_files=not in_place)
    job = override(
        loaded,
        trials=trials,
        workers=workers,
        seed=seed,
        storage=storage,
        gpu_share=gpu_share,
    )
    check_storage(job.search.storage)
    return job
