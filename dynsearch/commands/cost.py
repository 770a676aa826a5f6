"""What `dynsearch cost` predicts for one candidate on one device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.candidates import working_set_bytes
from cost_models.device import Device
from cost_models.memory import peak_bytes
from cost_models.price import (
    Z90,
    call_overhead_s,
    error_s,
    network_log_sd,
    outside_warnings,
    price_ops,
)
from dynsearch.commands.devices import find_device
from dynsearch.errors import InputError, Problem
from dynsearch.quality.trace import Trace, load_trace
from dynsearch.sim.decide import exit_layers
from dynsearch.sim.layer_cost import build_layer_cost
from dynsearch.sim.replay import Replayer
from dynsearch.simulate.traces import misfits
from search_spaces.candidate import (
    DTYPES,
    EXIT_BATCHING,
    Candidate,
    CandidateBatch,
    PolicyBatch,
    policies_of,
    stack,
    tokens_per_layer,
)
from search_spaces.codec import load_candidate
from search_spaces.lowering.encoder import lower
from search_spaces.validity import require_valid
from search_spaces.workload import Workload

F64 = NDArray[np.float64]
Interval = tuple[float | None, float | None, float | None]  # value, low, high
UNKNOWN: Interval = (None, None, None)
COUNTED = "counted"  # origin of what follows from shapes alone
FLOPS = ("flops_ideal", "flops_executed")
PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def cost(
    candidate: Path,
    *,
    device: str,
    activity: Path | None = None,
    workload: Workload,
    num_classes: int = 2,
) -> dict[str, Any]:
    """Predicted cost of a candidate.

    Args:
        candidate: TOML file of the candidate.
        device: Name of a device, "local", or a device file.
        activity: Trace of the candidate's outer setting, see `dynsearch.quality.trace`. Without
            one only bounds for inputs of the workload's length are known: the best case (all of
            a full batch gone at the first exit) and the worst (none gone before the depth).
        workload: Batch, longest input, threads.
        num_classes: Classes of every head; a trace knows its own.

    Returns:
        `mean, p50, p95, p99` of an input (start of its batch to its own answer) and `worst` in
        seconds, `energy_j`, `flops_ideal` and `flops_executed` per input, `peak_bytes`: each
        {value, low, high, origin}, where None is unknown. Without a trace also `best`.
        `warnings` names operators outside the shapes that the device's profile has measured.

    Raises:
        InputError: faulty or meaningless candidate, unknown device, unfit trace.
    """
    batch = stack([load_candidate(candidate)])
    one = batch.row(0)
    trace = None if activity is None else _fitting_trace(activity, batch, workload)
    num_classes = num_classes if trace is None else int(trace.logits.shape[2])
    require_valid(one, workload=workload, num_classes=num_classes, file=candidate, run=True)
    charged = find_device(device, threads=workload.threads)
    price = Pricer(batch, charged, workload.threads, num_classes)
    size = price.size(workload)
    first = int(np.argmax(batch.exit_on[0])) if batch.exit_on.any() else one.depth - 1
    worst = price(workload.max_len, one.depth - 1, size)
    if trace is None:
        best = price(workload.max_len, first, size)
        result = _between(best, worst, size, charged.origin)
    else:
        result = _replayed(trace, one, price, workload)
    memory = float(peak_bytes(batch, workload=workload, num_classes=num_classes)[0])
    result["worst"] = _quantity(worst.interval, charged.origin)
    result["peak_bytes"] = _quantity((memory,) * 3, COUNTED)
    return result | {"warnings": list(worst.warnings)}


@dataclass(frozen=True, slots=True)
class Case:
    """Cost of one batch that runs up to a fixed layer; bounds are 90 %."""

    seconds: float
    low_s: float
    high_s: float
    energy_j: float  # NaN where the device states no power
    flops_ideal: float
    flops_executed: float
    warnings: tuple[str, ...]  # of operators outside what was measured

    @property
    def interval(self) -> Interval:
        """Seconds with their bounds."""
        return self.seconds, self.low_s, self.high_s


@dataclass(frozen=True, slots=True)
class Pricer:
    """Prices batches of one candidate on one device."""

    candidate: CandidateBatch  # a batch of one
    device: Device
    threads: int
    num_classes: int

    def size(self, workload: Workload) -> int:
        """Inputs that run together."""
        serial = self.candidate.exit_batching[0] == EXIT_BATCHING.index("serial")
        return 1 if serial else workload.batch

    def __call__(self, length: int, last: int, size: int = 1) -> Case:
        """A batch of inputs of one length that all leave after a layer, every check paid.

        Args:
            length: Tokens of each input.
            last: 0-based layer after which all leave.
            size: Inputs in the batch.
        """
        ops = lower(self.candidate, lengths=length, batch=size, num_classes=self.num_classes)
        ops = ops.take(ops.layer <= last)
        weights = float(working_set_bytes(self.candidate)[0])
        priced = price_ops(ops, self.device, threads=self.threads, working_set_bytes=weights)
        start = call_overhead_s(self.device, DTYPES[int(self.candidate.dtype[0])])
        seconds = float(priced.time_s.sum()) + start
        residual = float(error_s(priced, ops, np.zeros(len(ops), np.int64), 1)[0]) / seconds
        spread = float(np.exp(Z90 * np.hypot(network_log_sd(self.device), residual)))
        return Case(
            seconds=seconds,
            low_s=seconds / spread,
            high_s=seconds * spread,
            energy_j=float(priced.energy_j.sum()),
            flops_ideal=float((ops.flops * ops.count).sum()),
            flops_executed=float((ops.executed_flops * ops.count).sum()),
            warnings=outside_warnings(ops, self.device),
        )


def _fitting_trace(path: Path, batch: CandidateBatch, workload: Workload) -> Trace:
    """The trace in a file, if this candidate's outer setting can have left it."""
    trace = load_trace(path)
    problems = misfits(trace, path, batch.row(0))

    def complain(key: str, value: object, message: str) -> None:
        problems.append(Problem(str(path), key, str(value), message))

    depth = int(batch.depth[0])
    if trace.num_layers != batch.backbone.num_layers:
        raise InputError(problems)
    kept = tokens_per_layer(trace.lengths, batch.keep_rate[0], batch.keep_before[0])
    told = (trace.tokens_layer, trace.tokens_ffn)
    for name, mine, its in zip(("tokens_layer", "tokens_ffn"), kept, told, strict=True):
        if not np.array_equal(its[:, :depth], mine[:, :depth]):
            complain(name, "", "the candidate drops other tokens than this trace")
    routed = trace.expert_tokens.sum(axis=(0, 2)) > 0
    if not np.array_equal(routed[:depth], batch.num_experts[0, :depth] > 1):
        complain("expert_tokens", "", "the candidate has experts in other layers than this trace")
    longest = int(trace.lengths.max(initial=0))
    if longest > workload.max_len:
        complain("lengths", longest, f"is the longest input; give --max-len {longest} or more")
    if problems:
        raise InputError(problems)
    return trace


