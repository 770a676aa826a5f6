"""Fixed sequences of tests keep their promise, also when one of several results is picked."""

from __future__ import annotations

import numpy as np
import pytest

from dynsearch.risk.bounds import binomial_p
from dynsearch.risk.control import certify_path, counted, last_passed, passes

EPSILON, DELTA = 0.08, 0.1
DRAWS, ROWS, POOL = 1000, 250, 3000
RATES = np.linspace(0.0, 0.16, 13)  # of loss along a path, from careful to bold


def pool(rng: np.random.Generator, *, signed: bool) -> np.ndarray:
    """Losses [T, POOL] of a path: lost rows grow, gained ones (-1) make it not monotone."""
    place = rng.random(POOL)
    lost = place < RATES[:, None]
    gained = (place > 0.99) & (rng.random((RATES.size, POOL)) < 0.5)
    return lost.astype(np.float64) - (gained if signed else 0.0)


def chosen_at(losses: np.ndarray, method: str, delta: float, rng: np.random.Generator):
    """Index [DRAWS] that each of many draws with replacement certifies."""
    out = []
    for _ in range(10):
        rows = rng.integers(0, POOL, (DRAWS // 10, ROWS))
        drawn = losses[:, rows].swapaxes(0, 1)  # [draws, T, n]
        if method == "naive":
            passed = drawn.mean(axis=-1) < EPSILON
        else:
            passed = passes(method, drawn, epsilon=EPSILON, delta=delta)
        out.append(last_passed(passed))
    return np.concatenate(out)


def limit(delta: float) -> float:
    return delta + 3 * np.sqrt(delta * (1 - delta) / DRAWS)


def violated(index: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Whether the true risk of what was certified exceeds epsilon; nothing certified does not."""
    return (index >= 0) & (losses.mean(axis=1)[index] > EPSILON)


@pytest.mark.parametrize("signed", [False, True], ids=["clipped", "signed"])
@pytest.mark.parametrize("method", ["wsr", "hoeffding_bentkus", "binomial", "ltt"])
def test_no_more_than_delta_of_the_certificates_are_wrong(method, signed) -> None:
    losses = pool(np.random.default_rng(1), signed=signed)
    index = chosen_at(losses, method, DELTA, np.random.default_rng(2))
    risk = np.maximum(losses, 0) if method != "wsr" else losses  # what each method bounds
    assert violated(index, risk).mean() <= limit(DELTA)
    assert index.mean() > 1  # and something is certified


@pytest.mark.parametrize("method", ["naive", "crc"])
def test_a_mean_below_epsilon_and_an_average_guarantee_promise_less(method) -> None:
    losses = pool(np.random.default_rng(1), signed=False)
    index = chosen_at(losses, method, DELTA, np.random.default_rng(2))
    assert violated(index, losses).mean() > limit(DELTA)
    if method == "crc":  # what it does promise
        risk = np.where(index >= 0, losses.mean(axis=1)[index], 0.0)
        assert risk.mean() <= EPSILON + 3 * risk.std() / np.sqrt(DRAWS)


def test_picking_among_several_is_covered_by_a_shared_delta_and_not_without() -> None:
    """The boldest of eight certified paths is picked; their losses have nothing in common."""
    rng = np.random.default_rng(3)
    front = [pool(rng, signed=False) for _ in range(8)]

    def wrong(delta: float) -> float:
        rng = np.random.default_rng(4)
        index = np.stack([chosen_at(losses, "binomial", delta, rng) for losses in front])
        broken = np.stack([violated(i, x) for i, x in zip(index, front, strict=True)])
        picked = index.argmax(axis=0)
        return float(broken[picked, np.arange(DRAWS)].mean())

    assert wrong(DELTA / len(front)) <= limit(DELTA)
    assert wrong(DELTA) > limit(DELTA)


def test_what_is_certified_is_the_policy_before_the_first_failure() -> None:
    passed = np.array(
        [[True, True, False, True], [False, True, True, True], [True, True, True, True]]
    )
    assert last_passed(passed).tolist() == [1, -1, 3]


@pytest.mark.parametrize("method", ["wsr", "hoeffding_bentkus", "binomial", "ltt"])
def test_a_decision_is_told_by_a_bound_below_epsilon_or_a_p_value_below_delta(method) -> None:
    losses = pool(np.random.default_rng(5), signed=method == "wsr")[:, :600]
    found = certify_path(method, losses, epsilon=EPSILON, delta=DELTA)
    assert 0 < found.index < RATES.size - 1
    assert found.mean == pytest.approx(counted(method, losses[found.index]).mean())
    if found.upper is not None:
        assert found.mean < found.upper <= EPSILON
    if found.p_value is not None:
        assert found.p_value <= DELTA
    bolder = certify_path(method, losses[found.index + 1 :], epsilon=EPSILON, delta=DELTA)
    assert bolder.index == -1


def test_learn_then_test_is_the_hoeffding_bentkus_bound_told_by_its_p_value() -> None:
    losses = pool(np.random.default_rng(6), signed=True)[:, :500]
    one = certify_path("ltt", losses, epsilon=EPSILON, delta=DELTA)
    other = certify_path("hoeffding_bentkus", losses, epsilon=EPSILON, delta=DELTA)
    assert one.index == other.index
    assert one.p_value == other.p_value
    assert one.upper is None


def test_a_method_without_gains_counts_them_as_no_loss() -> None:
    losses = np.array([[-1.0] * 50 + [1.0] * 2 + [0.0] * 148])
    found = certify_path("binomial", losses, epsilon=0.05, delta=DELTA)
    assert found.p_value == pytest.approx(float(binomial_p(2 / 200, 200, 0.05)))
    assert certify_path("wsr", losses, epsilon=0.05, delta=DELTA).mean < 0
