"""A generated run folder: plausible shapes, invented figures. Test data, not a measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dynsearch.export.front import write_front_json
from dynsearch.export.records import (
    Confirmed,
    Front,
    FrontPoint,
    FullCost,
    HypervolumeStep,
    Predicted,
    Reference,
    Selected,
    family_of,
    mark_named,
)
from search_spaces.candidate import Backbone, Candidate, Exits, Experts, Skim
from search_spaces.codec import candidate_hash, candidate_to_dict

LAYERS = 6
FULL_ERROR, FULL_CONFIRMED = 0.171, 0.180
BACKBONE = Backbone(
    name="generated-6",
    num_layers=LAYERS,
    hidden_size=384,
    num_heads=12,
    ffn_size=1536,
    vocab_size=30522,
    max_len=512,
)
# name -> seconds per full layer in fp32 and bf16, fixed seconds, half width of the interval
DEVICES: dict[str, tuple[dict[str, float], float, float]] = {
    "local": ({"fp32": 1.72e-3, "bf16": 0.8e-3}, 1.5e-4, 0.10),
    "datasheet-gpu": ({"fp32": 9.1e-5, "bf16": 6.8e-5}, 6e-5, 0.30),
    "datasheet-tpu": ({"fp32": 7.4e-5, "bf16": 4.1e-5}, 4e-5, 0.35),
    "datasheet-edge": ({"fp32": 6.2e-3, "bf16": 6.2e-3}, 4e-4, 0.45),
}


def full_candidate(dtype: str = "fp32") -> Candidate:
    return Candidate(backbone=BACKBONE, depth=LAYERS, dtype=dtype)


def draw_candidate(rng: np.random.Generator, dtype: str) -> Candidate:
    """A random legal candidate of a random family."""
    depth = int(rng.integers(2, LAYERS + 1))
    kinds = rng.random(3) < (0.75, 0.45, 0.35)
    below = np.arange(1, depth)
    layers = tuple(int(x) for x in below[rng.random(depth - 1) < 0.6])
    exits = None
    if kinds[0] and layers:
        level = float(rng.uniform(0.72, 0.985))
        exits = Exits(layers=layers, thresholds=tuple(round(level, 4) for _ in layers))
    skim: tuple[Skim, ...] = ()
    if kinds[1] and depth > 1:
        at = int(rng.integers(1, depth))
        skim = (Skim(layers=(at,), keep_rate=(float(rng.choice([0.25, 0.5, 0.75])),)),)
    moe = None
    if kinds[2] and depth >= 3:
        split = tuple(range(3, depth + 1))
        k = int(rng.choice([1, 2]))
        moe = Experts(layers=split, num_experts=(4,) * len(split), top_k=(k,) * len(split))
    return Candidate(backbone=BACKBONE, depth=depth, exits=exits, skim=skim, moe=moe, dtype=dtype)


def _activity(c: Candidate) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reach, keep and width of each layer up to the depth."""
    reach, keep, width = np.ones(LAYERS), np.ones(LAYERS), np.ones(LAYERS)
    for s in c.skim:
        keep[s.layers[0] - 1 :] = s.keep_rate[0]
    for i, layer in enumerate(c.moe.layers if c.moe else ()):
        width[layer - 1] = c.moe.top_k[i] / c.moe.num_experts[i]
    if c.exits:
        for layer, t in zip(c.exits.layers, c.exits.thresholds, strict=True):
            reach[layer:] *= 1 - (1.05 - t) * (1.2 + 0.25 * layer)
    reach[c.depth :] = 0
    return reach, keep, width


def _predict(c: Candidate, device: str) -> Predicted:
    per_layer, fixed, half = DEVICES[device][0][c.dtype], DEVICES[device][1], DEVICES[device][2]
    reach, keep, width = _activity(c)
    entering = np.concatenate([[1.0], keep[:-1]])
    layer = per_layer * (0.12 + 0.33 * entering + 0.55 * keep * width)
    layer[1:] += per_layer * 0.15 * (keep[1:] < entering[1:])
    mean = fixed + float((reach * layer).sum()) + 2e-5 * (len(c.exits.layers) if c.exits else 0)
    size = {"fp32": 4, "bf16": 2}[c.dtype]
    flops = 2.6e7 * 27 / 27
    return Predicted(
        latency_mean_s=mean,
        low_s=mean * (1 - half),
        high_s=mean * (1 + half),
        latency_worst_s=2.1 * (fixed + float(layer[: c.depth].sum())),
        peak_bytes=size * (11.9e6 + 1.77e6 * c.depth) + 3e6,
        flops_ideal=flops * float((reach * keep * width).sum()),
        flops_executed=flops * float((reach * entering).sum()) * 1.04,
        energy_j=mean * 14.0,
        latency_p95_s=mean * 1.6,
        latency_p99_s=mean * 1.9,
    )


