"""The earliest exits of a path that the rows allow, by methods that say with what certainty.

A path lists policies from the most careful to the boldest, fixed before the rows are seen. The
tests of a fixed sequence go along it and stop at the first failure, so that no correction for
their number is paid and the risk need not be monotone; what is certified is the policy *before*
the failure (the reference code of Fast yet Safe returns the failing one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dynsearch.risk.bounds import (
    betting_rejects,
    betting_upper,
    binomial_p,
    binomial_upper,
    hoeffding_bentkus_p,
    hoeffding_bentkus_upper,
    rows_needed,
)
from search_spaces.errors import InputError

if TYPE_CHECKING:
    from dynsearch.job_tables import RiskTable

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

# ltt: fixed-sequence testing with Hoeffding-Bentkus p-values, told by its p-value
METHODS: tuple[str, ...] = ("wsr", "hoeffding_bentkus", "binomial", "ltt", "crc")
AVERAGE: tuple[str, ...] = ("crc",)  # hold on average over calibration draws, nothing more


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where a path is certified up to."""

    index: int  # last policy that is certified; -1: not even the first
    mean: float  # of the losses that were tested, at that policy (at the first where none is)
    upper: float | None  # bound on its risk; None where the method gives none
    p_value: float | None  # of "the risk exceeds epsilon"


def counted(method: str, losses: F64) -> F64:
    """The losses that a method bounds; those that need [0, 1] count a gain as no loss."""
    return losses if method in ("wsr", "crc") else np.maximum(losses, 0.0)


def passes(method: str, losses: F64, *, epsilon: float, delta: float) -> Bool:
    """Whether each policy alone passes its test [...].

    Args:
        method: A name in METHODS.
        losses: [..., N], at most 1, rows in an order fixed before they were seen.
        epsilon: Risk that is allowed.
        delta: Probability of error of the whole path.
    """
    n = losses.shape[-1]
    if method == "wsr":
        return betting_rejects(losses, delta, epsilon)
    mean = counted(method, losses).mean(axis=-1)
    if method == "crc":  # n / (n + 1) mean + 1 / (n + 1): the row to come may lose all
        return np.asarray((n * mean + 1.0) / (n + 1.0) <= epsilon)
    p_value = binomial_p if method == "binomial" else hoeffding_bentkus_p
    return np.asarray(p_value(mean, n, epsilon) <= delta)


def last_passed(passed: Bool) -> NDArray[np.int64]:
    """Index of the last policy before the first failure [...] of paths [..., T]; -1: none."""
    failed = ~passed
    first: NDArray[np.int64] = np.where(
        failed.any(axis=-1), failed.argmax(axis=-1), passed.shape[-1]
    )
    return first - 1


def certify_path(method: str, losses: F64, *, epsilon: float, delta: float) -> Decision:
    """Test the policies of a path in turn.

    Args:
        method: A name in METHODS.
        losses: [T, N] of T policies from careful to bold, see `passes`.
        epsilon: Risk that is allowed.
        delta: Probability that what is certified exceeds it all the same.
    """
    index = int(last_passed(passes(method, losses, epsilon=epsilon, delta=delta)))
    mine = counted(method, losses[max(index, 0)])
    n, mean = mine.size, float(mine.mean())
    upper: float | None = None
    p_value: float | None = None
    if method == "wsr":
        upper = float(betting_upper(mine, delta))
    elif method == "hoeffding_bentkus":
        upper = float(hoeffding_bentkus_upper(mean, n, delta))
    elif method == "binomial":
        upper = float(binomial_upper(mean, n, delta))
    if method in ("hoeffding_bentkus", "ltt"):
        p_value = float(hoeffding_bentkus_p(mean, n, epsilon))
    elif method == "binomial":
        p_value = float(binomial_p(mean, n, epsilon))
    return Decision(index=index, mean=mean, upper=upper, p_value=p_value)


def check_rows(risk: RiskTable, rows: int, *, file: str) -> None:
    """Refuse a job whose calibration rows are too few for any certificate.

    Args:
        risk: What is to be certified.
        rows: Calibration rows.
        file: The job, for the message.

    Raises:
        InputError: says how many rows are needed.
    """
    need = rows_needed(risk.method, risk.epsilon, risk.delta)
    need = 2 * need if risk.selection == "split" else need
    if rows < need:
        delta = "" if risk.method in AVERAGE else f" and delta = {risk.delta:g}"
        raise InputError.one(
            file,
            "risk.epsilon",
            risk.epsilon,
            f"{rows} calibration rows; at least {need} are needed for epsilon = "
            f"{risk.epsilon:g}{delta} even where no row shows a loss (own data: 5 % of the rows "
            "calibrate); give more rows, or allow more",
        )
