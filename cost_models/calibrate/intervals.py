"""How wrong predictions may be: conformal quantiles of errors that were left out.

Errors are e = log(measured / predicted) of rows whose group no fit had seen, s what parameters
alone say of them. A 90 % interval is predicted * exp(+- 1.645 sd), with sd widened until it holds
90 % of the errors that it was not made from (split conformal prediction: Lei et al.,
"Distribution-free predictive inference for regression", JASA 2018). Nothing is taken from the
curvature of a fit alone: with thousands of rows it is far too narrow.

The same total is split for networks by analysis of variance over groups: what all operators of a
kind share inside one group, and what a shape has of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from cost_models.calibrate.solve import SIGMA_START, bulk, components, design_effect
from cost_models.price import Z90

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

LEVEL = 0.90
SHARED_FLOOR = 0.03  # drift between two machines or days of one kind, at least
RESIDUAL_FLOOR = 0.01
FEW = 20  # errors below which a quantile of them says little
LEAST_OFF = 0.1  # errors beside what is claimed of them; a device is not taken to do better
ALIKE = 1.0  # devices, see `scale_of_others`; as many as the form's prior counts for (beliefs.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Errors of a device's own few rows, each as if the fit had not seen it."""

    log_error: F64  # [N] log(measured / predicted)
    log_sd: F64  # [N] claimed of it
    count: float  # independent rows that they are worth

    @property
    def square(self) -> float:
        """Mean square of errors over what is claimed of them, each up to three times their bulk.

        A few rows tell a 90 % quantile too badly: it is the second or third worst of them.
        """
        ratio = np.abs(self.log_error) / self.log_sd
        return float(np.mean(np.minimum(ratio, 3 * bulk(ratio)) ** 2))

    def beside(self, residual: float) -> Own:
        """The same where rows have an error that no parameter explains, too."""
        return replace(self, log_sd=np.hypot(self.log_sd, residual))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Parts of the error of a profile, standard deviations of log time."""

    shared_log_sd: float
    kind_log_sd: dict[str, float]
    residual_log_sd: dict[str, float]


def quantile(values: F64, level: float = LEVEL, weight: F64 | None = None) -> float:
    """The value that holds a share `level` of one more draw like `values` [N], weights [N].

    The conformal quantile: rank ceil(level (N + 1)), the largest where N is too small.
    """
    if weight is None:
        rank = min(values.size, int(np.ceil(level * (values.size + 1))))
        return float(np.sort(values)[rank - 1])
    order = np.argsort(values)
    share = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][min(int(np.searchsorted(share, level)), values.size - 1)])


def cross_conformal(error: F64, parameter_log_sd: F64, fold: I64, group: I64 | None = None) -> F64:
    """Standard deviation [N] of each row from the errors of the other folds.

    Args:
        error: log(measured / predicted) of rows left out [N].
        parameter_log_sd: What unsure parameters say [N].
        fold: Part that a row was left out with [N].
        group: Rows that err together [N]; None: each by itself.
    """
    found = np.empty(error.size)
    for part in np.unique(fold):
        mine, others = fold == part, fold != part
        if not others.any():
            others = mine
        together = None if group is None else group[others]
        residual = total_log_sd(error[others], parameter_log_sd[others], together)
        found[mine] = np.hypot(parameter_log_sd[mine], residual)
    return found


def total_log_sd(error: F64, parameter_log_sd: F64, group: I64 | None = None) -> float:
    """Residual r such that LEVEL of |error| lie below 1.645 sqrt(parameter^2 + r^2).

    With few errors it is drawn up to the log noise that is assumed of rows before any are seen;
    those of one group count as far as they are independent.
    """
    low, high = RESIDUAL_FLOOR, max(RESIDUAL_FLOOR, float(np.max(np.abs(error)))) * 2
    for _ in range(40):
        middle = np.sqrt(low * high)
        ratio = np.abs(error) / (Z90 * np.hypot(parameter_log_sd, middle))
        low, high = (middle, high) if quantile(ratio) > 1 else (low, middle)
    share = min(1.0, _independent(error, group) / FEW)
    return float(np.exp(share * np.log(high) + (1 - share) * np.log(max(high, SIGMA_START))))


def _independent(error: F64, group: I64 | None) -> float:
    """Independent errors that these are worth; those of a single group cannot be told apart."""
    if group is None:
        return float(error.size)
    return 1.0 if np.all(group == group[0]) else error.size / design_effect(error, group)


def scale_of_others(
    errors: Mapping[str, F64], spreads: Mapping[str, F64], mine: str, own: Own | None = None
) -> float:
    """Factor on a device's spread from how the same protocol did on other devices.

    Rows of a device err together, by its clock, its host and its runtime: a device is one draw,
    however many rows it has. ALIKE devices that err as they claim are believed in before any was
    tried (a scaled inverse chi square for the square of the factor), so that an interval over few
    devices is that of Student's t (Gelman et al., "Bayesian Data Analysis", 3rd ed., section 3.2).
    Rows of the device itself that a fit was given are draws of what it is asked for; beside them
    the squares of others count by their geometric mean, since how far one of a few devices was
    off is no measure for one that is known not to be. Where nothing of the device is known, the
    worst of the others is all that warns.

    Args:
        errors: log(measured / predicted) by device.
        spreads: Standard deviations that were claimed, by device.
        mine: The device that the factor is for; its own errors are not looked at.
        own: Those of the few rows of it that were given, where there are any.
    """
    others = [name for name in errors if name != mine and errors[name].size]
    ratio = [np.abs(errors[n]) / spreads[n] for n in others]
    freedom, square = ALIKE + len(others), ALIKE
    if own is not None:
        logs = [2 * np.log(max(quantile(r) / Z90, LEAST_OFF)) for r in ratio]
        square = freedom * float(np.exp(np.sum(logs) / freedom)) + own.count * own.square
        freedom += own.count
    elif others:
        weight = np.concatenate([np.full(r.size, 1 / r.size) for r in ratio])
        square += len(others) * (quantile(np.concatenate(ratio), weight=weight) / Z90) ** 2
    return float(np.sqrt(square / freedom) * student.ppf((1 + LEVEL) / 2, freedom) / Z90)


def split(error: F64, parameter_log_sd: F64, group: I64, kind: NDArray[np.str_]) -> Spread:
    """Parts of the error by operator kind; rows of kind "" are whole networks.

    Args:
        error: log(measured / predicted) of rows left out [N].
        parameter_log_sd: What unsure parameters say [N].
        group: Group of each row [N].
        kind: Operator kind that a row shows [N]; "" for networks.
    """
    total, between = {}, {}
    for name in np.unique(kind[kind != ""]):
        mine = kind == name
        total[str(name)] = total_log_sd(error[mine], parameter_log_sd[mine])
        between[str(name)] = np.sqrt(components(error[mine], group[mine])[0])
    nets = kind == ""
    if nets.any():  # whole networks show what does not average out
        shared = total_log_sd(error[nets], parameter_log_sd[nets])
    else:
        shared = min([*between.values(), *total.values()], default=SHARED_FLOOR)
    shared = max(SHARED_FLOOR, shared)
    own = {n: np.sqrt(max(t**2 - shared**2, RESIDUAL_FLOOR**2)) for n, t in total.items()}
    common = {n: min(np.sqrt(max(b**2 - shared**2, 0.0)), own[n]) for n, b in between.items()}
    return Spread(
        shared_log_sd=shared,
        kind_log_sd={n: float(v) for n, v in common.items()},
        residual_log_sd={
            n: float(np.sqrt(max(own[n] ** 2 - v**2, RESIDUAL_FLOOR**2)))
            for n, v in common.items()
        },
    )
