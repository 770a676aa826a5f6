"""A table of real passes: outer settings of a trained supernet (318) times 1,124 exit policies.

Record it once (318 passes over 320 search rows, some seconds of one core each; with --report as
many rows that no search sees): python tests/bench/recorded_table.py --record SUPERNET_FOLDER.
Such a folder lies in the cache after the job of short sentences was run; traces and table are
kept there as well, under "recorded", never in the repository. Recording goes on where it was
stopped. Without --record the script prints what the table holds, one JSON object per device.

Every policy of the grid is replayed on every trace, so the front of all configurations is known
exactly, and searching them again costs no forward pass (`recorded_search.py`).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from cost_models.device import load_device
from dynsearch.checksums import file_sha256
from dynsearch.evaluate import Scene
from dynsearch.export.files import write_atomic
from dynsearch.job import find_job, load_job
from dynsearch.quality.opening import open_material
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.supernet import cache_folder, load_supernet
from dynsearch.quality.trace import Trace, load_trace, save_trace
from dynsearch.search.encoding import make_codec, setting_key
from dynsearch.search.pareto import hypervolume, non_dominated
from search_spaces.candidate import CRITERIA, EXIT_BATCHING, Backbone, PolicyBatch
from search_spaces.space import SearchSpace
from search_spaces.workload import Workload

JOB = "short-sentences"
SPACE = {
    "dtype": ["fp32"],
    "skim": {"layers": [1, 3], "keep": [1.0, 0.75, 0.5]},
    "experts": {
        "groups": [[1, 2], [3, 4], [5, 6]],
        "counts": [1, 4],
        "active": [0.25, 0.5],
        "granularity": ["sequence", "token"],
    },
    "exits": {"layers": [1, 2, 3, 4, 5], "min_depth": 3, "criteria": ["max_prob"]},
}
DEVICES = (
    "generic-x86-avx2",
    "raspberry-pi-5",
    "nvidia-jetson-agx-orin-64g",
    "nvidia-a100-80g-sxm",
)
SHARES = {"latency_worst_s": 0.8, "peak_bytes": 0.9}  # budgets as shares of the full network
LAYERS, MIN_DEPTH = 6, 3
# Confidences whose log-odds are evenly spaced.
THRESHOLDS = np.round(1.0 / (1.0 + np.exp(-np.linspace(0.25, 5.0, 20))), 4)
ERROR_MARGIN = 0.10  # above the full network's error lies the reference point


def policies() -> tuple[PolicyBatch, np.ndarray]:
    """All policies of the grid, and the number of each one's threshold [P] (0 where unused)."""
    rows = []
    for depth in range(MIN_DEPTH, LAYERS + 1):
        for size in range(depth):
            for chosen in combinations(range(1, depth), size):
                rows += [(depth, chosen, t) for t in range(len(THRESHOLDS) if chosen else 1)]
    on = np.zeros((len(rows), LAYERS), dtype=bool)
    for i, (_, chosen, _) in enumerate(rows):
        on[i, [layer - 1 for layer in chosen]] = True
    level = np.array([t for _, _, t in rows])
    zeros = np.zeros(len(rows), dtype=np.int64)
    batch = PolicyBatch(
        depth=np.array([depth for depth, _, _ in rows], dtype=np.int64),
        exit_on=on,
        criterion=zeros + CRITERIA.index("max_prob"),
        thresholds=np.where(on, THRESHOLDS[level][:, None], np.inf),
        patience=zeros,
        temperature=np.ones(len(rows)),
        exit_batching=zeros + EXIT_BATCHING.index("serial"),
    )
    return batch, level


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What every configuration yields. S settings, P policies, D devices."""

    settings: list[dict[str, Any]]  # [S] readable outer knobs; the full network is the first
    devices: tuple[str, ...]
    error: np.ndarray  # [S, P] error_bound on search rows: what a search sees
    latency_s: np.ndarray  # [D, S, P] mean
    worst_s: np.ndarray  # [D, S, P]
    peak_bytes: np.ndarray  # [S, P]
    full: int  # number of the policy without exits at full depth
    seconds: float  # of all passes over the search rows
    confirmed: np.ndarray | None = None  # [S, P] plain error on report rows, if recorded

    def feasible(self, d: int) -> np.ndarray:
        """Configurations within both budgets on device d [S, P]."""
        worst, peak = self.worst_s[d], self.peak_bytes
        return (worst <= SHARES["latency_worst_s"] * worst[0, self.full]) & (
            peak <= SHARES["peak_bytes"] * peak[0, self.full]
        )

    def reference(self, d: int) -> np.ndarray:
        """Reference point [2] on device d: error and mean latency."""
        return np.array([self.error[0, self.full] + ERROR_MARGIN, self.latency_s[d, 0, self.full]])

    def exact(self, d: int) -> float:
        """Hypervolume of the exact front on device d, as a share of the reference box."""
        inside = self.feasible(d)
        points = np.stack([self.error[inside], self.latency_s[d][inside]], axis=1)
        return hypervolume(points[non_dominated(points)], self.reference(d))


def space_of(backbone: Backbone) -> SearchSpace:
    """The outer space that is recorded whole."""
    return SearchSpace.from_dict(SPACE, backbone=backbone)


def folder() -> Path:
    """Where traces and table are kept."""
    return cache_folder() / "recorded"


def load_table(path: Path | None = None) -> Table | None:
    """The recorded table; None where there is none."""
    path = path or folder() / "table.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    head = json.loads(bytes(arrays.pop("header")).decode())
    return Table(
        settings=head["settings"],
        devices=tuple(head["devices"]),
        full=head["full"],
        seconds=head["seconds"],
        **arrays,
    )


def record(supernet: Path, rows: int, splits: tuple[str, ...], passes: int) -> Path:
    """Run at most `passes` that are not recorded yet, then replay every policy on every trace.

    Settings are recorded in an order that has nothing to do with what they are, so that a table
    of some of them is a sample of the space.
    """
    material = open_material(load_job(find_job(JOB)))
    config, weights, _ = load_supernet(supernet)
    digest = file_sha256(supernet / "model.safetensors")
    quality = SupernetQuality(
        config=config, weights=weights, splits=material.splits, weights_hash=digest
    )
    space = space_of(material.backbone)
    codec = make_codec(space)
    grid = codec.grid(5000)
    assert grid is not None
    full = space.full_params()
    grid.sort(key=lambda s: (s != space.normalise(full), setting_key(s)))
    traces = {}
    for split in splits:
        part = quality.first_rows(split, rows)
        for i, setting in enumerate(grid):
            path = folder() / digest[:8] / f"{split}-{rows}" / f"{setting_key(setting)[:16]}.npz"
            if not path.is_file():
                if passes <= 0:
                    continue
                passes -= 1
                path.parent.mkdir(parents=True, exist_ok=True)
                save_trace(path, part.record(space.decode(setting), split))
            traces[split, i] = path
            sys.stderr.write(f"\r{split}: {i + 1} of {len(grid)} passes")
    whole = [i for i in range(len(grid)) if all((split, i) in traces for split in splits)]
    kept = {(split, n): traces[split, i] for n, i in enumerate(whole) for split in splits}
    return _replay(space, [grid[i] for i in whole], kept, len(material.labels), digest)


def _replay(
    space: SearchSpace,
    grid: list[dict[str, Any]],
    paths: dict[tuple[str, int], Path],
    classes: int,
    digest: str,
) -> Path:
    devices = tuple(load_device(name) for name in DEVICES)
    scene = Scene(devices=devices, workload=Workload(batch=1, max_len=64), num_classes=classes)
    batch, _ = policies()
    found: dict[str, list[np.ndarray]] = {}
    full: dict[str, Trace] = {}
    seconds = 0.0
    for i, setting in enumerate(grid):
        outer = replace(space.decode(setting), depth=LAYERS)
        for split in dict.fromkeys(split for split, _ in paths):
            trace = load_trace(paths[split, i], digest)
            full.setdefault(split, trace)
            replayer = scene.replayer(outer, trace, full[split])
            if split == "report":
                done = replayer.run(batch, ("latency_mean_s",))
                found.setdefault("confirmed", []).append(done.error)
                continue
            seconds += float(str(trace.header["seconds"]))
            done = replayer.run(batch, ("latency_mean_s",))
            found.setdefault("error", []).append(done.error_bound)
            found.setdefault("latency_s", []).append(done.cost("latency_mean_s"))
            worst = replayer.costs[0].worst_s(batch, batch=1, max_len=64)
            found.setdefault("worst_s", []).append(worst)
            found.setdefault("peak_bytes", []).append(scene.peak_bytes(outer, batch))
    bare = (batch.depth == LAYERS) & ~batch.exit_on.any(axis=1)
    head = {
        "settings": grid,
        "devices": list(DEVICES),
        "full": int(np.flatnonzero(bare)[0]),
        "seconds": seconds,
    }
    arrays = {
        name: np.stack(parts, axis=1 if parts[0].ndim == 2 else 0) for name, parts in found.items()
    }
    arrays["header"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    path = folder() / "table.npz"
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return write_atomic(path, buffer.getvalue())


def main() -> None:
    """Record, or say what the table holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="folder of a supernet")
    parser.add_argument("--rows", type=int, default=320, help="of each split")
    parser.add_argument("--passes", type=int, default=10_000, help="at most, in this call")
    parser.add_argument("--report", action="store_true", help="also rows that no search sees")
    args = parser.parse_args()
    if args.record:
        splits = ("search", "report") if args.report else ("search",)
        record(args.record, args.rows, splits, args.passes)
    table = load_table()
    if table is None:
        sys.stdout.write("nothing recorded: see --record\n")
        return
    for d, device in enumerate(table.devices):
        row = {
            "device": device,
            "settings": len(table.settings),
            "policies": table.error.shape[1],
            "within_budgets_%": round(100 * float(table.feasible(d).mean()), 1),
            "full_error_%": round(100 * float(table.error[0, table.full]), 2),
            "hypervolume": round(table.exact(d), 4),
        }
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
