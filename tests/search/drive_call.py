"""The library call in a process of its own: `python drive_call.py URL MARKS TRIALS`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from dynsearch import Choice, FloatRange, IntRange, SearchSpace, optimize

SPACE = SearchSpace(
    {
        "exit": IntRange(0, 1),
        "threshold": FloatRange(0.5, 0.99),
        "experts": Choice([1, 2, 4, 8]),
        "keep": Choice([1.0, 0.75, 0.5, 0.25]),
    },
    active={"threshold": lambda knobs: knobs["exit"] == 1},
)
Knobs = dict[str, np.ndarray]


def cost(knobs: Knobs) -> Knobs:
    return {"latency_worst_s": 4.0 * knobs["keep"]}


def call(url: str | None, trials: int, marks: Path | None = None) -> list[dict[str, object]]:
    """Knobs and objectives of all evaluations, in order; each leaves a mark when it begins."""

    def quality(knobs: Knobs) -> Knobs:
        if marks is not None:
            (marks / str(time.time_ns())).touch()
            time.sleep(0.05)
        stays = np.where(knobs["exit"] == 1, knobs["threshold"], 1.0)
        error = 0.4 - 0.03 * np.log2(knobs["experts"]) - 0.1 * knobs["keep"] - 0.1 * stays**2
        return {"error": error, "latency_mean_s": 4.0 * knobs["keep"] * stays}

    result = optimize(
        SPACE,
        quality=quality,
        cost=cost,
        objectives=("error", "latency_mean_s"),
        budgets={"latency_worst_s": 3.5},
        ref_point=(0.4, 3.5),
        n_trials=trials,
        storage=url,
    )
    return [{**e.knobs, **e.objectives} for e in result.evaluations]


if __name__ == "__main__":
    url, folder, trials = sys.argv[1:]
    sys.stdout.write(json.dumps(call(url, int(trials), Path(folder))))
