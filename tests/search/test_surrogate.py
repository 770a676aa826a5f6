from __future__ import annotations

import numpy as np
import pytest

from dynsearch.search import surrogate
from dynsearch.search.acquisition import Fits, milestone


def matern(a: np.ndarray, b: np.ndarray, scales: np.ndarray) -> float:
    """Matérn-5/2 written out (Rasmussen & Williams 2006, eq. 4.17)."""
    r = float(np.sqrt((((a - b) / scales) ** 2).sum()))
    return (1.0 + np.sqrt(5.0) * r + 5.0 * r * r / 3.0) * np.exp(-np.sqrt(5.0) * r)


def data(n: int = 14, dims: int = 3, outputs: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.random((n, dims))
    Y = np.stack([np.sin(3.0 * X[:, 0]) + j * X[:, 1] ** 2 for j in range(outputs)], axis=1)
    return X, 2.0 + 3.0 * Y


THETA = np.log([0.5, 0.8, 2.0, 1e-3])


def test_the_posterior_is_the_textbook_formula() -> None:
    X, Y = data()
    Q = np.random.default_rng(1).random((5, 3))
    scales, noise = np.exp(THETA[:3]), np.exp(THETA[3])
    K = np.array([[matern(a, b, scales) for b in X] for a in X]) + noise * np.eye(len(X))
    k = np.array([[matern(q, x, scales) for x in X] for q in Q])
    gp = surrogate.condition(X, Y, THETA)
    mean, sd = gp.predict(Q)
    for j in range(2):
        unit = Y[:, j].std()
        z = (Y[:, j] - Y[:, j].mean()) / unit
        weights = np.linalg.solve(K, z)
        np.testing.assert_allclose(mean[:, j], Y[:, j].mean() + unit * (k @ weights), rtol=1e-8)
        signal = z @ weights / len(z)
        share = 1.0 - np.einsum("ij,ij->i", k, np.linalg.solve(K, k.T).T)
        np.testing.assert_allclose(
            sd[:, j], unit * gp.widen[j] * np.sqrt(signal * share), rtol=1e-5
        )


def test_the_gradient_is_that_of_finite_differences() -> None:
    X, Y = data()
    Z = (Y - Y.mean(axis=0)) / Y.std(axis=0)
    _, gradient = surrogate.negative_log_posterior(THETA, X, Z)
    for i in range(THETA.size):
        step = np.zeros(THETA.size)
        step[i] = 1e-5
        ends = [surrogate.negative_log_posterior(THETA + s * step, X, Z)[0] for s in (1, -1)]
        assert gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-6)


def test_residuals_left_out_are_those_of_models_without_the_row() -> None:
    X, Y = data(n=9, outputs=1)
    gp = surrogate.condition(X, Y, THETA)
    z = (Y[:, 0] - Y.mean()) / Y.std()
    scales, noise = np.exp(THETA[:3]), np.exp(THETA[3])
    K = np.array([[matern(a, b, scales) for b in X] for a in X]) + noise * np.eye(9)
    for i in range(9):
        rest = np.arange(9) != i
        weights = np.linalg.solve(K[np.ix_(rest, rest)], np.stack([z[rest], K[rest, i]], 1))
        gap = z[i] - K[i, rest] @ weights[:, 0]
        variance = gp.signal[0] * (K[i, i] - K[i, rest] @ weights[:, 1])
        assert surrogate.left_out(gp)[i, 0] == pytest.approx(gap / np.sqrt(variance), rel=1e-6)


def test_fitted_models_predict_rows_that_they_never_saw() -> None:
    rng = np.random.default_rng(2)
    X = rng.random((60, 8))
    y = np.exp(X[:, 0]) * (1.0 + X[:, 1]) + 0.3 * X[:, 2]
    gp = surrogate.condition(X[:40], y[:40, None], surrogate.fit(X[:40], y[:40, None]))
    mean, sd = gp.predict(X[40:])
    gaps = y[40:] - mean[:, 0]
    assert 1.0 - gaps.var() / y[40:].var() > 0.95
    assert (np.abs(gaps) < 4.0 * sd[:, 0]).mean() > 0.9


def test_a_constant_output_is_no_error() -> None:
    X, _ = data()
    Y = np.ones((len(X), 1))
    mean, sd = surrogate.condition(X, Y, surrogate.fit(X, Y)).predict(X)
    assert np.isfinite(sd).all()
    np.testing.assert_allclose(mean, 1.0)


def test_milestones_are_the_same_whenever_they_are_asked_for() -> None:
    found = [milestone(10, n) for n in range(10, 400)]
    assert all(m <= n for m, n in zip(found, range(10, 400), strict=True))
    assert found[:8] == list(range(10, 18))  # few evaluations: a fit each time
    assert len(set(found)) < 80


def test_fits_depend_on_the_rows_before_the_milestone_alone() -> None:
    rng = np.random.default_rng(3)
    total = 180
    X, y = rng.random((total, 2)), rng.random((total, 1))
    then = milestone(10, total)
    assert 128 < then < total  # some rows are left out of the fit

    def badness(first: int) -> np.ndarray:
        return y[:first, 0] - y[:first, 0].min()

    all_along, resumed = Fits(seed=0, first=10), Fits(seed=0, first=10)
    early = all_along.theta("a", X[:then], y[:then], badness)
    np.testing.assert_array_equal(early, resumed.theta("a", X, y, badness))
