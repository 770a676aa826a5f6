"""What a simulation found, whatever was simulated, and the object that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.price import Z90
from dynsearch.sim.latencies import percentiles
from dynsearch.simulate.experts import Loads

F64 = NDArray[np.float64]

COUNTED = "counted"  # follows from shapes alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Costs of one input, and what happened on the way. L layers of the stack that decides."""

    latencies: F64  # [S] seconds of simulated inputs, start of their batch to their answer
    mean_s: float  # in closed form, or of the replayed trace
    worst_s: float  # full batch, longest input, every check paid, no exit taken
    energy_j: float  # per input; NaN where the device states no power
    flops_ideal: float
    flops_executed: float
    peak_bytes: float
    log_sd: float  # of log(true / predicted) seconds
    origin: str  # of seconds and joules
    activity: str  # what decides about activity: "trace", "parametric" or "counted"
    exits: F64  # [L] share of inputs (or tokens) that leave after each layer
    early: tuple[int, ...]  # 1-based layers with an early exit
    tokens: F64  # [L, 2] mean tokens of an input that enter each layer if it is reached, squared
    experts: Mapping[int, Loads] = field(default_factory=dict)  # by 0-based layer
    accuracy: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inexact: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    more: Mapping[str, float] = field(default_factory=dict)  # further figures, seconds or shares

    def table(self) -> dict[str, Any]:
        """Plain values: costs as {value, low, high, origin}, then activity and assumptions."""
        spread = float(np.exp(Z90 * self.log_sd))

        def priced(value: float) -> dict[str, Any]:
            known = np.isfinite(value)
            return _quantity(
                value if known else None,
                value / spread if known else None,
                value * spread if known else None,
                self.origin,
            )

        def counted(value: float) -> dict[str, Any]:
            origin = COUNTED if self.activity == COUNTED else f"{COUNTED}, {self.activity}"
            return _quantity(value, value, value, origin)

        found = {k: float(v) for k, v in percentiles(self.latencies).items() if k != "mean"}
        return {
            "mean": priced(self.mean_s),
            **{name: priced(value) for name, value in found.items()},
            "worst": priced(self.worst_s),
            "energy_j": priced(self.energy_j),
            "peak_bytes": _quantity(self.peak_bytes, self.peak_bytes, self.peak_bytes, COUNTED),
            "flops_ideal": counted(self.flops_ideal),
            "flops_executed": counted(self.flops_executed),
            "activity": self.activity,
            "accuracy": self.accuracy,
            "exits": [
                {"layer": i + 1, "share": float(share), "early": i + 1 in self.early}
                for i, share in enumerate(self.exits)
                if share > 0 or i + 1 in self.early
            ],
            "mean_exit_layer": float(self.exits @ np.arange(1, self.exits.size + 1)),
            "tokens": [
                {"layer": i + 1, "mean": float(row[0]), "mean_square": float(row[1])}
                for i, row in enumerate(self.tokens)
            ],
            "experts": [
                {
                    "layer": layer + 1,
                    "load": [float(x) for x in loads.share],
                    "max_over_mean": loads.busiest,
                    "touched": loads.touched,
                    "dropped": loads.dropped,
                }
                for layer, loads in self.experts.items()
            ],
            "parameters": dict(self.parameters),
            "exact": not self.inexact,
            "inexact_because": list(self.inexact),
            "notes": list(self.notes),
            "more": dict(self.more),
            "warnings": list(self.warnings),
        }


def _quantity(
    value: float | None, low: float | None, high: float | None, origin: str
) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "origin": origin}
