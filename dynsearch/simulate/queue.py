"""Inputs that arrive at random and wait for one another at one device."""

from __future__ import annotations

from dataclasses import replace

from dynsearch.errors import InputError
from dynsearch.sim.queueing import expected_wait_s, poisson_arrivals, simulate_queue
from dynsearch.simulate.outcome import Outcome
from dynsearch.simulate.setting import Setting

ARRIVALS = 20_000


def with_arrivals(outcome: Outcome, setting: Setting, rate_per_s: float) -> Outcome:
    """The same with waiting: mean by the closed form, percentiles simulated.

    Args:
        outcome: Of inputs that run alone.
        setting: Of it.
        rate_per_s: Poisson arrivals.

    Raises:
        InputError: inputs run in batches, or more arrive than can be served.
    """
    if setting.serving.batch > 1:
        text = "arrivals are served one at a time; use --batch 1"
        raise InputError.one("command line", "--arrival-rate", rate_per_s, text)
    service = outcome.latencies
    if rate_per_s * float(service.mean()) >= 1.0 or not rate_per_s > 0.0:
        text = f"must lie above 0 and below {1.0 / float(service.mean()):g}, what can be served"
        raise InputError.one("command line", "--arrival-rate", rate_per_s, text)
    wait = float(expected_wait_s(rate_per_s, service))
    rng = setting.rng(10)
    drawn = service[rng.integers(0, service.size, ARRIVALS)]
    served = simulate_queue(poisson_arrivals(rng, rate_per_s, ARRIVALS), drawn[None])
    load = rate_per_s * float(service.mean())
    return replace(
        outcome,
        latencies=served.latency_s,
        mean_s=outcome.mean_s + wait,
        more={**outcome.more, "wait_mean_s": wait, "busy": load},
    )
