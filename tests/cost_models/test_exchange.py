"""Dispatch and combine: copies, limits, nodes."""

from __future__ import annotations

import numpy as np
import pytest

from cost_models.exchange import exchange_s, places
from cost_models.links import load_link
from search_spaces.errors import InputError
from search_spaces.ops import COLLECTIVE

LINK, NETWORK = load_link("nvlink-4"), load_link("infiniband-ndr")


def seconds(
    name: str, tokens: float, *, ranks: int = 8, k: int = 8, size: float = 7168, **more: object
) -> float:
    one = np.ones(1)
    found = exchange_s(
        np.full(1, COLLECTIVE[name]),
        tokens * size * one,
        size * one,
        np.full(1, ranks),
        np.full(1, k),
        link=LINK,
        network=NETWORK,
        **more,  # type: ignore[arg-type]
    )
    return float(found[0])


def test_places_is_the_expected_number_of_distinct_groups() -> None:
    draws = np.random.default_rng(0).integers(0, 8, size=(20000, 6))
    counted = np.mean([np.unique(row).size for row in draws[:4000]])
    assert places(np.array(6), np.array(8.0)) == pytest.approx(counted, rel=0.01)
    assert places(np.array(1), np.array(8.0)) == pytest.approx(1)
    assert places(np.array(50), np.array(1.0)) == pytest.approx(1)


def test_time_is_flat_in_tokens_and_then_linear() -> None:
    for name in ("dispatch", "combine", "dispatch_low_latency", "combine_low_latency"):
        assert seconds(name, 2) < 1.2 * seconds(name, 1)
        assert seconds(name, 65536) == pytest.approx(2 * seconds(name, 32768), rel=0.02)


def test_no_copy_beats_the_rate_of_the_links() -> None:
    tokens = 131072
    sent = tokens * 7168 * float(places(np.array(8), np.array(8.0))) * 7 / 8
    assert sent / seconds("dispatch", tokens, units=1000) < LINK.bandwidth.value
    assert tokens * 8 * 7168 / seconds("dispatch_low_latency", tokens) < LINK.bandwidth.value


def test_more_units_copy_faster_until_the_links_are_full() -> None:
    times = [seconds("combine", 8192, units=u) for u in (4, 8, 16, 1000, 2000)]
    assert times == sorted(times, reverse=True)
    assert times[0] == pytest.approx(2 * times[1], rel=0.1)
    assert times[4] == pytest.approx(times[3], rel=0.02)


def test_more_nodes_take_longer_and_need_a_network() -> None:
    for name in ("dispatch", "combine_low_latency"):
        assert seconds(name, 256, ranks=8) < seconds(name, 256, ranks=16)
        assert seconds(name, 256, ranks=16) < seconds(name, 256, ranks=32)
    one = np.ones(1)
    with pytest.raises(InputError, match="network"):
        exchange_s(
            np.full(1, COLLECTIVE["dispatch"]),
            one,
            one,
            np.full(1, 16),
            np.full(1, 8),
            link=LINK,
        )


def test_few_experts_a_rank_limit_a_low_latency_dispatch() -> None:
    few = seconds("dispatch_low_latency", 1024, k=2, experts=np.array([8.0]))
    many = seconds("dispatch_low_latency", 1024, k=2, experts=np.array([256.0]))
    assert few > 3 * many
