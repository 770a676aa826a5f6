"""Bounds on the mean of a bounded loss from n rows: p-values of "mean > eps", upper ends.

All functions are vectorised over leading axes (thresholds, draws); rows are the last axis. A loss
is at most 1; the betting bound takes signed losses, the others need losses within [0, 1].

Sources: Hoeffding-Bentkus and its use for risk control, Bates et al. 2021 (RCPS) and
Angelopoulos et al. 2021 (Learn then Test); betting, Waudby-Smith and Ramdas 2020, in the one-sided
form of Jazbec et al. 2024 (Fast yet Safe); exact binomial, Clopper and Pearson 1934.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import beta, binom

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

BISECTIONS = 45  # of [0, 1]: below 1e-13
COUNT_SLACK = 1e-9  # n * mean is a whole number up to rounding where losses are 0 or 1


def hoeffding_bentkus_p(mean: Any, n: int, eps: Any) -> F64:
    """P-value of "the mean loss exceeds eps", for losses within [0, 1].

    Args:
        mean: Mean loss of the rows [...].
        n: Rows.
        eps: Level that is tested, broadcast against `mean`.
    """
    mean, eps = np.asarray(mean, dtype=np.float64), np.asarray(eps, dtype=np.float64)
    bentkus = np.e * binom.cdf(np.ceil(n * mean - COUNT_SLACK), n, eps)
    below = np.minimum(mean, eps)
    hoeffding = np.exp(-n * (rel_entr(below, eps) + rel_entr(1.0 - below, 1.0 - eps)))
    out: F64 = np.minimum(1.0, np.minimum(bentkus, hoeffding))
    return out


def binomial_p(mean: Any, n: int, eps: Any) -> F64:
    """P-value of "the mean loss exceeds eps", exact for losses that are 0 or 1.

    Arguments as `hoeffding_bentkus_p`.
    """
    out: F64 = np.asarray(binom.cdf(np.rint(n * np.asarray(mean)), n, eps), dtype=np.float64)
    return out


def hoeffding_bentkus_upper(mean: Any, n: int, delta: float) -> F64:
    """Upper end of the mean loss [...] that holds with probability 1 - delta."""
    mean = np.asarray(mean, dtype=np.float64)
    return _smallest(lambda m: hoeffding_bentkus_p(mean, n, m) <= delta, mean)


def binomial_upper(mean: Any, n: int, delta: float) -> F64:
    """Upper end [...] for losses that are 0 or 1 (Clopper and Pearson)."""
    k = np.rint(n * np.asarray(mean, dtype=np.float64))
    out: F64 = np.where(k < n, beta.ppf(1.0 - delta, k + 1, np.maximum(n - k, 1)), 1.0)
    return out


def betting_capital(losses: F64, stakes: F64, level: Any) -> F64:
    """Largest log capital [...] that betting against "the mean loss exceeds level" reaches.

    Args:
        losses: [..., n], at most 1.
        stakes: [..., n] from `betting_stakes`.
        level: Mean that is bet against [...], at least 0.
    """
    level = np.asarray(level, dtype=np.float64)[..., None]
    with np.errstate(divide="ignore"):  # all is lost: a loss of 1, a stake of 1, level 0
        steps = np.log1p(stakes * (level - losses))
    out: F64 = np.cumsum(steps, axis=-1).max(axis=-1)
    return out


def betting_stakes(losses: F64, delta: float) -> F64:
    """Stakes [..., n]; each depends on the losses before it alone.

    With running mean mu_i and variance s_i (from 1/2 and 1/4 in place of a row each):
    stake_i = min(1, sqrt(2 ln(1/delta) / (n s_{i-1}))).
    """
    n = losses.shape[-1]
    seen = np.arange(2, n + 2)  # i + 1
    mean = (0.5 + np.cumsum(losses, axis=-1)) / seen
    variance = (0.25 + np.cumsum((losses - mean) ** 2, axis=-1)) / seen
    before = np.concatenate([np.full((*losses.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    out: F64 = np.minimum(1.0, np.sqrt(2.0 * np.log(1.0 / delta) / (n * before)))
    return out


def betting_rejects(losses: F64, delta: float, eps: float) -> NDArray[np.bool_]:
    """Whether the betting bound lies below eps [...]; losses [..., n] in the order of the rows."""
    capital = betting_capital(losses, betting_stakes(losses, delta), eps)
    out: NDArray[np.bool_] = capital > np.log(1.0 / delta)
    return out


def betting_upper(losses: Any, delta: float) -> F64:
    """Upper end of the mean loss [...] that holds with probability 1 - delta (WSR betting).

    Args:
        losses: [..., n], at most 1, in an order that was fixed before they were seen.
        delta: Probability of error.
    """
    losses = np.asarray(losses, dtype=np.float64)
    stakes, goal = betting_stakes(losses, delta), np.log(1.0 / delta)
    return _smallest(
        lambda m: betting_capital(losses, stakes, m) > goal, np.zeros(losses.shape[:-1])
    )


def _smallest(holds: Callable[[F64], NDArray[np.bool_]], low: F64) -> F64:
    """Smallest level [...] from `low` to 1 at which `holds`, which stays true above it; else 1."""
    high = np.ones_like(low)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        found = holds(middle)
        low, high = np.where(found, low, middle), np.where(found, middle, high)
    return high


def rows_needed(method: str, eps: float, delta: float) -> int:
    """Fewest rows with which a method can certify eps at all: none of them shows a loss.

    Args:
        method: A name in `control.METHODS`.
        eps: Level.
        delta: Probability of error of this one test.
    """
    if method == "crc":
        return max(1, int(np.ceil(1.0 / eps - 1.0 - COUNT_SLACK)))
    if method != "wsr":  # all others reach (1 - eps)^n
        return max(1, int(np.ceil(np.log(delta) / np.log1p(-eps) - COUNT_SLACK)))
    high = 1
    while not betting_rejects(np.zeros(high), delta, eps):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if betting_rejects(np.zeros(middle), delta, eps):
            high = middle
        else:
            low = middle
    return high
