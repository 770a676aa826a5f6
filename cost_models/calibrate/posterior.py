"""Calibration of any form: measured rows -> a few parameters, how sure they are, how wrong rows.

`fit_rows` is maximum a posteriori on log time with a robust loss (`solve.py`). The prior is the
form's own (default and `log_sd` of its parameters) or what siblings that were measured before
say (`sibling_prior`). `left_out` fits without whole groups and scores those: the only error that
counts.

    posterior = fit_rows(rows, load_device("nvidia-a100-80g-sxm"), names=("launch", "efficiency"))
    seconds = predict_rows(rows, posterior.on(device))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, qmc

from cost_models.calibrate.beliefs import (
    Posterior,
    Prior,
    default_prior,
    prior_only,
    sibling_prior,
)
from cost_models.calibrate.intervals import Own
from cost_models.calibrate.learn import learn
from cost_models.calibrate.rows import Prepared, prepare
from cost_models.calibrate.solve import EVALUATIONS, Solution, Task, maximum, slopes
from cost_models.device import Device, with_parameters
from cost_models.forms import parameters_of
from cost_models.measured import Measured
from search_spaces.errors import InputError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

ROWS = 20_000  # rows that a fit looks at; more are thinned evenly
FOLDS = 5
DRAWS = 64  # of what is believed of a device that was never measured
LEAST_LEFT = 0.01  # 1 - leverage of a row on which a parameter hangs alone

__all__ = [
    "LeftOut",
    "Posterior",
    "Prior",
    "default_prior",
    "fit_few",
    "fit_rows",
    "left_out",
    "predict_rows",
    "predict_with_spread",
    "prior_only",
    "sibling_prior",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Errors of N rows from fits that had not seen their group."""

    log_error: F64  # [N] log(measured / predicted)
    form_log_error: F64  # [N] the same of the form alone, without what was learned beside it
    parameter_log_sd: F64  # [N] what unsure parameters, and sizes far from learned ones, say of it
    fold: I64  # [N]
    group: I64  # [N]
    table: I64  # [N] which of the measured tables

    @property
    def mape(self) -> float:
        """Mean absolute percentage error, as a share of what was measured."""
        return float(np.mean(np.abs(np.exp(-self.log_error) - 1)))


def fit_rows(
    measured: Sequence[Measured],
    device: Device,
    *,
    names: Iterable[str] | None = None,
    prior: Prior | None = None,
    threads: int | None = None,
    table_weight: Sequence[float] | None = None,
    limit: int = ROWS,
    learning: bool = False,
) -> Posterior:
    """Most probable parameters of a device given measured rows.

    Args:
        measured: Rows of this device and runtime; families may be mixed.
        device: Facts, and the parameters that are not fitted.
        names: Parameters to fit; None: those of the prior, or all of the form.
        prior: None: `default_prior`. Names without one in it keep the form's.
        threads: Threads that shared an operator; None: those of the tables.
        table_weight: Importance of the rows of each table; None: 1 for all.
        limit: Rows to look at; more are thinned evenly.
        learning: Whether to learn what the form leaves over, too (`learn.py`), from all rows.

    Returns:
        Parameters; those that no row depends on stay at their prior.

    Raises:
        InputError: no rows, or a name that is no parameter of the form.
    """
    if names is None and prior is not None:
        names = tuple(prior.value)
    prior = _completed(device, names, prior)
    every = prepare(measured, threads=threads)
    rows = every.take(thinned(every.table, limit))
    weight = np.ones(len(measured)) if table_weight is None else np.asarray(table_weight, float)
    found = _posterior(rows, device, prior, weight[rows.table], start=None)[0]
    return _with_learned(every, device, found) if learning else found


def fit_few(measured: Measured, device: Device, prior: Prior) -> tuple[Posterior, Own]:
    """`fit_rows` of a few rows of one table, and what they say of how wrong it is.

    Each row is left out in turn to first order: with leverage h its error r grows to r / (1 - h),
    and so does what the parameters are unsure of (Sherman and Morrison; Cook and Weisberg,
    "Residuals and Influence in Regression", 1982, section 2.2).

    Args:
        measured: N rows of the device.
        device: As in `fit_rows`.
        prior: As there.
    """
    prior = _completed(device, tuple(prior.value), prior)
    rows = prepare([measured])
    found, solution = _posterior(rows, device, prior, np.ones(len(rows)), None)
    _, jacobian = parameter_slopes(rows, device, found)
    kept = 1 / np.maximum(1 - solution.leverage, LEAST_LEFT)
    return found, Own(
        log_error=solution.residual * kept,
        log_sd=spread_of(jacobian, found.covariance) * np.sqrt(kept),
        count=len(rows) / found.design_effect,
    )


