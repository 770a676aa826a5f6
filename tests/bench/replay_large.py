"""Replay of 1,000 policies on 100,000 samples. Run: python tests/bench/replay_large.py.

12 exits, one criterion at a time; random exit sets with independent thresholds per exit, priced
on one device: decisions, errors and mean latency at batch 1 and at batch 8 (sorted, compaction).
Seconds are processor time of one core, scores and tables included; memory is the peak of the
process up to there. Prints figures, asserts nothing.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace

import numpy as np
from replay_rate import MAX_LEN, random_policies, random_trace, shipped_cost

from dynsearch.sim.replay import Replayer
from search_spaces.candidate import CRITERIA
from search_spaces.workload import Workload

SAMPLES, LAYERS, POLICIES, MAX_PATIENCE = 100_000, 12, 1_000, 4
LOADS = {
    "batch 1": Workload(batch=1, max_len=MAX_LEN),
    "batch 8": Workload(batch=8, max_len=MAX_LEN, sort=True),
}


def main() -> None:
    """Write one JSON object a case."""
    rng = np.random.default_rng(0)
    trace = random_trace(rng, SAMPLES, LAYERS)
    right = trace.logits[:, -1].argmax(-1) == trace.labels
    cost = shipped_cost(LAYERS, devices=1)
    for name in ("max_prob", "patience"):
        for batching, load in LOADS.items():
            replayer = Replayer(trace, cost, workloads=[load], correct_full=right)
            policies = random_policies(rng, replayer.scores(0, 1.0), POLICIES, shared=False)
            if name == "patience":
                patience = rng.integers(1, MAX_PATIENCE + 1, POLICIES)
                policies = replace(
                    policies,
                    thresholds=np.full_like(policies.thresholds, np.inf),
                    patience=patience,
                )
            kind = np.full(POLICIES, CRITERIA.index(name))
            policies = replace(policies, criterion=kind)
            fresh = Replayer(trace, cost, workloads=[load], correct_full=right)
            start = time.process_time()
            fresh.run(policies, ["latency_mean_s"])
            seconds = time.process_time() - start
            row = {
                "samples": SAMPLES,
                "policies": POLICIES,
                "exits": LAYERS,
                "criterion": name,
                "workload": batching,
                "seconds": round(seconds, 1),
                "peak_GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            }
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