def _replayed(
    trace: Trace, candidate: Candidate, price: Pricer, workload: Workload
) -> dict[str, Any]:
    """The candidate's exits replayed on the trace, in batches as the workload forms them."""
    costs = build_layer_cost(
        candidate, [price.device], workload=workload, num_classes=price.num_classes
    )
    right = trace.logits[:, -1].argmax(axis=-1) == trace.labels
    replayer = Replayer(trace, costs, workloads=[workload], correct_full=right)
    policies = policies_of([candidate])
    done = replayer.run(policies)
    spread = float(np.exp(Z90 * costs.log_sd[0]))
    origin = price.device.origin

    def around(value: float) -> dict[str, Any]:
        return _quantity((value, value / spread, value * spread), origin)

    result = {"mean": around(float(done.cost("latency_mean_s")[0, 0]))}
    latencies = replayer.latencies(policies)[0, 0]
    for name, share in PERCENTILES.items():
        result[name] = around(float(np.quantile(latencies, share)))
    known = "energy_j" in replayer.quantities
    result["energy_j"] = (
        around(float(done.cost("energy_j")[0, 0])) if known else _quantity(UNKNOWN, origin)
    )
    return result | _mean_flops(trace, policies, price, alone=price.size(workload) == 1)


def _mean_flops(
    trace: Trace, policies: PolicyBatch, price: Pricer, *, alone: bool
) -> dict[str, Any]:
    """FLOPs per input at its own length and exit; padding in batches is known to nobody here."""
    exits = exit_layers(trace.logits, policies)[0]
    pairs, count = np.unique(np.stack([trace.lengths, exits], axis=1), axis=0, return_counts=True)
    cases = [price(int(length), int(last)) for length, last in pairs]
    means = {
        name: float(np.average([getattr(case, name) for case in cases], weights=count))
        for name in FLOPS
    }
    found = {name: _quantity((mean,) * 3, COUNTED) for name, mean in means.items()}
    return found if alone else found | {"flops_executed": _quantity(UNKNOWN, COUNTED)}


def _between(best: Case, worst: Case, size: int, origin: str) -> dict[str, Any]:
    """What is known without a trace: bounds, and the best case itself."""
    result = {"best": _quantity(best.interval, origin)}
    for name in ("mean", *PERCENTILES):
        result[name] = _quantity((None, best.low_s, worst.high_s), origin)
    for name in ("energy_j", *FLOPS):
        low, high = getattr(best, name) / size, getattr(worst, name) / size
        known = np.isfinite(low) and np.isfinite(high)
        ends: Interval = (low if low == high else None, low, high) if known else UNKNOWN
        result[name] = _quantity(ends, origin if name == "energy_j" else COUNTED)
    return result


def _quantity(interval: Interval, origin: str) -> dict[str, Any]:
    value, low, high = interval
    return {"value": value, "low": low, "high": high, "origin": origin}
