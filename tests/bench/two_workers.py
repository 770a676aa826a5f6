"""Two workers against one: seconds per pass of the same search, side by side in one run.

Run: python tests/bench/two_workers.py [--rows 320] [--passes 40] [--rounds 3] on a machine with
two idle cores. One worker is this process; two are Ray actors with a thread each. Both run the
passes of the same outer settings of the recorded table's space with a real supernet, search exit
policies in each, and write traces, fronts and study. The clock runs from the moment when all
workers are busy until the last pass is told, so that it counts the driver, Ray, the memory that
cores share and the idle end, but not starting up. Efficiency: seconds per pass of one worker over
twice those of two. Needs the supernet that the job of short sentences leaves in the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from recorded_table import JOB, space_of

from cost_models.device import load_device
from dynsearch.checksums import file_sha256
from dynsearch.evaluate import Scene
from dynsearch.job import find_job, load_job
from dynsearch.opened import Opened, workload_of
from dynsearch.problem import problem_of
from dynsearch.quality.opening import open_material
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.supernet import cache_folder, load_supernet
from dynsearch.search.driver import SearchOptions, run_search
from dynsearch.search.encoding import make_codec
from dynsearch.search.runs import create_run
from dynsearch.search.types import Params, SearchProblem
from dynsearch.search.warm import WarmStart

DEVICE = "generic-x86-avx2"


def open_job(folder: Path, supernet: Path | None, rows: int) -> Opened | None:
    """The job of short sentences on its first search rows; None where there is no supernet."""
    job = load_job(find_job(JOB)).model_copy(update={"devices": [DEVICE], "score_on": []})
    material = open_material(job)
    where = supernet or cache_folder() / "supernets" / material.key
    if not where.is_dir():
        return None
    config, weights, _ = load_supernet(where)
    quality = SupernetQuality(
        config=config,
        weights=weights,
        splits=material.splits,
        weights_hash=file_sha256(where / "model.safetensors"),
    )
    return Opened(
        job=job,
        run=create_run(folder / "problem", ""),
        material=replace(material, space=space_of(material.backbone)),
        quality=quality.first_rows("search", rows),
        scene=Scene(
            devices=(load_device(DEVICE),),
            workload=workload_of(job),
            num_classes=len(material.labels),
        ),
        scored=(),
    )


def settings_of(opened: Opened, count: int) -> list[Params]:
    """Different settings, drawn uniformly, without the full network."""
    grid = make_codec(opened.material.space).grid(5000)
    assert grid is not None
    drawn = np.random.default_rng(0).permutation(len(grid))
    full = opened.material.space.full_params()
    return [grid[i] for i in drawn if grid[i] != full][:count]


def seconds_per_pass(
    folder: Path, opened: Opened, problem: SearchProblem, settings: list[Params], workers: int
) -> float:
    """Of passes that begin while all workers are busy; 0 workers: this process."""
    told: list[tuple[float, int, int]] = []
    run_search(
        create_run(folder, ""),
        space=opened.material.space,
        quality=opened.quality,
        problem=problem,
        options=SearchOptions(trials=1 + len(settings), workers=workers, sampler="random"),
        warm=WarmStart(first=tuple(settings)),
        progress=lambda state: told.append((time.perf_counter(), state.done, state.running)),
    )
    begun = next(t for t in told if t[1] >= 1 and t[2] >= max(1, workers))
    return (told[-1][0] - begun[0]) / (told[-1][1] - begun[1])


def main() -> None:
    """Write one JSON object a round, and the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--passes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--supernet", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opened = open_job(folder, args.supernet, args.rows)
        if opened is None:
            sys.stdout.write("no supernet: run the job of short sentences first\n")
            return
        problem, _ = problem_of(opened)
        settings = settings_of(opened, args.passes)
        found = []
        for i in range(args.rounds):
            one, two = (
                seconds_per_pass(folder / f"run-{i}-{n}", opened, problem, settings, n)
                for n in (0, 2)
            )
            found.append(one / (2 * two))
            row = {"round": i, "one_s": round(one, 3), "two_s": round(two, 3)}
            print(json.dumps(row | {"efficiency": round(found[-1], 3)}), flush=True)
        print(json.dumps({"round": "median", "efficiency": round(median(found), 3)}))


if __name__ == "__main__":
    main()
