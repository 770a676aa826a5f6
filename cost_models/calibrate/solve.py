"""Maximum a posteriori of few parameters under a robust loss, for any model of log time.

    minimise  sum over rows of  w * 2 c^2 (sqrt(1 + (r / c sigma)^2) - 1)  +  sum ((x - x0) / s)^2

with r = log(measured / predicted) and x the logarithms of the parameters: beyond c sigma a row
counts linearly (pseudo-Huber; Barron, "A General and Adaptive Robust Loss Function", CVPR 2019,
alpha = 1), while the Gaussian prior stays quadratic. Rows that may be spoilt as a whole (a network
on a board that throttled, a first run) count less the further out they lie, once the bulk is met
closely: c^2 log(1 + (r / c sigma)^2) (Cauchy; there alpha = 0). Where it is not, what lies far out
is missed by the form. w = 1 / design effect (Kish, "Survey Sampling", 1965, section 5.4): rows of
one group err together, so thousands of them tell less than as many independent ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.sparse.csgraph import connected_components

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

ROBUST_FROM = 2.0  # residuals beyond this many sigmas count linearly
STEP = 1e-3  # of the logarithm of a parameter; wide enough to look across a change of tile
EVALUATIONS = 40  # of the model with all its slopes, at most
SIGMA_START = 0.1  # log noise before anything is known, with the weight of SIGMA_ROWS rows
SIGMA_ROWS = 5.0
SIGMA_FLOOR = 0.02
CLOSE = SIGMA_START / 2  # log noise of a bulk beside which a row far out is a spoilt one


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """P parameters and N rows.

    Attributes:
        log_predict: Logarithms of the parameters [P] -> log seconds [N].
        log_seconds: What was measured [N].
        group: Number of the group of each row [N].
        table: Number of the table of each row [N]; noise and design effect are a table's own.
        weight: Importance of each row [N], 1 for a plain one.
        spoilt: Whether a row may have gone wrong as a whole [N].
        mean: Prior of the logarithms [P].
        log_sd: Its width [P].
        top: Logarithms of the largest legal values [P], infinite where there is none.
        narrowed: Numbers of some rows [M] -> `log_predict` of those alone [M].
    """

    log_predict: Callable[[F64], F64]
    log_seconds: F64
    group: I64
    table: I64
    weight: F64
    spoilt: NDArray[np.bool_]
    mean: F64
    log_sd: F64
    top: F64
    narrowed: Callable[[I64], Callable[[F64], F64]]

    def take(self, rows: I64) -> Task:
        """The same parameters and some of the rows."""
        return replace(
            self,
            log_predict=self.narrowed(rows),
            narrowed=lambda part: self.narrowed(rows[part]),
            log_seconds=self.log_seconds[rows],
            group=self.group[rows],
            table=self.table[rows],
            weight=self.weight[rows],
            spoilt=self.spoilt[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Parameters that rows tie together, and those rows; no other row depends on them."""

    moving: I64  # numbers of parameters
    rows: I64
    task: Task  # of these rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The maximum and its surroundings."""

    x: F64  # [P]
    covariance: F64  # [P, P] of the logarithms
    residual: F64  # [N] log(measured / predicted)
    sigma: F64  # [N] log noise of each row, one value a table
    design_effect: F64  # [N] rows that tell as much as one independent row, one value a table
    leverage: F64  # [N] how far a row's own pull moves its prediction, 0 (not at all) to 1
    evaluations: int


def slopes(log_predict: Callable[[F64], F64], x: F64, top: F64, base: F64, where: I64) -> F64:
    """Derivatives of log time [N, len(where)] after the parameters numbered `where`."""
    found = np.empty((base.size, where.size))
    for column, i in enumerate(where):
        step = -STEP if x[i] + STEP > top[i] else STEP
        moved = x.copy()
        moved[i] += step
        found[:, column] = (log_predict(moved) - base) / step
    return found


