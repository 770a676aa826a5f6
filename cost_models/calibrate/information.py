"""Which measurement to take next: the one that makes the others most predictable.

What is unknown of log time is a Gaussian process with a parametric part:

    covariance of two rows = J C J'  +  misfit^2 exp(-|x - x'|^2 / 2)     (same kinds and type)

J are the slopes after the logarithms of the parameters, C their covariance, x the standardised
logarithms of FLOPs, weight bytes, activation bytes and executions. The first part asks for rows
that tell parameters apart (an I-optimal design), the second for rows that are unlike each other,
because no form is exact. Rows are taken greedily by how far each lowers the summed predictive
variance of the whole pool (Cohn, Ghahramani and Jordan, "Active learning with statistical
models", JAIR 1996, the criterion ALC).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cost_models.calibrate.posterior import Posterior, parameter_slopes
from cost_models.calibrate.rows import Prepared, prepare
from cost_models.device import Device
from cost_models.measured import Measured
from search_spaces.errors import InputError
from search_spaces.ops import KINDS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MISFIT = 0.10  # log error that a form keeps on a shape unlike all others
NOISE = 0.03  # log noise of one careful measurement
TOLD_ROWS = 3  # that a parameter needs
POOL = 1200  # rows that are compared with each other; more are drawn at random


def choose(
    measured: Sequence[Measured],
    device: Device,
    posterior: Posterior,
    count: int,
    *,
    threads: int | None = None,
    known: Sequence[Measured] = (),
) -> I64:
    """Rows to measure, the most telling first; their `seconds` are not looked at.

    Args:
        measured: The pool of what could be measured (seconds may be anything above 0).
        device: Facts of the device.
        posterior: What is believed of it now; `prior_only` before anything was measured.
        count: Rows to choose, fewer where the pool is smaller.
        threads: Threads that share an operator; None: those of the tables.
        known: Rows that were measured already and that `posterior` has not seen: others are
            chosen by what they add.

    Returns:
        Indices into the rows of the tables, in order.

    Raises:
        InputError: an empty pool.
    """
    rows = prepare([*measured, *known], threads=threads)
    size = sum(len(part) for part in measured)
    drawn = np.arange(size)
    if drawn.size > POOL:
        drawn = np.sort(np.random.default_rng(0).permutation(drawn)[:POOL])
    pool = rows.take(np.concatenate([drawn, np.arange(size, len(rows))]))
    covariance = prior_covariance(pool, device, posterior)
    for _ in range(len(rows) - size):  # the last is conditioned on, and leaves
        covariance = conditioned(covariance, len(covariance) - 1)[:-1, :-1]
    return drawn[greedy(covariance, min(count, drawn.size))]


def prior_covariance(rows: Prepared, device: Device, posterior: Posterior) -> F64:
    """What is unknown of the log seconds of N rows [N, N]."""
    _, slopes = parameter_slopes(rows, device, posterior)
    found: F64 = slopes @ posterior.covariance @ slopes.T + MISFIT**2 * likeness(features(rows))
    return found


def features(rows: Prepared) -> tuple[F64, I64]:
    """Standardised logarithms of sizes [N, 4], and a number for what kinds a row is of [N]."""
    ops, counts = rows.ops, rows.counts
    sizes = [ops.executed_flops, ops.weight_bytes, ops.activation_bytes, np.ones(len(ops))]
    x = np.log(np.stack([counts @ size for size in sizes], axis=1) + 1.0)
    # which (kind, type) pairs a row runs, as bits of one number
    cell = ops.dtype * len(KINDS) + ops.kind
    distinct, bit = np.unique(cell, return_inverse=True)
    runs = np.stack([counts @ (bit == i) > 0 for i in range(distinct.size)], axis=1)
    _, sort = np.unique(runs, axis=0, return_inverse=True)
    spread = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0), sort.reshape(-1)


def likeness(described: tuple[F64, I64]) -> F64:
    """exp(-|x - x'|^2 / 2) between rows of the same kinds, 0 between others [N, N]."""
    x, sort = described
    squares = (x**2).sum(axis=1)
    distance = squares[:, None] + squares[None, :] - 2 * x @ x.T
    found: F64 = np.exp(-0.5 * np.maximum(distance, 0)) * (sort[:, None] == sort[None, :])
    return found


def greedy(covariance: F64, count: int) -> I64:
    """Rows of a covariance [N, N] that lower its trace most, one after another [count]."""
    left = covariance
    free = np.ones(left.shape[0], dtype=bool)
    chosen = []
    for _ in range(count):
        gain = (left**2).sum(axis=0) / (np.diag(left) + NOISE**2)
        best = int(np.argmax(np.where(free, gain, -1.0)))
        chosen.append(best)
        free[best] = False
        left = conditioned(left, best)
    return np.array(chosen, dtype=np.int64)


def conditioned(covariance: F64, row: int) -> F64:
    """The covariance [N, N] once a row is measured."""
    column = covariance[:, row]
    return np.asarray(covariance - np.outer(column, column) / (column[row] + NOISE**2))


def told_by(
    measured: Sequence[Measured], device: Device, posterior: Posterior, *, each: int = TOLD_ROWS
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Parameters that rows tell of, and those that too few of them do.

    A row tells of a parameter where its time depends on it with a slope of a tenth or more.

    Args:
        measured: Rows that a fit is to use.
        device: Facts of the device.
        posterior: Names to fit and where they lie now.
        each: Rows that each parameter needs.

    Returns:
        Names that at least `each` rows tell of; rows by name of those that fewer, but some, do.

    Raises:
        InputError: no parameter has enough; says how many rows each has.
    """
    rows = prepare(measured)
    _, slopes = parameter_slopes(rows, device, posterior)
    telling = (np.abs(slopes) > 0.1).sum(axis=0)
    counts = {n: int(c) for n, c in zip(posterior.names, telling, strict=True)}
    told = tuple(n for n, c in counts.items() if c >= each)
    lacking = {n: c for n, c in counts.items() if 0 < c < each}
    if not told:
        known = ", ".join(f"{c} for {n}" for n, c in lacking.items()) or "none for any parameter"
        text = (
            f"too few rows: each parameter needs {each} that depend on it, there are {known}; "
            "measure more shapes"
        )
        raise InputError.one(measured[0].source, "rows", len(rows), text)
    return told, lacking
