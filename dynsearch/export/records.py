"""The records of a front: what every reader of a finished search works with.

Predicted figures and measured figures are separate records; no field ever holds either.

Words: `loss` is the error minus the full network's error on the same rows (paired), as a share of
rows (0.01 = one point); where a job ranks by another metric (`Front.metric`), `error` and `loss`
are of 1 - metric, or of the negative log likelihood in nats. `selected` figures come from the
search rows, `confirmed` ones from the report rows, which are opened after the front is frozen.
All times are seconds, memory is bytes, energy is joules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dynsearch.risk.certificate import Certificate
from search_spaces.candidate import Candidate

LOSS_LEVELS: tuple[float, ...] = (0.0, 0.005, 0.01, 0.02)
FIDELITIES: tuple[str, ...] = ("replay", "confirmed", "certified", "measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """Quality on the search rows, by plain estimate; `se` is the paired loss's standard error."""

    error: float
    loss: float
    se: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """Quality on the report rows; `low` and `high` are the paired 95 % interval of `loss`."""

    error: float
    loss: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFigures:
    """Every metric of `quality.metrics.METRICS` on the same rows.

    `loss` compares with the full network, larger = worse: its accuracy minus the policy's (and so
    for every share), the policy's nll minus its own. `low` and `high` are paired 95 % intervals
    of the losses: Newcombe's for accuracy, a percentile bootstrap over rows for the others.
    """

    n: int
    value: dict[str, float]  # by metric; nll in nats at the configuration's temperature
    loss: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    by_length: tuple[float | None, ...]  # accuracy in each of Front.length_buckets; None: no row


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBucket:
    """Rows of similar length; edges are quartiles of the search rows' lengths."""

    shortest: int  # tokens, special ones included
    longest: int
    selected_n: int
    confirmed_n: int | None  # None: not confirmed yet; rows beyond the ends are in the end buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What the cost model says of one candidate on one device, with the search rows' activity.

    `low_s` and `high_s` are the 90 % interval of `latency_mean_s`.
    """

    latency_mean_s: float
    low_s: float
    high_s: float
    latency_worst_s: float
    peak_bytes: float
    flops_ideal: float
    flops_executed: float
    energy_j: float | None = None
    time_per_sample_s: float | None = None  # None: equal to latency_mean_s (batch 1)
    latency_p95_s: float | None = None
    latency_p99_s: float | None = None

    @property
    def per_sample_s(self) -> float:
        """Batch time over batch: what every speed-up is a ratio of."""
        return self.latency_mean_s if self.time_per_sample_s is None else self.time_per_sample_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a stopwatch says of the running model on this machine."""

    latency_mean_s: float
    time_per_sample_s: float
    runtime: str
    threads: int
    batch: int
    n: int  # timed rows
    repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One configuration on one device. `id` is the candidate's hash and recurs across devices."""

    id: str
    device: str
    family: str
    objectives: dict[str, float]
    selected: Selected
    confirmed: Confirmed | None
    error_bound: float  # what ranks: see sim/row_losses.py
    dominated: bool  # by a point of its device and dtype, after confirmation
    named: tuple[float, ...]  # loss levels for which this is the named point of its dtype
    predicted: Predicted
    fidelity: str
    candidate: dict[str, Any]
    measured: Measured | None = None
    reach: tuple[float, ...] | None = None  # [L] share of search rows that enter each layer
    selected_quality: QualityFigures | None = None  # None: written before there were any
    confirmed_quality: QualityFigures | None = None
    certificate: Certificate | None = None

    @property
    def dtype(self) -> str:
        """Number format of the candidate."""
        return str(self.candidate.get("dtype", "fp32"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FullCost:
    """Cost of the full network on one device in one number format."""

    device: str
    dtype: str
    predicted: Predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The full network: all layers, all experts, no skim, no exit check."""

    selected_error: float
    selected_n: int
    confirmed_error: float | None
    confirmed_n: int | None
    costs: tuple[FullCost, ...]

    def cost(self, device: str, dtype: str) -> Predicted | None:
        """Cost on `device` in `dtype`, None where the search did not price it."""
        for entry in self.costs:
            if (entry.device, entry.dtype) == (device, dtype):
                return entry.predicted
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervolumeStep:
    """Normalised hypervolume (0..1) once `passes` forward passes were done."""

    passes: int
    seconds: float  # since the search began
    mean: float
    devices: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Everything a search leaves behind for its readers."""

    job: str
    run: str
    workload: dict[str, Any]
    objectives: tuple[str, ...]
    budgets: dict[str, dict[str, float]]  # device -> quantity -> limit; relative ones resolved
    reference: Reference
    hypervolume: tuple[HypervolumeStep, ...]
    front: tuple[FrontPoint, ...]
    # device -> quantity -> share of the candidates admitted by all other budgets that this
    # budget rejects (knobs drawn uniformly)
    budget_rejection: dict[str, dict[str, float]] = field(default_factory=dict)
    metric: str = "accuracy"  # whose loss ranks and stands in `error`, see the module's docstring
    length_buckets: tuple[LengthBucket, ...] = ()
    risk: dict[str, Any] | None = None  # the job's [risk], None: no certificates were asked for
    uncertified: dict[str, str] = field(default_factory=dict)  # id -> why it has no certificate
    screened: float = 0.0  # passes' worth of rows that were run of passes that were stopped

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices in the order in which they first appear."""
        names = [c.device for c in self.reference.costs] + [p.device for p in self.front]
        return tuple(dict.fromkeys(names))


def family_of(candidate: Candidate) -> str:
    """Which ideas a candidate combines: "exit+skim", "experts", ..., "truncated" or "full"."""
    parts = []
    if candidate.exits is not None and candidate.exits.layers:
        parts.append("exit")
    if any(rate < 1.0 for skim in candidate.skim for rate in skim.keep_rate):
        parts.append("skim")
    moe = candidate.moe
    if moe is not None and any(k < e for k, e in zip(moe.top_k, moe.num_experts, strict=True)):
        parts.append("experts")
    if parts:
        return "+".join(parts)
    return "truncated" if candidate.depth < candidate.backbone.num_layers else "full"


def mark_named(
    points: Sequence[FrontPoint], full_error: float, levels: Sequence[float] = LOSS_LEVELS
) -> tuple[FrontPoint, ...]:
    """Name the fastest point per device, dtype and loss level whose `error_bound` allows it.

    Args:
        points: Points of any number of devices.
        full_error: The full network's error on the search rows.
        levels: Allowed losses as shares of rows.

    Returns:
        The same points in the same order with `named` filled. A level that no point reaches
        names none. Ties in time go to the lower `error_bound`, then to the id.
    """
    best: dict[tuple[str, str, float], tuple[float, float, str]] = {}
    for p in points:
        rank = (p.predicted.per_sample_s, p.error_bound, p.id)
        for level in levels:
            key = (p.device, p.dtype, level)
            allowed = p.error_bound <= full_error + level + 1e-12
            if allowed and rank < best.get(key, (float("inf"), 0.0, "")):
                best[key] = rank
    return tuple(
        replace(
            p,
            named=tuple(
                level
                for level in levels
                if best.get((p.device, p.dtype, level), (0.0, 0.0, ""))[2] == p.id
            ),
        )
        for p in points
    )
