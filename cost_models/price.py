"""Operator table -> seconds and joules on a device, with intervals and where they come from.

An error has two parts that propagate differently. The *shared* part (a device's clock, one wrong
parameter) moves all operators of a device together; the *residual* part belongs to one kind of
operator. Both are standard deviations of log(true / predicted). Bounds are 90 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.collectives import collective_time_s, log_sd_of
from cost_models.device import Device
from cost_models.energy import operator_energy_j
from cost_models.forms import Terms, form_of
from search_spaces.ops import KIND, KINDS, OpTable

F64 = NDArray[np.float64]

Z90 = 1.6448536269514722  # two-sided 90 % of a normal distribution
OUTSIDE = 2.0  # residuals count this much where a shape lies outside the measured range


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCosts:
    """Costs of R operators, each times its `count`."""

    time_s: F64  # [R]
    low_s: F64  # [R] 90 % interval of one operator
    high_s: F64  # [R]
    energy_j: F64  # [R] NaN where the device states no power
    origin: str  # "datasheet" or "profile:<name>"
    shared_log_sd: float  # error common to all operators of the device
    residual_log_sd: F64  # [R] error of the operator's kind on top of it


def price_ops(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> OpCosts:
    """Cost of every operator on one device.

    Args:
        ops: R operators.
        device: What charges for them.
        threads: Threads that share an operator (processor cores only).
        working_set_bytes: Weights read between two uses of the same weights, one number or [R];
            None: more than any cache holds.

    Returns:
        Times and energies multiplied by `ops.count`.
    """
    once = operator_time_s(ops, device, threads=threads, working_set_bytes=working_set_bytes)
    shared, residual = shared_log_sd(device), residual_log_sd(ops, device)
    time = once * ops.count
    spread = np.exp(Z90 * np.hypot(shared, residual))
    return OpCosts(
        time_s=time,
        low_s=time / spread,
        high_s=time * spread,
        energy_j=operator_energy_j(ops, once, device) * ops.count,
        origin=device.origin,
        shared_log_sd=shared,
        residual_log_sd=residual,
    )


def operator_time_s(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> F64:
    """Seconds of one execution of every operator [R]: the device's form, collectives its link."""
    once = form_of(device.kind).operator_time_s(
        ops, device, threads=threads, working_set_bytes=working_set_bytes
    )
    linked = ops.kind == KIND["collective"]
    if linked.any():
        once[linked] = collective_time_s(ops.take(linked), device.name)
    return once


def price_terms(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> Terms:
    """What the times of `price_ops` consist of, times `ops.count`; arguments as there."""
    once = form_of(device.kind).operator_terms(
        ops, device, threads=threads, working_set_bytes=working_set_bytes
    )
    return once.scaled(ops.count)


def call_overhead_s(device: Device, dtype: str = "fp32") -> float:
    """Time that a forward pass pays once, whatever it computes, 0 where a form has none.

    Dispatch of a compiled graph, or what the host does around the operators. Add it to the first
    stage of a network; later calls are charged by `host_sync` operators.
    """
    overhead = getattr(form_of(device.kind), "call_overhead_s", None)
    return 0.0 if overhead is None else float(overhead(device, dtype))


def miss_share(device: Device, working_set_bytes: float | NDArray[Any] | None) -> F64:
    """How far a time lies between its value with cached weights (0) and from memory (1).

    Times are linear in it, so pricing at both ends covers every working set. Forms whose times
    do not depend on the working set return 1.
    """
    share = getattr(form_of(device.kind), "miss_share", None)
    if share is None:
        return np.ones(np.asarray(working_set_bytes).shape)
    found: F64 = share(device, working_set_bytes)
    return found


def shared_log_sd(device: Device) -> float:
    """Standard deviation of log(true / predicted) that all operators of the device share."""
    if device.profile is not None:
        return device.profile.shared_log_sd
    return form_of(device.kind).SHARED_LOG_SD


def residual_log_sd(ops: OpTable, device: Device) -> F64:
    """The same for each operator's kind [R], doubled outside the shapes that were measured."""
    default = form_of(device.kind).RESIDUAL_LOG_SD
    if device.profile is None:
        linked = _link_log_sd(device, default)
        return np.where(ops.kind == KIND["collective"], linked, default)
    known = device.profile.residual_log_sd
    by_kind = np.array([known.get(name, default) for name in KINDS])
    by_kind[KIND["collective"]] = known.get("collective", _link_log_sd(device, default))
    matmul = (ops.kind == KIND["matmul"]) | (ops.kind == KIND["grouped_matmul"])
    outside = np.zeros(len(ops), dtype=bool)
    for axis in ("m", "k", "n"):
        if axis in device.profile.covered:
            low, high = device.profile.covered[axis]
            size = getattr(ops, axis)
            outside |= (size < low) | (size > high)
    return by_kind[ops.kind] * np.where(outside & matmul, OUTSIDE, 1.0)


def _link_log_sd(device: Device, default: float) -> float:
    found = log_sd_of(device.name)
    return default if np.isnan(found) else found
