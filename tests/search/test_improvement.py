from __future__ import annotations

import math

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.search.improvement import (
    Belief,
    directions,
    expected_improvement,
    expected_reach,
    free_boxes,
    reach,
    sector,
)
from dynsearch.search.pareto import non_dominated


def random_front(rng: np.random.Generator, objectives: int, num: int) -> np.ndarray:
    points = rng.uniform(0.3, 1.2, size=(num, objectives))
    return points[non_dominated(points)]


def added(front: np.ndarray, point: np.ndarray, reference: np.ndarray) -> float:
    inside = front[(front < reference).all(axis=1)]
    before = moocore.hypervolume(inside, ref=reference) if len(inside) else 0.0
    both = np.concatenate([inside, np.minimum(point, reference)[None]])
    return float(moocore.hypervolume(both, ref=reference)) - float(before)


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("log", [False, True])
def test_expected_improvement_equals_monte_carlo(objectives: int, log: bool) -> None:
    rng = np.random.default_rng(objectives)
    front, reference = random_front(rng, objectives, 6), np.ones(objectives)
    mean, sd = rng.uniform(0.3, 0.6, objectives), rng.uniform(0.05, 0.3, objectives)
    beliefs = [
        Belief(np.array([math.log(m) if log else m]), np.array([s]), log)
        for m, s in zip(mean, sd, strict=True)
    ]
    exact = expected_improvement(beliefs, front, reference)[0]
    draws = rng.normal(size=(4000, objectives)) * sd + (np.log(mean) if log else mean)
    draws = np.exp(draws) if log else draws
    gains = np.array([added(front, y, reference) for y in draws])
    assert exact > 1e-3
    assert abs(gains.mean() - exact) < 4.0 * gains.std() / math.sqrt(len(gains))


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_boxes_fill_what_no_point_dominates(seed: int, objectives: int) -> None:
    rng = np.random.default_rng(seed)
    front, reference = random_front(rng, objectives, 7), np.ones(objectives)
    front = front[(front < reference).all(axis=1)]
    boxes = np.maximum(np.array(free_boxes(front, reference)), 0.0)  # of the unit cube
    volume = (boxes[:, :, 1] - boxes[:, :, 0]).prod(axis=1).sum()
    dominated = moocore.hypervolume(front, ref=reference) if len(front) else 0.0
    assert volume == pytest.approx(1.0 - dominated, abs=1e-9)


def test_a_known_point_adds_what_it_adds() -> None:
    rng = np.random.default_rng(0)
    front, reference = random_front(rng, 2, 8), np.ones(2)
    points = rng.uniform(0.0, 1.3, size=(50, 2))
    beliefs = [Belief(points[:, m], np.zeros(50)) for m in range(2)]
    expected = [added(front, y, reference) for y in points]
    np.testing.assert_allclose(
        expected_improvement(beliefs, front, reference), expected, atol=1e-9
    )


def test_chunks_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    front, reference = random_front(rng, 2, 8), np.ones(2)
    beliefs = [Belief(rng.random(37), rng.random(37)) for _ in range(2)]
    whole = expected_improvement(beliefs, front, reference)
    np.testing.assert_allclose(expected_improvement(beliefs, front, reference, chunk=20), whole)


@pytest.mark.parametrize(("objectives", "num", "tolerance"), [(2, 400, 0.005), (3, 4000, 0.02)])
def test_reaches_in_all_directions_give_the_hypervolume(
    objectives: int, num: int, tolerance: float
) -> None:
    front = random_front(np.random.default_rng(2), objectives, 9)
    along, reference = directions(objectives, num), np.ones(objectives)
    volume = sector(objectives, num) * (reach(front, reference, along) ** objectives).sum()
    inside = front[(front < 1.0).all(axis=1)]
    assert volume == pytest.approx(moocore.hypervolume(inside, ref=reference), rel=tolerance)


def test_an_empty_front_reaches_nowhere() -> None:
    assert (reach(np.empty((0, 2)), np.ones(2), directions(2, 5)) == 0.0).all()


@pytest.mark.parametrize("power", [1, 2, 3])
def test_expected_reach_equals_monte_carlo(power: int) -> None:
    draws = np.random.default_rng(3).normal(0.4, 0.2, 400_000)
    for best in (0.0, 0.3, 0.7):
        gains = np.where(draws > best, draws**power - best**power, 0.0)
        exact = expected_reach(np.array(0.4), np.array(0.2), np.array(best), power)
        assert abs(gains.mean() - exact) < 5.0 * gains.std() / math.sqrt(gains.size)
