"""Operator table -> seconds and joules on a device, with intervals and where they come from.

Seconds are those of the form, times what was learned of a device that was measured often.

Errors are standard deviations of log(true / predicted), in four parts that propagate differently:

    shared      a device's clock and its state: moves everything on the device together
    parameters  what a calibration could not tell: moves operators as far as each depends on them
    kind        a kind of operator that the form gets wrong, in all shapes of one network alike
    residual    one shape of a kind on top of it, independent of other shapes

Bounds are 90 %. The interval of a network is not the sum of its operators' bounds: `error_s` adds
the parts up, the first three jointly, the last as independent.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from cost_models.collectives import collective_time_s, log_sd_of
from cost_models.device import Device, with_parameters
from cost_models.energy import operator_energy_j
from cost_models.forms import Terms, form_of, parameters_of
from cost_models.learned import factor, unsure
from cost_models.profile import AXES
from search_spaces.candidate import DTYPES
from search_spaces.ops import KIND, KINDS, OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

Z90 = 1.6448536269514722  # two-sided 90 % of a normal distribution
OUTSIDE = 2.0  # errors count this much where a shape lies outside the measured range
STEP = 1e-3  # of the logarithm of a parameter, to see what depends on it
TINY = 1e-15  # seconds of operators that cost nothing
MANY = 1_000_000  # cells of a table of networks and shapes that is still dense

EAGER = "torch-eager"  # the runtime whose host launches every operator by itself
HOST, HOST_CALL = "dispatch", "host_call"  # parameters that say how long it takes
MATMULS = ("matmul", "grouped_matmul")  # kinds whose ranges a profile states without a kind
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCosts:
    """Costs of R operators, each times its `count`."""

    time_s: F64  # [R]
    low_s: F64  # [R] 90 % interval of one operator
    high_s: F64  # [R]
    energy_j: F64  # [R] NaN where the device states no power
    origin: str  # "datasheet" or "profile:<name>"
    shared_log_sd: float  # error common to all operators of the device
    residual_log_sd: F64  # [R] error of the operator's shape on top of it
    kind_log_sd: F64  # [R] error that operators of its kind share
    parameter_log_sd: F64  # [R, P] error per unit of P independent causes in the parameters
    counted: NDArray[np.bool_]  # [R] whose own errors a network has on top of `network_log_sd`

    @property
    def own_log_sd(self) -> F64:
        """Error of a single operator [R] beyond what the whole device shares."""
        variance = self.residual_log_sd**2 + self.kind_log_sd**2
        total: F64 = np.sqrt(variance + (self.parameter_log_sd**2).sum(axis=1))
        return total


def price_ops(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> OpCosts:
    """Cost of every operator on one device.

    Shapes outside those that the device's profile has measured are priced with a wider interval,
    and logged as a warning, once in a process: see `outside_warnings`.

    Args:
        ops: R operators.
        device: What charges for them.
        threads: Threads that share an operator (processor cores only).
        working_set_bytes: Weights read between two uses of the same weights, one number or [R];
            None: more than any cache holds.

    Returns:
        Times and energies multiplied by `ops.count`.
    """
    for text in outside_warnings(ops, device):
        _warn_once(text)
    once = _launched_time_s(ops, device, threads, working_set_bytes)
    time = once * ops.count
    cost = OpCosts(
        time_s=time,
        low_s=time,
        high_s=time,
        energy_j=operator_energy_j(
            ops, once, device, from_memory=_from_memory(device, working_set_bytes)
        )
        * ops.count,
        origin=device.origin,
        shared_log_sd=shared_log_sd(device),
        residual_log_sd=residual_log_sd(ops, device),
        kind_log_sd=kind_log_sd(ops, device),
        parameter_log_sd=_parameter_log_sd(ops, once, device, threads, working_set_bytes),
        counted=_counted(ops, device),
    )
    spread = np.exp(Z90 * np.hypot(cost.shared_log_sd, cost.own_log_sd))
    return replace(cost, low_s=time / spread, high_s=time * spread)


def _from_memory(device: Device, working_set_bytes: float | NDArray[Any] | None) -> F64 | float:
    return 1.0 if working_set_bytes is None else miss_share(device, working_set_bytes)


def error_s(cost: OpCosts, ops: OpTable, owner: I64, size: int) -> F64:
    """Standard deviations [size] of the seconds of networks on top of `network_log_sd`.

    Causes in the parameters and in a kind of operator move all operators of a network together;
    errors of distinct shapes are independent, those of one shape are the same error.

    Args:
        cost: Of R operators.
        ops: The operators.
        owner: Network of each operator [R], 0 to size - 1.
        size: Networks.
    """

    def squares(seconds: F64, part: I64, parts: int) -> F64:
        total = np.bincount(owner * parts + part, weights=seconds, minlength=size * parts)
        found: F64 = (total.reshape(size, parts) ** 2).sum(axis=1)
        return found

    one = np.zeros(len(ops), dtype=np.int64)
    seconds = cost.time_s * cost.counted
    shape, shapes = _shapes(ops)
    variance = squares(seconds * cost.kind_log_sd, ops.kind, len(KINDS))
    if shapes * size <= MANY:
        variance += squares(seconds * cost.residual_log_sd, shape, shapes)
    else:
        pair, first = np.unique(owner * shapes + shape, return_inverse=True)
        total = np.bincount(first, weights=seconds * cost.residual_log_sd)
        variance += np.bincount(pair // shapes, weights=total**2, minlength=size)
    for cause in range(cost.parameter_log_sd.shape[1]):
        variance += squares(seconds * cost.parameter_log_sd[:, cause], one, 1)
    found: F64 = np.sqrt(variance)
    return found


def _shapes(ops: OpTable) -> tuple[I64, int]:
    """Number of the shape of each operator [R], and how many there are."""
    columns = np.stack([ops.kind, ops.m, ops.k, ops.n, ops.batch, ops.dtype], axis=1)
    distinct, number = np.unique(columns, axis=0, return_inverse=True)
    return number.reshape(-1), distinct.shape[0]


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
    once = once * factor(ops, device.learned)
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
    once = (
        form_of(device.kind)
        .operator_terms(ops, device, threads=threads, working_set_bytes=working_set_bytes)
        .scaled(factor(ops, device.learned))
    )
    linked = ops.kind == KIND["collective"]
    if linked.any():  # a link's time does not split into memory and arithmetic
        once = once.scaled(np.where(linked, 0.0, 1.0))
        once.fixed[linked] = collective_time_s(ops.take(linked), device.name)
    return once.scaled(ops.count * _host_factor(ops, device, once.total))


def _launched_time_s(
    ops: OpTable,
    device: Device,
    threads: int,
    working_set_bytes: float | NDArray[Any] | None,
) -> F64:
    """`operator_time_s` as the operators run in a forward pass of the profile's runtime."""
    once = operator_time_s(ops, device, threads=threads, working_set_bytes=working_set_bytes)
    return once * _host_factor(ops, device, once)


