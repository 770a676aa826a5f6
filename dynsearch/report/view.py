"""The data that the report's charts read: plain lists and numbers, one entry per point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynsearch.export.records import Front, FrontPoint, Predicted
from dynsearch.report.headline import measured_full, speed_of

COSTS: dict[str, str] = {
    "latency_mean_s": "Mean latency",
    "time_per_sample_s": "Time per input",
    "latency_p95_s": "95th percentile of latency",
    "latency_p99_s": "99th percentile of latency",
    "latency_worst_s": "Worst-case latency",
    "peak_bytes": "Peak memory",
    "energy_j": "Energy per input",
    "flops_executed": "Operations per input",
}


def chart_data(front: Front, bench: Mapping[str, Any] | None, device: str) -> dict[str, Any]:
    """Everything that the report's script draws.

    Args:
        front: The run's front, measurements laid over it.
        bench: The run's `bench.json`, None before it was measured.
        device: The device that is shown first.
    """
    formats = [c.dtype for c in front.reference.costs if c.device == device]
    formats += [p.dtype for p in front.front if p.device == device]
    return {
        "main_device": device,
        "main_dtype": formats[0] if formats else "all",
        "devices": [
            {
                "name": device,
                "budgets": front.budgets.get(device, {}),
                "full": [
                    {
                        "dtype": c.dtype,
                        "costs": cost_values(c.predicted),
                        "measured": measured_full(front, c.dtype, bench, "measured_s"),
                    }
                    for c in front.reference.costs
                    if c.device == device
                ],
            }
            for device in front.devices
        ],
        "costs": _costs_shown(front),
        "first_cost": next((o for o in front.objectives if o in COSTS), "latency_mean_s"),
        "full_error": {
            "selected": front.reference.selected_error,
            "confirmed": front.reference.confirmed_error,
        },
        "points": [_point(front, p, bench) for p in front.front],
        "hypervolume": [
            {"passes": h.passes, "seconds": h.seconds, "mean": h.mean, "devices": h.devices}
            for h in front.hypervolume
        ],
        "bench": bench_groups(bench),
    }


def cost_values(p: Predicted) -> dict[str, float | None]:
    """The predicted costs under the names of `COSTS`."""
    return {
        name: p.per_sample_s if name == "time_per_sample_s" else getattr(p, name) for name in COSTS
    }


def _costs_shown(front: Front) -> list[list[str]]:
    """[name, label] of the costs that every point knows."""
    return [
        [name, label]
        for name, label in COSTS.items()
        if front.front and all(cost_values(p.predicted)[name] is not None for p in front.front)
    ]


def _point(front: Front, p: FrontPoint, bench: Mapping[str, Any] | None) -> dict[str, Any]:
    speed = speed_of(front, p, bench)
    candidate = p.candidate
    exits = candidate.get("exits") or {}
    return {
        "id": p.id,
        "device": p.device,
        "family": p.family,
        "dtype": p.dtype,
        "named": list(p.named),
        "dominated": p.dominated,
        "fidelity": p.fidelity,
        "bound": p.error_bound,
        "selected": {
            "error": p.selected.error,
            "loss": p.selected.loss,
            "se": p.selected.se,
            "n": p.selected.n,
        },
        "confirmed": p.confirmed
        and {
            "error": p.confirmed.error,
            "loss": p.confirmed.loss,
            "low": p.confirmed.low,
            "high": p.confirmed.high,
            "n": p.confirmed.n,
        },
        "costs": cost_values(p.predicted),
        "low": p.predicted.low_s,
        "high": p.predicted.high_s,
        "measured": p.measured
        and {
            "latency": p.measured.latency_mean_s,
            "per_sample": p.measured.time_per_sample_s,
            "n": p.measured.n,
        },
        "speed": {"predicted": speed.predicted, "measured": speed.measured},
        "exit_rule": exit_rule(candidate),
        "criterion": exits.get("criterion"),
        "batching": candidate.get("exit_batching"),
        "layers": layer_strip(p),
        "certificate": _certificate(p),
        "uncertified": front.uncertified.get(p.id),
    }


def _certificate(p: FrontPoint) -> dict[str, str] | None:
    """Statement and note of the certificate, where the front carries any."""
    found = getattr(p, "certificate", None)
    return None if found is None else {"statement": found.statement, "note": found.note}


def exit_rule(candidate: Mapping[str, Any]) -> str:
    """The exit policy in words."""
    exits = candidate.get("exits")
    if not exits or not exits.get("layers"):
        return "no early exit"
    if exits["criterion"] == "patience":
        return f"patience: {exits.get('patience')} exits in a row agree"
    temperature = exits.get("temperature", 1.0)
    cool = "" if temperature == 1.0 else f", temperature {temperature:.3g}"
    return f"{exits['criterion']} \u2265 threshold{cool}"


def layer_strip(p: FrontPoint) -> list[dict[str, Any]]:
    """Per layer: kept share of tokens, share of inputs that enter, experts, exit.

    `rate` is the share of all inputs that leave after the layer; None where reach is unknown.
    Layers above the depth are `None` entries.
    """
    candidate = p.candidate
    depth = int(candidate["depth"])
    total = max(depth, int((candidate.get("backbone") or {}).get("num_layers", depth)))
    exits, moe = candidate.get("exits") or {}, candidate.get("moe") or {}
    thresholds = dict(zip(exits.get("layers", ()), exits.get("thresholds", ()), strict=False))
    experts = {
        layer: (k, e)
        for layer, k, e in zip(
            moe.get("layers", ()), moe.get("top_k", ()), moe.get("num_experts", ()), strict=True
        )
    }
    rates = {
        layer: rate
        for skim in candidate.get("skim") or ()
        for layer, rate in zip(skim["layers"], skim["keep_rate"], strict=True)
    }
    keep = 1.0
    out: list[dict[str, Any]] = []
    for layer in range(1, total + 1):
        if layer > depth:
            out.append({"layer": layer, "exists": False})
            continue
        keep = min(keep, rates.get(layer, 1.0))
        out.append(
            {
                "layer": layer,
                "exists": True,
                "keep": keep,
                "reach": p.reach[layer - 1] if p.reach else None,
                "experts": experts.get(layer),
                "exit": layer in exits.get("layers", ()) or layer == depth,
                "last": layer == depth,
                "threshold": thresholds.get(layer),
                "rate": _exit_rate(p.reach, layer, depth),
            }
        )
    return out


def _exit_rate(reach: tuple[float, ...] | None, layer: int, depth: int) -> float | None:
    if not reach:
        return None
    after = reach[layer] if layer < depth and layer < len(reach) else 0.0
    return reach[layer - 1] - after


def bench_groups(bench: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The bench rows by (runtime, dtype, batch), with the figures of each group.

    A group of references alone, which another number format has beside it, is left out.
    """
    if not bench:
        return []
    figures = {
        name: {(f["runtime"], f["dtype"], f["batch"]): f for f in bench.get(name, ())}
        for name in ("mape", "spearman", "coverage")
    }
    counted = [r for r in bench["rows"] if r.get("counted", True)]
    keys = dict.fromkeys((r["runtime"], r["dtype"], r["batch"]) for r in counted)
    return [
        {
            "runtime": key[0],
            "dtype": key[1],
            "batch": key[2],
            **{name: figures[name].get(key, {}).get("value") for name in figures},
            "mape_same_rows": figures["mape"].get(key, {}).get("same_rows"),
            "rows": [
                {
                    "id": r["id"],
                    "family": r["family"],
                    "counted": r.get("counted", True),
                    "predicted": r["predicted_s"],
                    "low": r["low_s"],
                    "high": r["high_s"],
                    "measured": r["measured_s"],
                }
                for r in bench["rows"]
                if (r["runtime"], r["dtype"], r["batch"]) == key
            ],
        }
        for key in keys
    ]