def maximum(task: Task, *, start: F64 | None = None, evaluations: int = EVALUATIONS) -> Solution:
    """Most probable parameters; noise and design effect are estimated on the way.

    Args:
        task: What to fit.
        start: Logarithms to begin with; None: the prior's mean.
        evaluations: Limit for each of the two rounds.
    """
    x = np.minimum(task.mean if start is None else start, task.top - 1e-6)
    blocks = _blocks(task, x)
    moving = np.sort(np.concatenate([np.array([], dtype=np.int64), *(b.moving for b in blocks)]))
    still = np.setdiff1d(np.arange(x.size), moving)
    x[still] = np.minimum(task.mean, task.top)[still]
    rows = task.log_seconds.size
    sigma, effect, used = np.full(rows, SIGMA_START), np.ones(rows), 0
    doubted = np.zeros(rows, dtype=bool)
    for _ in range(2):
        for b in blocks:
            here = (sigma[b.rows], effect[b.rows], doubted[b.rows])
            x, count = _solve(b.task, x, b.moving, *here, evaluations)
            used += count
        residual = task.log_seconds - task.log_predict(x)
        for part in np.unique(task.table):
            mine = task.table == part
            sigma[mine] = noise(residual[mine])
            effect[mine] = design_effect(residual[mine], task.group[mine])
            doubted[mine] = task.spoilt[mine] & (bulk(residual[mine]) < CLOSE)
    precision = np.diag(1 / task.log_sd**2)
    leverage = np.zeros(rows)
    for b in blocks:
        here = (sigma[b.rows], effect[b.rows], doubted[b.rows])
        steps, pull = _pulls(b, x, residual[b.rows], *here)
        part = np.ix_(b.moving, b.moving)
        precision[part] += steps.T @ (pull[:, None] * steps)
        inverse = np.linalg.inv(precision[part])
        leverage[b.rows] = pull * np.einsum("np,pq,nq->n", steps, inverse, steps)
    return Solution(
        x=x,
        covariance=np.asarray(np.linalg.inv(precision), dtype=np.float64),
        leverage=leverage,
        residual=residual,
        sigma=sigma,
        design_effect=effect,
        evaluations=used,
    )


def _blocks(task: Task, x: F64) -> list[Block]:
    """Parameters that rows depend on, when moved by two widths of their prior, told apart.

    Rows of different families share no parameter: each family is a smaller problem of its own.
    """
    base = task.log_predict(x)
    depends = np.zeros((x.size, base.size), dtype=bool)
    for i in range(x.size):
        for step in (-2 * task.log_sd[i], 2 * task.log_sd[i]):
            moved = x.copy()
            moved[i] = min(x[i] + step, task.top[i])
            depends[i] |= np.abs(task.log_predict(moved) - base) > 1e-9
    count, label = connected_components(depends.astype(np.float64) @ depends.T, directed=False)
    found = []
    for part in range(count):
        mine = np.flatnonzero((label == part) & depends.any(axis=1))
        rows = np.flatnonzero(depends[mine].any(axis=0))
        if mine.size:
            found.append(Block(moving=mine, rows=rows, task=task.take(rows)))
    return found


def _solve(
    task: Task,
    x: F64,
    moving: I64,
    sigma: F64,
    effect: F64,
    doubted: NDArray[np.bool_],
    evaluations: int,
) -> tuple[F64, int]:
    """Minimum over the moving parameters; the others stay where they are."""
    rows = task.log_seconds.size
    weight = task.weight / effect

    def whole(part: F64) -> F64:
        full = x.copy()
        full[moving] = part
        return full

    def residuals(part: F64) -> F64:
        full = whole(part)
        error = (task.log_predict(full) - task.log_seconds) / sigma
        return np.concatenate([error, ((full - task.mean) / task.log_sd)[moving]])

    def jacobian(part: F64) -> F64:
        full = whole(part)
        table = slopes(task.log_predict, full, task.top, task.log_predict(full), moving)
        return np.vstack([table / sigma[:, None], np.diag(1 / task.log_sd[moving])])

    def loss(z: F64) -> F64:
        rho = np.stack([z, np.ones_like(z), np.zeros_like(z)])
        rho[:, :rows] = weight * np.where(doubted, _cauchy(z[:rows]), _huber(z[:rows]))
        return rho

    found = least_squares(
        residuals,
        x[moving],
        jac=jacobian,
        bounds=(np.full(moving.size, -np.inf), task.top[moving]),
        x_scale=task.log_sd[moving],
        loss=loss,
        f_scale=ROBUST_FROM,
        max_nfev=evaluations,
        ftol=1e-6,
        xtol=1e-5,
    )
    return whole(found.x), int(found.nfev)