def _host_factor(ops: OpTable, device: Device, once: F64) -> F64:
    """How much longer operators take for the host of an eager profile [R], 1 where it keeps up.

    The host runs ahead: a layer takes what it or the device takes, whichever is longer, and its
    operators share the wait by their times. A decision that is read back is a wait of its own.

    Args:
        ops: R operators; those of one `candidate` and `layer` run one after another.
        device: With the profile that names the runtime; without one nothing is known of a host.
        once: Seconds of one execution of each on the device [R].
    """
    factor = np.ones(len(ops))
    if not _is_eager(device) or len(ops) == 0:
        return factor
    host = host_time_s(ops, device)
    launched = host > 0
    layers = np.stack([ops.candidate, ops.layer], axis=1)
    layer = np.unique(layers, axis=0, return_inverse=True)[1].reshape(-1)
    busy = np.bincount(layer, weights=launched * once * ops.count)
    longer = np.bincount(layer, weights=host * ops.count) / np.maximum(busy, TINY)
    return np.where(launched, np.maximum(longer, 1.0)[layer], factor)


def host_time_s(ops: OpTable, device: Device) -> F64:
    """Seconds that the host of an eager runtime needs for one execution of every operator [R].

    Compare sums over what runs without a wait for the device; 0 where a form counts the host
    into its operators.
    """
    host = getattr(form_of(device.kind), "host_time_s", None)
    return np.zeros(len(ops)) if host is None else np.asarray(host(ops, device))


