from __future__ import annotations

import numpy as np
import pytest

from dynsearch.errors import InputError
from dynsearch.sim.queueing import expected_wait_s, poisson_arrivals, simulate_queue

ARRIVALS = 60_000


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_samples_wait_as_long_as_expected(rate: float) -> None:
    rng = np.random.default_rng(0)
    service = np.array([0.3, 0.6, 2.0])
    drawn = rng.choice(service, ARRIVALS)
    served = simulate_queue(poisson_arrivals(rng, rate, ARRIVALS), drawn[None])
    wait = (served.latency_s - drawn).mean()
    assert wait == pytest.approx(expected_wait_s(rate, service), rel=0.05)
    assert served.lost == 0


@pytest.mark.parametrize(("rate", "places"), [(0.8, 1), (0.8, 4), (2.0, 3)])
def test_few_places_lose_what_the_markovian_queue_loses(rate: float, places: int) -> None:
    """M/M/1/K: (1 - rho) rho^K / (1 - rho^(K + 1))."""
    rng = np.random.default_rng(1)
    served = simulate_queue(
        poisson_arrivals(rng, rate, ARRIVALS), rng.exponential(1, (1, ARRIVALS)), places=places
    )
    known = (1 - rate) * rate**places / (1 - rate ** (places + 1))
    assert served.lost == pytest.approx(known, abs=0.01)
    assert np.isnan(served.latency_s).mean() == served.lost


def test_leaving_earlier_under_backlog_loses_fewer_and_waits_less() -> None:
    rng = np.random.default_rng(2)
    arrivals = poisson_arrivals(rng, 0.95, 20_000)
    service = np.stack([np.ones(20_000), np.full(20_000, 0.4)])
    deep = simulate_queue(arrivals, service, places=6)
    aware = simulate_queue(arrivals, service, places=6, choose=[0, 0, 1])
    assert aware.lost < deep.lost
    assert np.nanmean(aware.latency_s) < np.nanmean(deep.latency_s)
    assert set(np.unique(aware.choice)) >= {0, 1}


def test_more_than_can_be_served_is_refused_with_the_limit() -> None:
    with pytest.raises(InputError, match=r"at most 0\.5 a second"):
        expected_wait_s(0.6, np.array([2.0, 2.0]))