def _huber(z: F64) -> F64:
    """Pseudo-Huber loss of z = (r / c sigma)^2 with two derivatives [3, N]."""
    root = np.sqrt(1 + z)
    return np.stack([2 * (root - 1), 1 / root, -0.5 / root**3])


def _cauchy(z: F64) -> F64:
    """The loss of rows that may be spoilt, likewise [3, N]."""
    return np.stack([np.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2])


def _pulls(
    block: Block,
    x: F64,
    residual: F64,
    sigma: F64,
    effect: F64,
    doubted: NDArray[np.bool_],
) -> tuple[F64, F64]:
    """Slopes [N, P] of the rows of a block, and the weight [N] with which each pulls."""
    task = block.task
    jacobian = slopes(task.log_predict, x, task.top, task.log_seconds - residual, block.moving)
    z = (residual / (ROBUST_FROM * sigma)) ** 2
    robust = np.where(doubted, _cauchy(z)[1], _huber(z)[1])
    return jacobian, task.weight * robust / effect / sigma**2


def bulk(residual: F64) -> float:
    """Log noise of the bulk of the rows: 1.48 median |r|."""
    return float(1.4826 * np.median(np.abs(residual)))


def noise(residual: F64) -> float:
    """That of the bulk, drawn to SIGMA_START where rows are few."""
    variance = bulk(residual) ** 2
    mixed = (SIGMA_ROWS * SIGMA_START**2 + residual.size * variance) / (SIGMA_ROWS + residual.size)
    return max(SIGMA_FLOOR, float(np.sqrt(mixed)))


def design_effect(residual: F64, group: I64) -> float:
    """1 + (mean group size - 1) * correlation inside a group, at least 1 (Kish 1965).

    The mean size is weighted by rows.
    """
    between, within = components(residual, group)
    if between == 0:
        return 1.0
    sizes = np.bincount(np.unique(group, return_inverse=True)[1]).astype(np.float64)
    correlation = between / (between + within)
    return 1 + (float((sizes**2).sum()) / residual.size - 1) * correlation


def components(residual: F64, group: I64) -> tuple[float, float]:
    """Variances between groups and within them, by one-way analysis of variance.

    Residuals are clipped to three times the noise, so that single outliers do not make it.
    """
    _, number = np.unique(group, return_inverse=True)
    sizes = np.bincount(number).astype(np.float64)
    N, G = residual.size, sizes.size
    if G < 2 or N <= G:
        return 0.0, float(noise(residual) ** 2)
    r = np.clip(residual, -3 * noise(residual), 3 * noise(residual))
    means = np.bincount(number, weights=r) / sizes
    within = float(((r - means[number]) ** 2).sum()) / (N - G)
    between = float((sizes * (means - r.mean()) ** 2).sum()) / (G - 1)
    typical = (N - float((sizes**2).sum()) / N) / (G - 1)
    return max(0.0, (between - within) / typical), max(within, 1e-300)


def fit_logs(
    log_errors: Callable[[F64], F64],
    mean: F64,
    log_sd: F64,
    top: F64,
    *,
    weight: float,
    robust: float,
) -> F64:
    """Positive parameters [P] by least squares on log errors, drawn towards a prior.

    The plain fit, for forms with a few rows for each parameter and no noise to estimate: soft L1
    loss, which counts errors beyond `robust` linearly.

    Args:
        log_errors: Logarithms of the parameters [P] -> log(predicted / measured) [N].
        mean: Prior of the logarithms [P], where the search begins, too.
        log_sd: Its width [P].
        top: Logarithms of the largest legal values [P], infinite where there is none.
        weight: Of the prior, relative to a row.
        robust: Errors beyond it count linearly.
    """

    def errors(x: F64) -> F64:
        return np.concatenate([log_errors(x), (x - mean) / log_sd * weight])

    fitted = least_squares(
        errors,
        np.minimum(mean, top - 1e-3),
        bounds=(np.full(mean.size, -np.inf), top),
        loss="soft_l1",
        f_scale=robust,
        x_scale=log_sd,
    )
    return np.asarray(np.exp(fitted.x))