def _quality(c: Candidate, rng: np.random.Generator) -> tuple[Selected, Confirmed, float]:
    reach, keep, width = _activity(c)
    by_layer = np.array([0.082, 0.036, 0.008, 0.007, 0.003, 0.0])
    left = reach - np.append(reach[1:], 0)
    left[c.depth :] = 0
    loss = float((left * by_layer).sum()) * (0.45 if c.exits else 1.0)
    loss += 0.012 * float((1 - keep[: c.depth]).mean()) + 0.01 * float((1 - width).mean())
    se = 0.0012 + 0.045 * max(loss, 0) ** 0.5 * 0.4
    seen = round(loss + float(rng.normal(-0.003, 0.002)), 5)
    true = round(loss + float(rng.normal(0, 0.0025)), 5)
    selected = Selected(error=FULL_ERROR + seen, loss=seen, se=se, n=2000)
    confirmed = Confirmed(
        error=FULL_CONFIRMED + true, loss=true, low=true - 1.96 * se, high=true + 1.96 * se, n=2000
    )
    return selected, confirmed, FULL_ERROR + seen + 1.28 * se


def _point(c: Candidate, device: str, rng: np.random.Generator) -> FrontPoint:
    selected, confirmed, bound = _quality(c, rng)
    if family_of(c) == "full":
        selected = Selected(error=FULL_ERROR, loss=0.0, se=0.0, n=2000)
        confirmed = Confirmed(error=FULL_CONFIRMED, loss=0.0, low=0.0, high=0.0, n=2000)
        bound = FULL_ERROR
    predicted = _predict(c, device)
    return FrontPoint(
        id=candidate_hash(c)[:8],
        device=device,
        family=family_of(c),
        objectives={"error": selected.error, "latency_mean_s": predicted.latency_mean_s},
        selected=selected,
        confirmed=confirmed,
        error_bound=bound,
        dominated=False,
        named=(),
        predicted=predicted,
        fidelity="confirmed",
        candidate=candidate_to_dict(c),
        reach=tuple(float(x) for x in _activity(c)[0][: c.depth]),
    )


def _front_of(points: list[FrontPoint]) -> list[FrontPoint]:
    """Non-dominated by error bound and time, with the static points kept."""
    best, kept = np.inf, []
    for p in sorted(points, key=lambda p: p.predicted.latency_mean_s):
        if p.error_bound < best or p.family in ("truncated", "full"):
            kept.append(p)
            best = min(best, p.error_bound)
    return kept


def _flag_dominated(points: list[FrontPoint]) -> list[FrontPoint]:
    from dataclasses import replace

    def beaten(p: FrontPoint) -> bool:
        return any(
            q.confirmed.error <= p.confirmed.error
            and q.predicted.latency_mean_s < p.predicted.latency_mean_s
            for q in points
            if q.dtype == p.dtype
        )

    return [replace(p, dominated=beaten(p)) for p in points]


def make_front(
    *, dtypes: tuple[str, ...] = ("fp32", "bf16"), draws: int = 120, seed: int = 0
) -> Front:
    rng = np.random.default_rng(seed)
    points: list[FrontPoint] = []
    for device in DEVICES:
        for dtype in dtypes:
            pool = [draw_candidate(rng, dtype) for _ in range(draws)]
            pool = list({candidate_hash(c): c for c in pool if family_of(c) != "full"}.values())
            static = [Candidate(backbone=BACKBONE, depth=k, dtype=dtype) for k in (2, 3, 4, 6)]
            known = {candidate_hash(c) for c in static}
            pool = [c for c in pool if candidate_hash(c) not in known]
            found = _front_of([_point(c, device, rng) for c in pool + static])
            points += _flag_dominated(found)
    costs = tuple(
        FullCost(device=d, dtype=t, predicted=_predict(full_candidate(t), d))
        for d in DEVICES
        for t in dtypes
    )
    history = tuple(
        HypervolumeStep(
            passes=n,
            seconds=4.1 * n,
            mean=0.83 * (1 - 0.55 * np.exp(-n / 7)),
            devices={
                d: (0.86 - 0.03 * i) * (1 - 0.55 * float(np.exp(-n / (5 + 2 * i))))
                for i, d in enumerate(DEVICES)
            },
        )
        for n in range(1, 65)
    )
    return Front(
        job="generated test data",
        run="generated-test-data-0a1b2c3d",
        workload={"batch": 1, "max_len": 64, "sort": False, "threads": 1, "runtime": "torch"},
        objectives=("error", "latency_mean_s"),
        budgets={
            d: {
                "latency_mean_s": 0.8 * costs[i * len(dtypes)].predicted.latency_mean_s,
                "latency_worst_s": 0.9 * costs[i * len(dtypes)].predicted.latency_worst_s,
                "peak_bytes": 80 * 2.0**20,
            }
            for i, d in enumerate(DEVICES)
        },
        reference=Reference(
            selected_error=FULL_ERROR,
            selected_n=2000,
            confirmed_error=FULL_CONFIRMED,
            confirmed_n=2000,
            costs=costs,
        ),
        hypervolume=history,
        front=mark_named(points, FULL_ERROR),
        budget_rejection={
            "local": {"latency_mean_s": 0.22, "latency_worst_s": 0.14, "peak_bytes": 0.31}
        },
    )


