"""Processor milliseconds of our sampler per trial after 1,000 and 5,000 trials, 46 knobs.

Run: python tests/bench/sampler_time.py. A study of two objectives is filled with random trials of
a made-up smooth problem (11 flags, 11 numbers, 24 integers), then trials are asked and told as in
a search, so that fits of hyperparameters fall in with their share. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from dynsearch.search.columns import Batch
from dynsearch.search.cost_aware import CostAwareSampler
from dynsearch.search.free import FreeChecks

SPACE: dict[str, BaseDistribution] = {
    **{f"flag_{i}": IntDistribution(0, 1) for i in range(11)},
    **{f"share_{i}": FloatDistribution(0.5, 0.99) for i in range(11)},
    **{f"level_{i}": IntDistribution(0, 7) for i in range(24)},
}


def cost(batch: Batch) -> dict[str, np.ndarray]:
    """A worst case [B], limited to what half of random settings keep."""
    return {"worst": sum(batch[f"level_{i}"] * (1.0 + i / 24.0) for i in range(24)) / 125.0}


def values(batch: Batch) -> np.ndarray:
    """Two objectives that pull apart [B, 2]."""
    shares = sum(batch[f"flag_{i}"] * batch[f"share_{i}"] for i in range(11)) / 11.0
    levels = sum(np.sqrt(batch[f"level_{i}"]) for i in range(24)) / 24.0
    return np.stack([0.05 + np.exp(-levels - shares), cost(batch)["worst"] * (1.1 - shares)], 1)


def timed(trials: int, asks: int) -> float:
    """Milliseconds per trial of `asks` trials after `trials` random ones."""
    sampler = CostAwareSampler(
        seed=0, space=SPACE, checks=FreeChecks(cost=cost, budgets={"worst": 1.0})
    )
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    rng = np.random.default_rng(0)
    columns = {
        name: rng.uniform(d.low, d.high, trials)
        if isinstance(d, FloatDistribution)
        else rng.integers(d.low, d.high + 1, trials)
        for name, d in SPACE.items()
    }
    points = values(columns)
    study.add_trials(
        create_trial(
            params={name: column[i].item() for name, column in columns.items()},
            distributions=SPACE,
            values=points[i].tolist(),
        )
        for i in range(trials)
    )
    study.tell(study.ask(SPACE), [1.0, 1.0])  # reads the history and fits once
    start = time.process_time()
    for _ in range(asks):
        trial = study.ask(SPACE)
        found = values({name: np.array([v]) for name, v in trial.params.items()})[0]
        study.tell(trial, found.tolist())
    return 1e3 * (time.process_time() - start) / asks


def main() -> None:
    """Write one JSON object a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="*", default=[1000, 5000])
    parser.add_argument("--asks", type=int, default=85, help="from one fit to the next at 1,000")
    args = parser.parse_args()
    for trials in args.trials:
        row = {"trials": trials, "ms_per_trial": round(timed(trials, args.asks), 1)}
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
