from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dynsearch.search.pareto import hypervolume, mean_hypervolume, non_dominated, thin_front

POINTS = arrays(
    np.float64,
    st.tuples(st.integers(0, 12), st.integers(2, 3)),
    elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1.25]),
)


@given(POINTS)
def test_a_point_stays_unless_another_is_no_worse_and_better_or_equal_and_earlier(
    points: np.ndarray,
) -> None:
    want = [
        not any(
            (q <= p).all() and ((q < p).any() or j < i) for j, q in enumerate(points) if j != i
        )
        for i, p in enumerate(points)
    ]
    assert list(non_dominated(points)) == want


@given(POINTS)
def test_hypervolume_counts_the_cells_that_some_point_dominates(points: np.ndarray) -> None:
    m = points.shape[1]
    centres = (np.arange(4) + 0.5) / 4  # cells of the grid that the points lie on
    cells = np.stack(np.meshgrid(*[centres] * m), axis=-1).reshape(-1, m)
    covered = (points[None] <= cells[:, None]).all(axis=-1).any(axis=1) if len(points) else [0]
    assert hypervolume(points, np.ones(m)) == pytest.approx(np.mean(covered))


def test_hypervolume_of_two_steps_in_closed_form_and_in_any_unit() -> None:
    points = np.array([[0.1, 3e-3], [0.2, 1e-3]])
    want = (0.4 - 0.1) / 0.4 * (4 - 3) / 4 + (0.4 - 0.2) / 0.4 * (3 - 1) / 4
    assert hypervolume(points, [0.4, 4e-3]) == pytest.approx(want)
    assert hypervolume(points * [1, 1e3], [0.4, 4.0]) == pytest.approx(want)


@given(POINTS.filter(len))
def test_a_superset_never_has_less_hypervolume(points: np.ndarray) -> None:
    reference = np.ones(points.shape[1])
    assert hypervolume(points, reference) >= hypervolume(points[:-1], reference) - 1e-12


def test_the_mean_over_devices_scales_each_by_its_own_reference() -> None:
    fronts = {"a": [[0.5, 0.5]], "b": [[0.5, 50.0]], "c": np.zeros((0, 2))}
    references = {"a": (1.0, 1.0), "b": (1.0, 100.0), "c": (1.0, 1.0)}
    assert mean_hypervolume(fronts, references) == pytest.approx((0.25 + 0.25 + 0.0) / 3)


def test_thinning_keeps_both_ends_and_the_knee() -> None:
    x = np.linspace(0.0, 1.0, 200)
    points = np.stack([np.maximum(1 - 9 * x, (1 - x) / 9), x], axis=1)[
        np.random.default_rng(0).permutation(200)
    ]
    kept = points[thin_front(points, 8)]
    assert len(kept) == 8
    assert (np.diff(kept[:, 1]) > 0).all()
    assert kept[0, 1] == 0.0
    assert kept[-1, 1] == 1.0
    assert np.abs(kept[:, 1] - 0.1).min() < 0.02
    assert hypervolume(kept, [1.001, 1.001]) > 0.97 * hypervolume(points, [1.001, 1.001])


@given(
    steps=st.lists(st.tuples(*[st.floats(0.01, 1.0)] * 2), min_size=3, max_size=12),
    limit=st.integers(2, 5),
)
def test_thinning_drops_again_and_again_what_loses_the_least_hypervolume(
    steps: list[tuple[float, float]], limit: int
) -> None:
    x, y = np.cumsum(steps, axis=0).T
    points = np.stack([y.max() - y, x], axis=1)
    scaled = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    kept = list(range(len(points)))
    while len(kept) > limit:
        areas = [hypervolume(scaled[[k for k in kept if k != i]], (2, 2)) for i in kept[1:-1]]
        top = np.flatnonzero(np.array(areas) > max(areas) - 1e-9)
        if top.size > 1:  # a tie that rounding decides
            return
        del kept[int(top[0]) + 1]
    assert list(thin_front(points, limit)) == kept


def test_a_short_front_is_only_sorted() -> None:
    points = np.array([[0.1, 3.0], [0.3, 1.0], [0.2, 2.0]])
    assert list(thin_front(points, 3)) == [1, 2, 0]
