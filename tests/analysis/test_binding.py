"""What binds, in cases whose answer is known without a computer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.analysis.binding import gain, relaxed
from dynsearch.rejection import rejected


def test_a_budget_rejects_alone_what_the_others_admit() -> None:
    costs = {"time": np.array([1.0, 2.0, 3.0, 4.0]), "bytes": np.array([9.0, 1.0, 9.0, 1.0])}
    found = rejected(costs, {"time": 2.5, "bytes": 5.0})
    assert (found["time"].all, found["time"].alone) == (0.5, 0.5)  # of 2 and 4 it turns 4 away
    assert (found["bytes"].all, found["bytes"].alone) == (0.5, 0.5)
    alone = rejected(costs, {"time": 0.5, "bytes": 0.5})
    assert alone["time"].alone == alone["bytes"].alone == 0.0  # the other one admits nothing


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=20),
    st.tuples(st.floats(0.1, 2), st.floats(0.1, 2)),
)
def test_shares_count_candidates(pairs: list[tuple[float, float]], limits) -> None:
    names = ("a", "b")
    costs = {name: np.array([p[i] for p in pairs]) for i, name in enumerate(names)}
    found = rejected(costs, dict(zip(names, limits, strict=True)))
    broken = [[p[i] > limits[i] for i in (0, 1)] for p in pairs]
    for i, name in enumerate(names):
        assert found[name].all == pytest.approx(sum(b[i] for b in broken) / len(broken))
        admitted = [b for b in broken if not b[1 - i]]
        want = sum(b[i] for b in admitted) / len(admitted) if admitted else 0.0
        assert found[name].alone == pytest.approx(want)


def test_a_gain_is_the_box_that_a_point_adds() -> None:
    base = np.array([[0.4, 4.0]])  # of the box (1, 10): 0.6 x 0.6
    assert gain(base, np.array([[0.2, 4.0]]), [1.0, 10.0]) == pytest.approx(0.2 * 0.6)
    assert gain(base, np.array([[0.5, 2.0]]), [1.0, 10.0]) == pytest.approx(0.5 * 0.2)
    assert gain(base, np.array([[0.5, 5.0], [0.4, 4.0]]), [1.0, 10.0]) == 0.0


def test_one_budget_is_relaxed_on_every_device_that_has_it() -> None:
    limits = {"x": {"time": 2.0, "bytes": 8.0}, "y": {"bytes": 4.0}}
    assert relaxed(limits, "bytes", 0.5) == {
        "x": {"time": 2.0, "bytes": 12.0},
        "y": {"bytes": 6.0},
    }
    assert limits["x"]["bytes"] == 8.0
