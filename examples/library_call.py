"""The library call on a made-up network: which exits, experts and tokens, within two budgets."""

import numpy as np

from dynsearch import Choice, FloatRange, IntRange, SearchSpace, optimize

space = SearchSpace(
    {"exit": IntRange(0, 1), "threshold": FloatRange(0.5, 0.99), "experts": Choice([1, 2, 4, 8]),
     "keep": Choice([1.0, 0.75, 0.5])},
    active={"threshold": lambda knobs: knobs["exit"] == 1},
)  # fmt: skip


def cost(knobs):  # free: asked about thousands of candidates
    return {"peak_bytes": 2e6 * knobs["experts"], "latency_worst_s": 4e-3 * knobs["keep"]}


def quality(knobs):  # costs an evaluation
    stays = np.where(knobs["exit"] == 1, knobs["threshold"], 1.0)
    error = 0.30 - 0.03 * np.log2(knobs["experts"]) - 0.1 * knobs["keep"] - 0.1 * stays**2
    return {"error": error, "latency_mean_s": 4e-3 * knobs["keep"] * stays}


result = optimize(space, quality=quality, cost=cost, objectives=("error", "latency_mean_s"),
                  budgets={"peak_bytes": 10e6, "latency_worst_s": 3.5e-3},
                  ref_point=(0.3, 3.5e-3), n_trials=24, seed=0)  # fmt: skip
for point in result.front:
    print(f"error {point['error']:.3f}, {1e3 * point['latency_mean_s']:.2f} ms: {point.knobs}")
