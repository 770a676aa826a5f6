"""Trials that the driver alone handles in a second: passes and inner searches cost nothing.

Run: python tests/bench/driver_rate.py [--samplers random dynsearch] [--trials 1000 5000 10000].
The study is in memory and mirrored to the journal; traces and fronts of each pass are written as
in any search, 32 rows of 6 layers, in a temporary folder or in --folder. The space holds 164,340
settings. After so many trials 100 more are timed, in processor time (a busy machine changes it
little) and on the clock, which counts two waits for the disk a trial. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dynsearch.quality.trace import Trace
from dynsearch.search import runs
from dynsearch.search.driver import SearchOptions, run_search
from dynsearch.search.types import DeviceFront, PassFronts, SearchProblem
from search_spaces.backbones import load_backbone
from search_spaces.candidate import PolicyBatch
from search_spaces.codec import candidate_to_dict
from search_spaces.space import SearchSpace

ROWS, LAYERS, POINTS = 32, 6, 8
SPACE = {
    "dtype": ["fp32", "bf16"],
    "skim": {"layers": [1, 2, 3, 4], "keep": [1 - i / 8 for i in range(8)]},
    "experts": {
        "groups": [[1, 2], [3, 4], [5, 6]],
        "counts": [1, 4, 8],
        "active": [0.25, 0.5],
        "granularity": ["sequence", "token"],
    },
}


class Instant:
    """A model whose passes cost nothing."""

    num_classes = 2
    weights_hash = "0" * 64

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        lengths = rng.integers(4, 64, ROWS)
        tokens = np.repeat(lengths[:, None], LAYERS, axis=1).astype(np.int32)
        self.trace = Trace(
            logits=rng.normal(size=(ROWS, LAYERS, 2)).astype(np.float32),
            labels=rng.integers(0, 2, ROWS),
            lengths=lengths,
            tokens_layer=tokens,
            tokens_ffn=tokens,
            expert_tokens=np.zeros((ROWS, LAYERS, 1), dtype=np.int32),
            header={"weights_hash": self.weights_hash, "split": "search", "depth": LAYERS},
        )

    def majority_error(self, split: str) -> float:
        """Half."""
        return 0.5

    def record(self, outer: Any, split: str) -> Trace:
        """The same answers for all."""
        header = self.trace.header | {"outer": candidate_to_dict(outer)}
        return replace(self.trace, header=header)

    def payload(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> Instant:
        """Another one."""
        return cls()


def build(spec: dict[str, Any]) -> Any:
    """An inner search that makes up a front from the setting."""

    def inner(outer: Any, trace: Trace) -> PassFronts:
        kept = sum(rate for skim in outer.skim for rate in skim.keep_rate) + 0.1
        split = len(outer.moe.layers) if outer.moe else 0
        cost = np.linspace(0.3, 1.0, POINTS) / (1.0 + 0.1 * split + 0.05 * kept)
        error = 0.1 + 0.05 / cost + 0.01 * kept
        batch = PolicyBatch(
            depth=np.full(POINTS, LAYERS),
            exit_on=np.zeros((POINTS, LAYERS), dtype=bool),
            criterion=np.zeros(POINTS, dtype=np.int64),
            thresholds=np.full((POINTS, LAYERS), np.inf),
            patience=np.zeros(POINTS, dtype=np.int64),
            temperature=np.ones(POINTS),
            exit_batching=np.zeros(POINTS, dtype=np.int64),
        )
        front = DeviceFront(
            device="one",
            policies=batch,
            error=error,
            error_bound=error,
            costs={"latency_mean_s": cost},
            heuristic=np.zeros(POINTS, dtype=bool),
            anchor_values=error[[1, 4, 7]],
            violation=0.0,
            budget_values={},
        )
        return PassFronts(devices=(front,))

    return inner


def problem() -> SearchProblem:
    """One device without budgets."""
    return SearchProblem(
        devices=("one",),
        objectives=("error", "latency_mean_s"),
        budgets={"one": {}},
        anchors={"one": (0.4, 0.7, 1.0)},
        full_cost={"one": {"latency_mean_s": 1.0}},
        inner_spec={"builder": f"{__name__}:build"},
    )


def timed(folder: Path, sampler: str, marks: list[int], more: int) -> None:
    """Write one JSON object a mark, as soon as there is one: the next `more` trials."""
    run = runs.create_run(folder / f"rate-{sampler}", "")
    space = SearchSpace.from_dict(SPACE, backbone=load_backbone("minilm-l6"))
    clock: list[tuple[float, float]] = []

    def told(state: object) -> None:
        clock.append((time.process_time(), time.perf_counter()))
        mark = len(clock) - 1 - more
        if mark in marks:
            busy, whole = np.subtract(clock[-1], clock[mark]).tolist()
            row = {"sampler": sampler, "trials": mark, "ms_per_trial": round(1e3 * busy / more, 1)}
            row |= {"per_s_of_processor": round(more / busy, 1)}
            print(json.dumps(row | {"per_s_of_clock": round(more / whole, 1)}), flush=True)

    options = SearchOptions(trials=max(marks) + more, workers=0, sampler=sampler, storage="memory")
    run_search(
        run, space=space, quality=Instant(), problem=problem(), options=options, progress=told
    )


def main() -> None:
    """Write one JSON object a sampler and number of trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samplers", nargs="*", default=["random", "dynsearch"])
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--more", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="where runs go; default: a temporary folder")
    args = parser.parse_args()
    for sampler in args.samplers:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            timed(Path(folder), sampler, args.trials, args.more)


if __name__ == "__main__":
    main()