def make_bench(
    front: Front, *, device: str = "local", seed: int = 1, runtime: str = "torch"
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    rows, figures = [], {"mape": [], "spearman": [], "coverage": []}
    for dtype in dict.fromkeys(p.dtype for p in front.front):
        for batch in (1, 8):
            group = []
            for p in front.front:
                if p.device != device or p.dtype != dtype:
                    continue
                shrink = 1.0 if batch == 1 else 0.72
                predicted = p.predicted.latency_mean_s * shrink
                noise = float(rng.normal(0.05 if dtype == "bf16" else 0.01, 0.07))
                group.append(
                    {
                        "id": p.id,
                        "runtime": runtime,
                        "threads": 1,
                        "batch": batch,
                        "dtype": dtype,
                        "family": p.family,
                        "counted": p.family not in ("full", "truncated"),
                        "predicted_s": predicted,
                        "low_s": predicted * 0.9,
                        "high_s": predicted * 1.1,
                        "measured_s": predicted * (1 + noise),
                        "time_per_sample_s": predicted * (1 + noise),
                    }
                )
            full = next(r["measured_s"] for r in group if r["family"] == "full")
            for r in group:
                r["speedup"] = full / r["measured_s"]
            used = [r for r in group if r["counted"]]
            apart = [abs(r["predicted_s"] / r["measured_s"] - 1) for r in used]
            inside = [r["low_s"] <= r["measured_s"] <= r["high_s"] for r in used]
            key = {"runtime": runtime, "dtype": dtype, "batch": batch}
            mape = float(np.mean(apart))
            figures["mape"].append(key | {"value": mape, "same_rows": mape * 0.8})
            figures["spearman"].append(key | {"value": 0.97})
            figures["coverage"].append(key | {"value": float(np.mean(inside))})
            rows += group
    return {
        "schema_version": 1,
        "command": "bench",
        "status": "done",
        "warnings": [],
        "errors": [],
        "device": device,
        "timed_rows": 400,
        "repeats": 5,
        "threads": 1,
        "rows": rows,
        **figures,
    }


ENVIRONMENT: dict[str, Any] = {
    "schema_version": 1,
    "note": "generated test data, not a run",
    "created": "2025-01-01T00:00:00Z",
    "seed": 0,
    "commit": "0123456789abcdef",
    "versions": {"python": "3.11.0", "torch": "0.0.0", "numpy": "0.0.0"},
    "machine": {"cpu": "invented processor", "cores": 2},
}


def device_toml(name: str) -> str:
    kind = name.rsplit("-", 1)[-1] if "-" in name else "cpu"
    origin = 'source = "invented for a test", grade = "estimate"'
    return f"""schema_version = 1
name = "{name}"
kind = "{kind}"
summary = "invented device"

[peak]
fp32_gflops = {{ value = 100, {origin} }}

[memory]
capacity_gib = {{ value = 8, {origin} }}
bandwidth_gb_per_s = {{ value = 40, {origin} }}

[compute]
units = {{ value = 4, {origin} }}
"""


def make_run(folder: Path, *, bench: bool = True, **changes: Any) -> Path:
    """A run folder under `folder` holding all files that the report reads."""
    from dataclasses import replace

    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    front = replace(make_front(), **changes)
    write_front_json(front, run)
    if bench:
        (run / "bench.json").write_text(json.dumps(make_bench(front)))
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (run / "job.toml").write_text('name = "generated"\n')
    (run / "devices").mkdir(exist_ok=True)
    for name in DEVICES:
        (run / "devices" / f"{name}.toml").write_text(device_toml(name))
    lines = [
        {"event": "pass", "level": "info", "passes": 1},
        {"event": "slow worker", "level": "warning", "message": "generated: a worker was slow"},
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return run
