"""Where a configuration's time, energy and memory go, and how its latency is spread."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.memory import peak_parts
from cost_models.price import call_overhead_s, price_ops
from dynsearch.evaluate import Scene
from dynsearch.explain.whatif import Case
from dynsearch.sim.stages import length_grid, lower_stages
from search_spaces.candidate import with_policies
from search_spaces.ops import KINDS

F64 = NDArray[np.float64]
STAGES = ("embed", "layer", "check", "head", "compact")  # as `lower_stages` has them
STEPS = 40  # between the quantiles of the latency


def parts(case: Case) -> dict[str, Any]:
    """Time and energy by kind of operator, memory by part, quantiles of the latency.

    Returns:
        `operators`: records of kind, seconds and joules (None where the device states no power)
        per input, largest time first, the fixed time of a forward pass as "call"; `memory`: bytes
        by part; `latency_quantiles` [41] in seconds, from the fastest input to the slowest.
    """
    seconds, joules = _by_kind(case)
    setting = case.setting
    rows: list[dict[str, Any]] = [
        {"kind": kind, "seconds": float(s), "energy_j": float(j) if math.isfinite(j) else None}
        for kind, s, j in zip(KINDS, seconds, joules, strict=True)
        if s > 0
    ]
    start = case.visits.calls * call_overhead_s(setting.device, setting.outer.dtype)
    if start > 0:
        rows.append({"kind": "call", "seconds": start, "energy_j": None})
    memory = peak_parts(
        with_policies(setting.outer, case.policy),
        workload=setting.workload,
        num_classes=setting.num_classes,
    )
    return {
        "operators": sorted(rows, key=lambda row: -row["seconds"]),
        "memory": {name: float(size[0]) for name, size in memory.items() if size[0] > 0},
        "latency_quantiles": _latencies(case).tolist(),
    }


def _by_kind(case: Case) -> tuple[F64, F64]:
    """Seconds and joules per input of every kind of operator [K]."""
    setting, real = case.setting, case.visits.counts["real"]
    load = setting.workload
    grid = length_grid(load.max_len)
    tables, layer_kind = lower_stages(
        setting.outer, load.batch, grid, setting.num_classes, "pooler_linear"
    )
    miss = case.prices.missed_share(case.visits)
    seconds, joules = np.zeros(len(KINDS)), np.zeros(len(KINDS))
    for (ops, shape), stage in zip(tables, STAGES, strict=True):
        counts = real[stage][0] if stage == "embed" else np.zeros(shape)
        if stage != "embed":
            np.add.at(counts, layer_kind, real[stage])
        runs = counts.ravel()[ops.candidate]
        for size, share in ((0.0, 1.0 - miss), (None, miss)):
            cost = price_ops(ops, setting.device, threads=load.threads, working_set_bytes=size)
            for total, each in ((seconds, cost.time_s), (joules, cost.energy_j)):
                paid = np.where(runs > 0, share * runs * each, 0.0)
                total += np.bincount(ops.kind, weights=paid, minlength=len(KINDS))
    return seconds, joules


def _latencies(case: Case) -> F64:
    setting = case.setting
    scene = Scene(
        devices=(setting.device,), workload=setting.workload, num_classes=setting.num_classes
    )
    found = scene.replayer(setting.outer, case.trace, None).latencies(case.policy)[0, 0]
    quantiles: F64 = np.quantile(found, np.linspace(0.0, 1.0, STEPS + 1))
    return quantiles
