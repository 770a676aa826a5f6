"""`dynsearch gains`: what joint search gains on a job, by the strictest protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from dynsearch.export.files import write_atomic
from dynsearch.gains.cells import speed_cells
from dynsearch.gains.plot import figure
from dynsearch.gains.run import compare
from dynsearch.gains.table import agreement, markdown
from dynsearch.job import find_job, load_job, override
from dynsearch.progress import Progress


def gains(
    jobs: Sequence[Path],
    *,
    out: Path,
    seeds: Sequence[int],
    trials: int | None,
    rows: int,
    repeats: int,
    formats: Sequence[str] | None,
    families: Sequence[str],
    workers: int | None = None,
    gpu_share: float | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Compare the families of every job for every seed, and write tables and plots.

    Args:
        jobs: Job files, or names of shipped ones.
        out: Folder that gets results and `gains.md`.
        seeds: Seeds of training and search.
        trials: Forward passes of each family in each number format; None: the job's.
        rows: Report rows to time.
        repeats: Repeats of the timing.
        formats: Number formats to search; None: fp32 and those that are not slower here.
        families: Names in `gains.run.COMPARED`.
        workers: Passes in parallel; None: each job's.
        gpu_share: Of a GPU for each worker; None: each job's.
        progress: Shows what happens.

    Returns:
        `files` and `cells`, as `--json` prints it.
    """
    loaded = [
        override(load_job(find_job(path)), workers=workers, gpu_share=gpu_share) for path in jobs
    ]
    texts, cells, agreed, files = [], [], {}, []
    for job in loaded:
        results = [
            compare(
                job,
                out=out,
                seed=seed,
                trials=trials,
                rows=rows,
                repeats=repeats,
                formats=formats,
                families=families,
                progress=progress,
            )
            for seed in seeds
        ]
        plot = write_atomic(out / f"{job.name}.svg", figure(results))
        files.append(plot)
        texts.append(f"{markdown(results)}\n![measured speed-ups]({plot.name})\n")
        cells += [{"job": job.name, **cell} for cell in speed_cells(results)]
        agreed[job.name] = agreement(results)
    path = write_atomic(out / "gains.md", "# Gains\n\n" + "\n".join(texts))
    return {"files": [str(f) for f in (path, *files)], "cells": cells, "agreement": agreed}


def show(result: dict[str, Any], out: TextIO) -> None:
    """The tables."""
    out.write(Path(result["files"][0]).read_text(encoding="utf-8"))
    for path in result["files"]:
        out.write(f"written: {path}\n")