def predict_rows(
    measured: Sequence[Measured], device: Device, *, threads: int | None = None
) -> F64:
    """Seconds of every row [N], rows in the order of the tables."""
    return prepare(measured, threads=threads).predict(device)


def parameter_slopes(rows: Prepared, device: Device, posterior: Posterior) -> tuple[F64, F64]:
    """Log seconds of every row [N] and their derivatives after log parameters [N, P]."""
    task = _task(rows, posterior.on(device), posterior.names, np.ones(len(rows)), None)
    x = np.log(posterior.values)
    base = task.log_predict(x)
    return base, slopes(task.log_predict, x, task.top, base, np.arange(x.size))


def predict_with_spread(
    measured: Sequence[Measured],
    device: Device,
    posterior: Posterior,
    *,
    threads: int | None = None,
) -> tuple[F64, F64]:
    """Seconds [N], and the log error [N] that unsure parameters alone cause.

    To first order where rows were seen. What is believed of a device before is so wide that
    terms which are small at the mean may be most of the time: there it is drawn from.
    """
    rows = prepare(measured, threads=threads)
    if posterior.n == 0:
        return _drawn(rows, device, posterior)
    base, jacobian = parameter_slopes(rows, device, posterior)
    return np.exp(base), spread_of(jacobian, posterior.covariance)


def _drawn(rows: Prepared, device: Device, posterior: Posterior) -> tuple[F64, F64]:
    """Seconds [N] at the mean of the parameters, and root mean square log errors of draws [N]."""
    task = _task(rows, device, posterior.names, np.ones(len(rows)), None)
    x = np.log(posterior.values)
    base = task.log_predict(np.minimum(x, task.top))
    normal = norm.ppf(qmc.Sobol(x.size, rng=0).random(DRAWS))
    steps = normal @ np.linalg.cholesky(posterior.covariance).T
    squares = np.zeros(len(rows))
    for step in steps:
        squares += (task.log_predict(np.minimum(x + step, task.top)) - base) ** 2
    return np.exp(base), np.sqrt(squares / DRAWS)


def spread_of(jacobian: F64, covariance: F64) -> F64:
    """Standard deviations [N] of J x for x of a covariance."""
    found: F64 = np.sqrt(np.maximum(np.einsum("np,pq,nq->n", jacobian, covariance, jacobian), 0))
    return found


def left_out(
    measured: Sequence[Measured],
    device: Device,
    *,
    names: Iterable[str] | None = None,
    prior: Prior | None = None,
    threads: int | None = None,
    folds: int = FOLDS,
    limit: int = ROWS,
    learning: bool = False,
) -> LeftOut:
    """Errors of every row when its group was left out of the fit.

    Args:
        measured: As in `fit_rows`; `group` says what is left out together.
        device: As there.
        names: As there.
        prior: As there; siblings must not contain this device.
        threads: As there.
        folds: Parts that the groups are dealt into, at most one per group.
        limit: Rows that one fit looks at.
        learning: As there; learned anew for every part, from what is left of it.

    Raises:
        InputError: fewer than two groups.
    """
    prior = _completed(device, names, prior)
    rows = prepare(measured, threads=threads)
    fold = deal(rows.group, folds, table=rows.table)
    if fold.max() < 1:
        raise InputError.one(
            measured[0].source, "group", "1", "nothing can be left out of one group; measure more"
        )
    error, form, spread = np.empty((3, len(rows)))
    start = None
    for part in range(int(fold.max()) + 1):
        kept, outside = rows.take(fold != part), rows.take(fold == part)
        inside = kept.take(thinned(kept.table, limit))
        found, solution = _posterior(inside, device, prior, np.ones(len(inside)), start)
        start = solution.x
        base, jacobian = parameter_slopes(outside, device, found)
        out = fold == part
        unsure: F64 | float = 0.0
        form[out] = error[out] = np.log(outside.seconds) - base
        if learning:
            known = _with_learned(kept, device, found).on(device)
            error[out], unsure = (
                np.log(outside.seconds / outside.predict(known)),
                outside.unsure(known),
            )
        spread[out] = np.hypot(spread_of(jacobian, found.covariance), unsure)
    return LeftOut(
        log_error=error,
        form_log_error=form,
        parameter_log_sd=spread,
        fold=fold,
        group=rows.group,
        table=rows.table,
    )


