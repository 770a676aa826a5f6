"""Policies per second of trace replay with pricing. Run: python tests/bench/replay_rate.py.

Mean latency at batch 1 and at batch 8 (sorted, compaction) on four shipped devices and the error,
for random exit sets with independent thresholds per exit, and with one threshold for all exits.
Processor time of one core. Prints figures, asserts nothing.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from cost_models.device import load_device
from dynsearch.quality.trace import Trace
from dynsearch.sim.layer_cost import LayerCost, build_layer_cost
from dynsearch.sim.replay import Replayer
from search_spaces.candidate import EXIT_BATCHING, Backbone, Candidate, PolicyBatch
from search_spaces.workload import Workload

DEVICES = (
    "generic-x86-avx2",
    "nvidia-a100-80g-sxm",
    "google-tpu-v5e",
    "raspberry-pi-5",
)
MAX_LEN = 64
CASES = ((1_000, 12), (2_000, 6))
POLICIES, REPEATS = 20_000, 5


def random_trace(rng: np.random.Generator, n: int, layers: int) -> Trace:
    """Two classes; logits grow with depth."""
    labels = rng.integers(0, 2, n)
    signal = np.linspace(0.3, 2.0, layers)[None, :, None] * np.eye(2)[labels][:, None, :]
    lengths = rng.integers(5, MAX_LEN + 1, n)
    tokens = np.repeat(lengths[:, None], layers, axis=1).astype(np.int32)
    return Trace(
        logits=(signal + rng.normal(size=(n, layers, 2))).astype(np.float32),
        labels=labels,
        lengths=lengths,
        tokens_layer=tokens,
        tokens_ffn=tokens,
        expert_tokens=np.zeros((n, layers, 1), dtype=np.int32),
    )


def shipped_cost(layers: int, devices: int = len(DEVICES)) -> LayerCost:
    """An encoder of width 384 on the first `devices` of four."""
    net = Backbone(
        name="bench",
        num_layers=layers,
        hidden_size=384,
        num_heads=12,
        ffn_size=1536,
        vocab_size=30_522,
        max_len=512,
    )
    return build_layer_cost(
        Candidate(backbone=net, depth=layers),
        [load_device(name) for name in DEVICES[:devices]],
        workload=Workload(batch=8, max_len=MAX_LEN),
        num_classes=2,
    )


def random_policies(
    rng: np.random.Generator, scores: np.ndarray, count: int, *, shared: bool
) -> PolicyBatch:
    """Random exit sets; thresholds at random exit rates, per exit or one for all."""
    layers = scores.shape[1]
    on = rng.random((count, layers)) < 0.5
    on[:, -1] = False
    rates = rng.random((count, layers))
    if shared:
        rates[:] = rates[:, :1]
        values = np.quantile(scores, rates[:, 0])[:, None].repeat(layers, axis=1)
    else:
        values = np.stack([np.quantile(scores[:, x], rates[:, x]) for x in range(layers)], axis=1)
    return PolicyBatch(
        depth=np.full(count, layers),
        exit_on=on,
        criterion=np.zeros(count, dtype=np.int64),
        thresholds=np.where(on, values, np.inf),
        patience=np.zeros(count, dtype=np.int64),
        temperature=np.ones(count),
        exit_batching=np.full(count, EXIT_BATCHING.index("compact")),
    )


def main() -> None:
    """Write one JSON object a case."""
    loads = [Workload(batch=1, max_len=MAX_LEN), Workload(batch=8, max_len=MAX_LEN, sort=True)]
    for n, layers in CASES:
        rng = np.random.default_rng(0)
        trace = random_trace(rng, n, layers)
        right = trace.logits[:, -1].argmax(-1) == trace.labels
        replayer = Replayer(trace, shipped_cost(layers), workloads=loads, correct_full=right)
        scores = replayer.scores(0, 1.0)
        for shared in (False, True):
            policies = random_policies(rng, scores, POLICIES, shared=shared)
            seconds = []
            for _ in range(REPEATS):
                start = time.process_time()
                replayer.run(policies, ["latency_mean_s"])
                seconds.append(time.process_time() - start)
            row = {
                "samples": n,
                "exits": layers,
                "devices": len(DEVICES),
                "thresholds": "shared" if shared else "per exit",
                "policies_per_s": round(POLICIES / float(np.median(seconds))),
                "best_policies_per_s": round(POLICIES / min(seconds)),
            }
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
