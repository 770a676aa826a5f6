"""A device from a measured relative and a handful of points: t_device = k * t_relative.

What a form gets wrong about a network on one board it gets wrong on the next of the family as
well, because compiler and kernels are the same. So a transfer keeps the relative's facts, its
fitted parameters and, for every row that the relative ran, its residual; the new device's points
set one factor k (the median of their ratios) and may bend the parameters a little:

    t = k * residual(row) * form(row; parameters near the relative's)

Several relatives are weighted by how little their ratios to the points scatter.

    relative = sibling_of(rows_of_s25, load_device("qualcomm-snapdragon-8-elite"))
    transfer(five_points, [relative]).predict(all_rows)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cost_models.calibrate.beliefs import Posterior, Prior
from cost_models.calibrate.intervals import Own
from cost_models.calibrate.posterior import fit_rows, predict_rows
from cost_models.device import Device
from cost_models.measured import Measured, joined
from search_spaces.errors import InputError
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]

BEND_LOG_SD = 0.2  # how far a parameter may lie from the relative's, beside the common factor
NOISE_LOG_SD = 0.05  # scatter that says nothing against a relative
FACTOR_LOG_SD = 0.5  # how far apart in speed relatives usually are
LEAST_WEIGHT = 0.02  # relatives below it are left out
_NOT_A_SHAPE = ("candidate", "layer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sibling:
    """A measured relative: what its rows taught, and what they left over."""

    device: Device  # facts
    posterior: Posterior
    log_residual: Mapping[bytes, float]  # by what a row executes

    @property
    def calibrated(self) -> Device:
        """The relative with its fitted parameters."""
        return self.posterior.on(self.device)

    def carried(self, rows: Measured) -> F64:
        """Log residual of every row [N] on the relative; 0 where it never ran such a row."""
        return np.array([self.log_residual.get(key, 0.0) for key in signatures(rows)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinship:
    """What the points say of the device beside one relative."""

    sibling: Sibling
    log_factor: float  # log k
    posterior: Posterior  # the relative's parameters, bent by the points
    log_scatter: float  # root mean square of the points' log ratios around log k
    log_left: F64  # [points] what each is off when the others set the factor
    weight: float  # of this relative among all, they add up to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A device as its relatives times their factors."""

    kin: tuple[Kinship, ...]  # by weight, the nearest first

    def predict(self, rows: Measured) -> F64:
        """Seconds of every row [N] on the new device: the weighted geometric mean."""
        log_s = np.zeros(len(rows))
        for k in self.kin:
            times = predict_rows([rows], k.posterior.on(k.sibling.device))
            log_s += k.weight * (np.log(times) + k.log_factor + k.sibling.carried(rows))
        found: F64 = np.exp(log_s)
        return found

    def own(self, residual: float) -> Own | None:
        """How the points do when the others set the factor; None of a single one.

        Args:
            residual: Claimed standard deviation of log(measured / predicted).
        """
        off = np.sum([k.weight * k.log_left for k in self.kin], axis=0)
        if off.size < 2:
            return None
        return Own(log_error=off, log_sd=np.full(off.size, residual), count=off.size - 1.0)


def sibling_of(
    measured: Sequence[Measured], device: Device, *, names: Iterable[str] | None = None
) -> Sibling:
    """A relative from all of its rows, which must share runtime and family.

    Args:
        measured: Its rows.
        device: Its facts.
        names: Parameters to fit; None: all of the form.
    """
    rows = joined(measured)
    posterior = fit_rows([rows], device, names=names)
    left = np.log(rows.seconds) - np.log(predict_rows([rows], posterior.on(device)))
    found: dict[bytes, list[float]] = {}
    for key, value in zip(signatures(rows), left, strict=True):
        found.setdefault(key, []).append(float(value))
    return Sibling(
        device=device,
        posterior=posterior,
        log_residual={key: float(np.mean(values)) for key, values in found.items()},
    )


def transfer(points: Measured, siblings: Sequence[Sibling]) -> Transfer:
    """The device on which `points` were measured, from relatives weighted by how well they fit.

    The weight of a relative is the likelihood of the points' log ratios, normal around their
    median with the relative's own scatter, (scatter^2 + NOISE^2)^(-n / 2), times a prior that
    relatives are about as fast, log k normal around 0.

    Args:
        points: A few rows of the new device, under the relatives' runtime.
        siblings: Measured relatives of the same form.

    Raises:
        InputError: no points or no relatives.
    """
    if not len(points) or not siblings:
        text = "a transfer needs one measured row and one measured relative at least"
        raise InputError.one(points.source, "rows", len(points), text)
    ratios = [_log_ratio(points, sibling) for sibling in siblings]
    factors = [float(np.median(r)) for r in ratios]
    scatter = np.array(
        [float(np.sqrt(np.mean((r - f) ** 2))) for r, f in zip(ratios, factors, strict=True)]
    )
    weight = (scatter**2 + NOISE_LOG_SD**2) ** (-len(points) / 2)
    weight *= np.exp(-0.5 * (np.array(factors) / FACTOR_LOG_SD) ** 2)
    weight /= weight.sum()
    kin = [
        Kinship(
            sibling=siblings[i],
            log_factor=factors[i],
            posterior=_bent(points, siblings[i], factors[i]),
            log_scatter=float(scatter[i]),
            log_left=_left(ratios[i]),
            weight=float(weight[i] / weight[weight >= LEAST_WEIGHT].sum()),
        )
        for i in np.argsort(-weight)
        if weight[i] >= LEAST_WEIGHT
    ]
    return Transfer(kin=tuple(kin))


def _left(log_ratio: F64) -> F64:
    """Each ratio beside the median of the others [N]; 0 of a single one."""
    if log_ratio.size < 2:
        return np.zeros(log_ratio.size)
    others = [np.median(np.delete(log_ratio, i)) for i in range(log_ratio.size)]
    return log_ratio - np.array(others)


def _bent(points: Measured, sibling: Sibling, log_factor: float) -> Posterior:
    """The relative's parameters after the points, once factor and residuals are taken out."""
    left = points.seconds / np.exp(log_factor + sibling.carried(points))
    model = sibling.posterior.model
    prior = Prior(value=model, log_sd=dict.fromkeys(model, BEND_LOG_SD))
    return fit_rows([replace(points, seconds=left)], sibling.device, prior=prior)


def signatures(rows: Measured) -> list[bytes]:
    """What each row executes [N]: equal rows have equal signatures, order of operators apart."""
    names = [f.name for f in fields(OpTable) if f.name not in _NOT_A_SHAPE]
    values = np.stack([getattr(rows.ops, n).astype(np.float64) for n in names], axis=1)
    order = np.lexsort((*values.T, rows.ops.candidate))
    owner = rows.ops.candidate[order]
    bounds = np.searchsorted(owner, np.arange(len(rows) + 1))
    body = np.ascontiguousarray(values[order])
    return [body[a:b].tobytes() for a, b in pairwise(bounds)]


def _log_ratio(points: Measured, sibling: Sibling) -> F64:
    own = np.log(predict_rows([points], sibling.calibrated)) + sibling.carried(points)
    found: F64 = np.log(points.seconds) - own
    return found