def deal(group: I64, folds: int, *, table: I64 | None = None) -> I64:
    """Fold of every row [N]: groups, largest first, to the emptiest fold of their table.

    A group that occurs in several tables stays in one fold; each table is spread over all folds,
    so that no fit is without rows of a family because its groups happened to be left out together.

    Args:
        group: Number of the group of each row [N].
        folds: Parts, at most one per group.
        table: Table of each row [N]; None: one table.
    """
    names, number = np.unique(group, return_inverse=True)
    table = np.zeros(group.size, dtype=np.int64) if table is None else table
    place = np.full(names.size, -1, dtype=np.int64)
    random = np.random.default_rng(0)
    folds = min(folds, names.size)
    for part in np.unique(table):
        sizes = np.bincount(number[table == part], minlength=names.size)
        filled = np.zeros(folds)
        for g in np.flatnonzero((sizes > 0) & (place >= 0)):
            filled[place[g]] += sizes[g]
        order = random.permutation(np.flatnonzero((sizes > 0) & (place < 0)))
        turn = random.permutation(folds)  # who comes first among equally empty ones
        for g in order[np.argsort(-sizes[order], kind="stable")]:
            place[g] = turn[np.argmin(filled[turn])]
            filled[place[g]] += sizes[g]
    found: I64 = place[number]
    return found


def thinned(table: I64, limit: int) -> I64:
    """At most `limit` rows, in order: small tables whole, the large ones by random rows."""
    sizes = np.bincount(table)
    if table.size <= limit:
        return np.arange(table.size)
    share = limit / np.count_nonzero(sizes)
    for _ in range(sizes.size):  # what small tables leave over goes to the large ones
        small = sizes <= share
        share = (limit - sizes[small].sum()) / max(np.count_nonzero(~small), 1)
    random = np.random.default_rng(0)
    kept = [
        random.permutation(np.flatnonzero(table == part))[: max(1, int(share))]
        if sizes[part] > share
        else np.flatnonzero(table == part)
        for part in np.flatnonzero(sizes)
    ]
    return np.sort(np.concatenate(kept))


def _completed(device: Device, names: Iterable[str] | None, prior: Prior | None) -> Prior:
    own = default_prior(device, names)
    if prior is None:
        return own
    return Prior(
        value={n: prior.value.get(n, v) for n, v in own.value.items()},
        log_sd={n: prior.log_sd.get(n, v) for n, v in own.log_sd.items()},
    )


def _task(
    rows: Prepared, device: Device, names: tuple[str, ...], weight: F64, prior: Prior | None
) -> Task:
    known = parameters_of(device.kind)

    def predictor(part: Prepared) -> Callable[[F64], F64]:
        def log_predict(x: F64) -> F64:
            tried = with_parameters(device, dict(zip(names, np.exp(x), strict=True)))
            found: F64 = np.log(part.predict(tried))
            return found

        return log_predict

    p = prior or default_prior(device, names)
    return Task(
        log_predict=predictor(rows),
        narrowed=lambda part: predictor(rows.take(part)),
        log_seconds=np.log(rows.seconds),
        group=rows.group,
        table=rows.table,
        weight=weight,
        spoilt=rows.network,
        mean=np.log([p.value[n] for n in names]),
        log_sd=np.array([p.log_sd[n] for n in names]),
        top=np.log([known[n].ceiling or math.inf for n in names]),
    )


def _with_learned(rows: Prepared, device: Device, found: Posterior) -> Posterior:
    """The posterior with what its form leaves over of rows of the device."""
    return replace(found, learned=learn(rows, found.on(device)))


def _posterior(
    rows: Prepared, device: Device, prior: Prior, weight: F64, start: F64 | None
) -> tuple[Posterior, Solution]:
    names = tuple(prior.value)
    task = _task(rows, device, names, weight, prior)
    found = maximum(task, start=start, evaluations=EVALUATIONS)
    fitted = Posterior(
        kind=device.kind,
        names=names,
        expected=np.exp(task.mean),
        values=np.exp(found.x),
        covariance=found.covariance,
        n=len(rows),
        sigma=float(np.median(found.sigma)),
        design_effect=float(np.mean(found.design_effect)),
    )
    return fitted, found