def call_overhead_s(device: Device, dtype: str = "fp32", *, eager: bool | None = None) -> float:
    """Time that a forward pass pays once, whatever it computes, 0 where a form has none.

    Dispatch of a compiled graph, or what the host does around the operators. Add it to the first
    stage of a network; later calls are charged by `host_sync` operators.

    Args:
        device: What charges for it.
        dtype: Number format of the pass.
        eager: Whether a host launches every operator; None: as the device's profile says.
    """
    overhead = getattr(form_of(device.kind), "call_overhead_s", None)
    if overhead is not None:
        return float(overhead(device, dtype))
    if eager is None:
        eager = _is_eager(device)
    return device.parameter(HOST_CALL) if eager and HOST in parameters_of(device.kind) else 0.0


def _is_eager(device: Device) -> bool:
    """Whether the profile's runtime is eager; without a profile nothing is known of a host."""
    return device.profile is not None and device.profile.runtime == EAGER


def has_miss_share(device: Device) -> bool:
    """Whether weights of a whole network may stay in a cache of the device."""
    return hasattr(form_of(device.kind), "miss_share")


def miss_share(device: Device, working_set_bytes: float | NDArray[Any] | None) -> F64:
    """How far a time lies between its value with cached weights (0) and from memory (1).

    Times are linear in it, so pricing at both ends covers every working set. Forms that have no
    such share run whole networks from memory: 1.
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


def network_log_sd(device: Device) -> float:
    """The same of whole networks.

    Where networks were measured and left out of the fit, what they were off by: their operators'
    errors are in it, and `error_s` counts only those of operators that nothing measured is like.
    """
    known = None if device.profile is None else device.profile.network_log_sd
    return shared_log_sd(device) if known is None else known


def _counted(ops: OpTable, device: Device) -> NDArray[np.bool_]:
    if device.profile is None or device.profile.network_log_sd is None:
        return np.ones(len(ops), dtype=bool)
    return is_outside(ops, device) | _other_format(ops, device)


def residual_log_sd(ops: OpTable, device: Device) -> F64:
    """Error of each operator's shape [R], wider outside the shapes that were measured."""
    found = _by_kind(ops, device, "residual_log_sd", form_of(device.kind).RESIDUAL_LOG_SD)
    found = np.hypot(found, unsure(ops, device.learned))
    linked = ops.kind == KIND["collective"]
    link_sd = log_sd_of(device.name) if linked.any() else math.nan
    return found if math.isnan(link_sd) else np.where(linked, link_sd, found)


def kind_log_sd(ops: OpTable, device: Device) -> F64:
    """Error that operators of a kind share in one network [R], wider outside measured shapes.

    In formats that a profile did not measure it is what the form is wrong by on a device.
    """
    found = _by_kind(ops, device, "kind_log_sd", 0.0)
    return np.where(_other_format(ops, device), form_of(device.kind).SHARED_LOG_SD, found)


def _by_kind(ops: OpTable, device: Device, table: str, default: float) -> F64:
    if device.profile is None:
        return np.full(len(ops), default)
    known = getattr(device.profile, table)
    by_kind = np.array([known.get(name, default) for name in KINDS])
    found = by_kind[ops.kind] * np.where(is_outside(ops, device), OUTSIDE, 1.0)
    return np.where(_other_format(ops, device), default, found)


