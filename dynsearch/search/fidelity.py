"""Passes of low fidelity: what the first rows of a split say of all of them.

The order of a split has nothing to do with what its rows are (`quality.splits`), so its first n
of N rows are a sample without replacement, and every row is one of the N: uncertainty ends where
n = N. Standard errors carry the factor sqrt(1 - n / N) for that (Cochran 1977, Sampling
Techniques, 3rd ed., eq. 2.22). Both figures are paired with the full network on the same rows,
whose own figures are known on all N:

    error    full error + mean loss - z * sqrt(1 - n / N) * se + 1.28 * se_N
    cost     full cost * (R - z * se(R)),  R = mean cost / mean full cost, the ratio estimator
             (same book, eq. 6.13): se(R) = sqrt(1 - n / N) * sd(cost_i - R full_i) / sqrt(n)
             / mean full cost

with se_N = se * sqrt(n / N), the standard error that all rows will have: `error_bound` is what
ranks. A pass is stopped where even the front of these lower bounds adds no hypervolume. If it
would have added some, then by a policy whose figures on all rows are no sample's business, and
that policy's own two bounds must both have held for the pass to go on: so a pass that matters is
stopped with a chance of at most twice the one-sided level of z, however many policies are tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dynsearch.quality.metrics import BOUND_Z
from dynsearch.quality.trace import ARRAYS, Trace
from dynsearch.search.pareto import hypervolume
from dynsearch.search.types import F64

Z = 1.96  # one-sided 2.5 % of each bound: at most 5 % together
OF_NO_ROWS = ("latency_worst_s", "peak_bytes")  # costs that no row changes
OF_MEANS = ("latency_mean_s", "time_per_sample_s", "energy_j")  # means over rows


def join(first: Trace, rest: Trace, whole: Trace) -> Trace:
    """Rows of one outer setting that were run in two goes; `whole` is any trace of all rows."""
    both = {name: np.concatenate([getattr(first, name), getattr(rest, name)]) for name in ARRAYS}
    aux = {name: np.concatenate([values, rest.aux[name]]) for name, values in first.aux.items()}
    header = {**first.header, "split_hash": whole.header.get("split_hash")}
    seconds = [trace.header.get("seconds") for trace in (first, rest)]
    header["seconds"] = sum(float(s) for s in seconds if isinstance(s, int | float))
    return Trace(**both, aux=aux, header=header)


def bound_z(n: int, total: int) -> float:
    """Standard errors of n rows that lower an error to what all rows may say of it."""
    return BOUND_Z * math.sqrt(n / total) - Z * math.sqrt(1.0 - n / total)


def cost_shares(latencies: F64, full: F64) -> F64:
    """Lower bound of the mean over all rows, as a share of the mean over the first ones [P].

    Args:
        latencies: Of P policies on the first n rows [P, n].
        full: Of the full network on all rows [N].
    """
    n, total = latencies.shape[1], full.size
    ratio = latencies.mean(axis=1) / full[:n].mean()
    off = latencies - ratio[:, None] * full[:n]
    sd = np.sqrt(np.square(off).sum(axis=1) / max(n - 1, 1))
    se = math.sqrt((1.0 - n / total) / n) * sd / full[:n].mean()
    least = full.mean() * np.maximum(ratio - Z * se, 0.0)
    return np.asarray(least / latencies.mean(axis=1))


def lowered(name: str, cost: F64, share: F64) -> F64:
    """What a cost may fall to on all rows [P]; 0 where nothing is known of it."""
    if name in OF_NO_ROWS:
        return cost
    return cost * share if name in OF_MEANS else np.zeros(cost.shape)


def adds(
    hoped: Mapping[str, F64], merged: Mapping[str, F64], references: Mapping[str, Sequence[float]]
) -> bool:
    """Whether points [K, M] add hypervolume to those found so far, on any device."""
    for device, points in hoped.items():
        have, upper = merged[device], references[device]
        both = np.concatenate([have.reshape(-1, len(upper)), points])
        if hypervolume(both, upper) > hypervolume(have, upper):
            return True
    return False
