"""Candidates per second of `cost_candidates`. Run: python tests/bench/costing_rate.py.

10,000 distinct candidates of a space like the demo job's on a 12-layer backbone, never priced
before, on one device: worst and best case, FLOPs, peak memory; then with means over given reach.
Processor time of one core, imports not counted. Prints figures, asserts nothing.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from cost_models.candidates import cost_candidates
from cost_models.device import load_device
from search_spaces.backbones import load_backbone
from search_spaces.space import SearchSpace
from search_spaces.workload import Workload

SPACE = {
    "dtype": ["fp32", "bf16"],
    "skim": {"layers": [2, 4, 6, 8], "keep": [1.0, 0.75, 0.5, 0.25]},
    "experts": {
        "groups": [[1, 4], [5, 8], [9, 12]],
        "counts": [1, 4, 8],
        "active": [0.25, 0.5],
        "granularity": ["sequence", "token"],
    },
    "exits": {"layers": list(range(1, 12)), "min_depth": 2, "criteria": ["max_prob", "margin"]},
}
COUNT, REPEATS = 10_000, 5


def main() -> int:
    """Print candidates per second without and with reach."""
    space = SearchSpace.from_dict(SPACE, backbone=load_backbone("minilm-l12"))
    device = load_device("generic-x86-avx2")
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 65, 2_000)
    for batch in (1, 8):
        workload = Workload(batch=batch, max_len=64)
        for with_reach in (False, True):
            seconds = []
            for _ in range(REPEATS):
                candidates = space.sample(rng, COUNT)
                reach = None
                if with_reach:
                    steps = np.where(candidates.exit_on, rng.uniform(0.5, 1, (COUNT, 12)), 1.0)
                    reach = np.cumprod(np.concatenate([np.ones((COUNT, 1)), steps], 1), 1)[:, :12]
                start = time.thread_time()
                cost_candidates(
                    candidates,
                    devices=[device],
                    workload=workload,
                    num_classes=2,
                    lengths=lengths if with_reach else None,
                    reach=reach,
                )
                seconds.append(time.thread_time() - start)
            rate = COUNT / float(np.median(seconds))
            case = "with mean over reach" if with_reach else "worst and best case"
            print(f"batch {batch}, {case}: {rate:,.0f} candidates/s (first call included)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