def _other_format(ops: OpTable, device: Device) -> NDArray[np.bool_]:
    """Which operators [R] run in a number format that the profile did not measure."""
    if device.profile is None or not device.profile.formats:
        return np.zeros(len(ops), dtype=bool)
    measured = [DTYPES.index(name) for name in device.profile.formats]
    return np.asarray((ops.kind != KIND["collective"]) & ~np.isin(ops.dtype, measured))


def is_outside(ops: OpTable, device: Device) -> NDArray[np.bool_]:
    """Whether each operator [R] lies outside the shapes that the profile was fitted to.

    A profile states ranges of m, k and n for matmuls, and `KIND.AXIS` for other kinds; without a
    profile nothing was measured, and the form's own errors already say so.
    """
    outside = np.zeros(len(ops), dtype=bool)
    if device.profile is None:
        return outside
    matmul = np.isin(ops.kind, [KIND[name] for name in MATMULS])
    for key, (low, high) in device.profile.covered.items():
        kind, _, axis = key.rpartition(".")
        size = getattr(ops, axis)
        mine = ops.kind == KIND[kind] if kind else matmul
        outside |= mine & ((size < low) | (size > high))
    return outside


def outside_warnings(ops: OpTable, device: Device) -> tuple[str, ...]:
    """One line for each kind with operators outside the shapes that the profile was fitted to.

    Lines name profile, kind and measured ranges, not the operators, so that equal lines say the
    same of a whole run.
    """
    outside = is_outside(ops, device)
    if device.profile is None:
        return ()
    profile = device.profile
    lines = [
        f"profile {profile.name}: {DTYPES[d]} was not measured, {', '.join(profile.formats)} was; "
        "its operators have the form's own interval, measure some to narrow it"
        for d in np.unique(ops.dtype[_other_format(ops, device)])
    ]
    for kind in (KINDS[k] for k in np.unique(ops.kind[outside])):
        keys = AXES if kind in MATMULS else tuple(f"{kind}.{axis}" for axis in AXES)
        ranges = ", ".join(
            f"{key.rpartition('.')[2]} from {profile.covered[key][0]:g} to "
            f"{profile.covered[key][1]:g}"
            for key in keys
            if key in profile.covered
        )
        lines.append(
            f"profile {profile.name}: some {kind} operators lie outside the measured shapes "
            f"({ranges}); their interval is {OUTSIDE:g} times as wide, measure such shapes to "
            "narrow it"
        )
    return tuple(lines)


@cache
def _warn_once(text: str) -> None:
    _LOG.warning(text)


def _parameter_log_sd(
    ops: OpTable,
    once: F64,
    device: Device,
    threads: int,
    working_set_bytes: float | NDArray[Any] | None,
) -> F64:
    """Error of log time per unit of each independent cause [R, P], by moving the parameters."""
    profile = device.profile
    if profile is None:
        return np.zeros((len(ops), 0))
    names, covariance = profile.uncertain, np.array(profile.log_covariance)
    unmeasured = _unmeasured_host(device)
    if unmeasured is not None:
        names = (*names, HOST)
        covariance = block_diag(*([covariance] if covariance.size else []), unmeasured**2)
    if not names:
        return np.zeros((len(ops), 0))
    values, vectors = np.linalg.eigh(covariance)
    causes = vectors * np.sqrt(np.maximum(values, 0.0))  # [names, P]
    slopes = np.empty((len(ops), len(names)))
    for i, name in enumerate(names):
        moved = with_parameters(device, {name: device.parameter(name) * float(np.exp(-STEP))})
        time = _launched_time_s(ops, moved, threads, working_set_bytes)
        slopes[:, i] = np.log(np.maximum(time, TINY) / np.maximum(once, TINY)) / -STEP
    found: F64 = slopes @ causes
    return found


def _unmeasured_host(device: Device) -> float | None:
    """Prior width of the host's time where an eager profile does not state it; else None."""
    profile = device.profile
    known = parameters_of(device.kind)
    if profile is None or not _is_eager(device) or HOST in profile.uncertain or HOST not in known:
        return None
    return known[HOST].log_sd
