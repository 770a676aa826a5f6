"""Waiting at one device when samples arrive at random and take as long as their exits say.

Mean waiting time of a queue with Poisson arrivals (Pollaczek 1930, Khinchine 1932):

    E[W] = rate E[S^2] / (2 (1 - rate E[S])).

Percentiles, and losses of a buffer with few places, come from simulation. A scheduler may look at
the backlog when a sample arrives and choose how deep it will go (Casale and Roveri 2024,
"Scheduling Inputs in Early Exit Neural Networks").
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.errors import InputError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What became of n arrivals."""

    latency_s: F64  # [n] arrival to answer; NaN where there was no place
    choice: I64  # [n] configuration that served it; -1 where there was no place

    @property
    def lost(self) -> float:
        """Share of arrivals that found no place."""
        return float((self.choice < 0).mean())


def expected_wait_s(rate_per_s: float, service_s: F64) -> F64:
    """Mean seconds from arrival to start [...], buffer without limit.

    Args:
        rate_per_s: Poisson arrivals.
        service_s: Service times, equally likely [..., N]: of one policy on the rows of a trace.

    Raises:
        InputError: more arrives than can be served.
    """
    mean, square = service_s.mean(axis=-1), (service_s**2).mean(axis=-1)
    if (rate_per_s * mean >= 1).any():
        text = f"at most {1 / float(mean.max()):g} a second can be served"
        raise InputError.one("arguments", "rate_per_s", rate_per_s, text)
    wait: F64 = rate_per_s * square / (2 * (1 - rate_per_s * mean))
    return wait


def poisson_arrivals(rng: np.random.Generator, rate_per_s: float, count: int) -> F64:
    """Times of arrival, ascending [count]."""
    times: F64 = np.cumsum(rng.exponential(1 / rate_per_s, count))
    return times


def simulate_queue(
    arrivals_s: F64, service_s: F64, *, places: int | None = None, choose: ArrayLike = 0
) -> Served:
    """One server, first come first served.

    Args:
        arrivals_s: Ascending [n].
        service_s: Seconds that each arrival takes under each configuration [C, n].
        places: Samples in the system, the one in service included; None: no limit.
        choose: Configuration by samples found on arrival [K]; longer backlogs take the last.
    """
    plan = np.atleast_1d(np.asarray(choose, dtype=np.int64))
    latency = np.full(arrivals_s.size, np.nan)
    choice = np.full(arrivals_s.size, -1, dtype=np.int64)
    inside: deque[float] = deque()  # times at which those in the system leave
    for i, now in enumerate(arrivals_s.tolist()):
        while inside and inside[0] <= now:
            inside.popleft()
        if places is not None and len(inside) >= places:
            continue
        c = int(plan[min(len(inside), plan.size - 1)])
        end = max(now, inside[-1] if inside else now) + float(service_s[c, i])
        inside.append(end)
        latency[i], choice[i] = end - now, c
    return Served(latency_s=latency, choice=choice)
