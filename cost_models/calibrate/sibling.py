"""A device from a measured relative and a handful of points: t_device = k * t_relative.

What a form gets wrong about a network on one board it gets wrong on the next of the family as
well, because compiler and kernels are the same. So a transfer keeps the relative's facts, its
fitted parameters and, for every row that the relative ran, its residual; the new device's points
set one factor k (the median of their ratios) and may bend the parameters a little:

    t = k * residual(row) * form(row; parameters near the relative's)

Several relatives are weighted by how little their ratios to the points scatter. Boards differ in
more than one factor: from three relatives on, what is left over of the points carries over to
rows that differ between relatives as those points do (`Lean`).

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
from cost_models.calibrate.subjects import row_dtypes
from cost_models.device import Device
from cost_models.measured import Measured, joined
from search_spaces.errors import InputError
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]

BEND_LOG_SD = 0.2  # how far a parameter may lie from the relative's, beside the common factor
NOISE_LOG_SD = 0.05  # scatter that says nothing against a relative
FACTOR_LOG_SD = 0.5  # how far apart in speed relatives usually are
LEAST_WEIGHT = 0.02  # relatives below it are left out
BOARDS = 3  # relatives from which it is learned which rows differ together
FORMAT_LOG_SD = 0.3  # how far apart from the other formats' a format's factor may be
ALONE_LOG_SD = 0.2  # of a row, beside what relatives show of it: they are few
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
class Lean:
    """What the points leave over, carried to rows that differ between R relatives as they do.

    Log times of a board are normal around its relatives', with the covariance over the relatives'
    own differences, a common factor and one for each number format; rows are conditioned on the
    points (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, 2.2).
    """

    siblings: tuple[Sibling, ...]
    points: Measured
    inverse: F64  # of the covariance of the points, noise added [points, points]
    log_left: F64  # [points] log(measured / predicted) of the transfer without it

    def shift(self, rows: Measured) -> F64:
        """Logarithm of what every row takes over what the transfer says without it [N]."""
        found: F64 = _covariance(self.siblings, rows, self.points) @ (self.inverse @ self.log_left)
        return found

    def off(self, log_ratio: F64) -> F64:
        """What each point is off when the others are conditioned on [points].

        Equation 5.12 of the same book.

        Args:
            log_ratio: log(measured / relatives') of the points.
        """
        return np.asarray(self.inverse @ log_ratio / np.diag(self.inverse))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A device as its relatives times their factors."""

    kin: tuple[Kinship, ...]  # by weight, the nearest first
    lean: Lean | None  # None of fewer than BOARDS relatives

    def predict(self, rows: Measured) -> F64:
        """Seconds of every row [N] on the new device: the weighted geometric mean, leaning."""
        log_s = np.zeros(len(rows)) if self.lean is None else self.lean.shift(rows)
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
        if self.lean is not None:
            ratios = [k.weight * _log_ratio(self.lean.points, k.sibling) for k in self.kin]
            off = self.lean.off(np.sum(ratios, axis=0))
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
    kin = tuple(
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
    )
    plain = Transfer(kin=kin, lean=None)
    if len(siblings) < BOARDS:
        return plain
    covariance = _covariance(siblings, points, points)
    covariance[np.diag_indices_from(covariance)] += ALONE_LOG_SD**2
    lean = Lean(
        siblings=tuple(siblings),
        points=points,
        inverse=np.asarray(np.linalg.inv(covariance), dtype=np.float64),
        log_left=np.log(points.seconds / plain.predict(points)),
    )
    return replace(plain, lean=lean)


def _covariance(siblings: Sequence[Sibling], rows: Measured, points: Measured) -> F64:
    """Between the log times of N rows and P points of a board that nobody measured [N, P]."""
    here, there = _differences(siblings, rows), _differences(siblings, points)
    common = there.mean(axis=1, keepdims=True)
    shared = (here - common).T @ (there - common) / (len(siblings) - 1)
    same = row_dtypes(rows)[:, None] == row_dtypes(points)[None, :]
    found: F64 = shared + FACTOR_LOG_SD**2 + FORMAT_LOG_SD**2 * same
    return found


def _differences(siblings: Sequence[Sibling], rows: Measured) -> F64:
    """Log times of N rows on R relatives less the relatives' mean [R, N]."""
    log_s = np.stack([_own_log_s(rows, sibling) for sibling in siblings])
    return np.asarray(log_s - log_s.mean(axis=0))


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
    found: F64 = np.log(points.seconds) - _own_log_s(points, sibling)
    return found


def _own_log_s(rows: Measured, sibling: Sibling) -> F64:
    """Log seconds of every row on the relative itself [N]."""
    found: F64 = np.log(predict_rows([rows], sibling.calibrated)) + sibling.carried(rows)
    return found
