"""Gaussian processes that learn objectives from few evaluations.

Matérn-5/2 kernel with a length scale per input, hyperparameters at the maximum of marginal
likelihood times prior (Rasmussen & Williams 2006, ch. 2, 4 and 5). The prior of the length scales
grows with the number of inputs (Hvarfner, Hellsten & Nardi 2024, arXiv 2402.02229), which keeps
dozens of inputs learnable. Several outputs share one kernel: the matrix is factored once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from dynsearch.search.types import F64

_SCALE_MEAN, _SCALE_SD = math.sqrt(2.0), math.sqrt(3.0)  # of log length scale - 0.5 log inputs
_NOISE_MEAN, _NOISE_SD = math.log(1e-3), 2.0  # of log noise variance / signal variance
_SCALE_BOUNDS = (math.log(0.05), math.log(500.0))
_NOISE_BOUNDS = (math.log(1e-6), math.log(0.3))
_LEAST_VARIANCE = 1e-10
_WIDEST = 2.5  # largest factor by which calibration widens


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """The posterior of J outputs given n rows. Made by `condition`."""

    inputs: F64  # [n, F] divided by the length scales
    inverse_scale: F64  # [F]
    whitener: F64  # [n, n] inverse of the kernel matrix's Cholesky factor
    weights: F64  # [n, J] kernel matrix \\ standardised outputs
    mean: F64  # [J] of the outputs
    unit: F64  # [J] standard deviation of the outputs
    signal: F64  # [J] signal variance in units of `unit` squared
    widen: F64  # [J] calibration, see `_calibration`

    def predict(self, queries: F64) -> tuple[F64, F64]:
        """Mean and standard deviation of the noise-free outputs, each [B, J].

        Args:
            queries: [B, F].
        """
        kernel = matern(squared_distance(queries * self.inverse_scale, self.inputs))
        mean = self.mean + self.unit * (kernel @ self.weights)
        explained = np.square(kernel @ self.whitener.T).sum(axis=1)
        share = np.maximum(1.0 - explained, _LEAST_VARIANCE)
        sd = self.unit * self.widen * np.sqrt(share[:, None] * self.signal)
        return mean, sd


def squared_distance(A: F64, B: F64) -> F64:
    """Squared Euclidean distances [a, b] of rows."""
    squares = np.square(A).sum(axis=1)[:, None] + np.square(B).sum(axis=1) - 2.0 * A @ B.T
    return np.asarray(np.maximum(squares, 0.0))


def matern(squares: F64) -> F64:
    """Matérn-5/2 correlation at squared scaled distances."""
    r = np.sqrt(5.0 * squares)
    return (1.0 + r + r * r / 3.0) * np.exp(-r)


def fit(X: F64, Y: F64, iterations: int = 50) -> F64:
    """Log length scales and log noise [F + 1] at the posterior mode, from a fixed start.

    Args:
        X: Inputs [n, F].
        Y: Outputs [n, J]; their likelihoods are averaged.
        iterations: Of the quasi-Newton search.
    """
    num = X.shape[1]
    Z = _standardise(Y)[0]
    start = np.append(np.full(num, _SCALE_MEAN + 0.5 * math.log(num) - 1.0), _NOISE_MEAN)
    found = minimize(
        negative_log_posterior,
        start,
        args=(X, Z),
        jac=True,
        method="L-BFGS-B",
        bounds=[_SCALE_BOUNDS] * num + [_NOISE_BOUNDS],
        options={"maxiter": iterations, "maxfun": iterations + iterations // 4},
    )
    return np.asarray(found.x)


def negative_log_posterior(theta: F64, X: F64, Z: F64) -> tuple[float, F64]:
    """Minus log marginal likelihood and log prior, up to a constant, with its gradient [F + 1].

    The signal variance of each output is at its own maximum (R&W eq. 5.8 and 5.9, profiled).

    Args:
        theta: Log length scales and log noise [F + 1].
        X: Inputs [n, F].
        Z: Standardised outputs [n, J].
    """
    n, num = X.shape
    A = X * np.exp(-theta[:-1])
    noise = math.exp(theta[-1])
    r = np.sqrt(5.0 * squared_distance(A, A))
    decay = np.exp(-r)
    K = (1.0 + r + r * r / 3.0) * decay
    K[np.diag_indices(n)] += noise
    factor = cho_factor(K, lower=True)
    inverse = cho_solve(factor, np.eye(n))
    alpha = inverse @ Z
    signal = np.maximum((Z * alpha).mean(axis=0), 1e-8)
    value = 0.5 * n * np.log(signal).mean() + np.log(np.diag(factor[0])).sum()
    # What the value gains per change of a kernel entry, then per squared distance.
    slope = 0.5 * (inverse - (alpha / signal) @ alpha.T / Z.shape[1])
    pull = slope * ((5.0 / 3.0) * (1.0 + r) * decay)
    gradient = np.empty_like(theta)
    gradient[:-1] = 2.0 * ((A * A * pull.sum(axis=1)[:, None]) - A * (pull @ A)).sum(axis=0)
    gradient[-1] = noise * np.trace(slope)
    centre = np.append(np.full(num, _SCALE_MEAN + 0.5 * math.log(num)), _NOISE_MEAN)
    width = np.append(np.full(num, _SCALE_SD), _NOISE_SD)
    off = (theta - centre) / width
    return float(value + 0.5 * (off * off).sum()), gradient + off / width


def condition(X: F64, Y: F64, theta: F64) -> GaussianProcess:
    """The posterior given rows, with hyperparameters from `fit`.

    Args:
        X: Inputs [n, F].
        Y: Outputs [n, J].
        theta: Log length scales and log noise [F + 1].
    """
    Z, mean, unit = _standardise(Y)
    inverse_scale = np.exp(-theta[:-1])
    A = X * inverse_scale
    K = matern(squared_distance(A, A))
    K[np.diag_indices(K.shape[0])] += math.exp(theta[-1])
    L = np.linalg.cholesky(K)
    whitener = solve_triangular(L, np.eye(K.shape[0]), lower=True)
    weights = whitener.T @ (whitener @ Z)
    signal = np.maximum((Z * weights).mean(axis=0), 1e-8)
    return GaussianProcess(
        inputs=A,
        inverse_scale=inverse_scale,
        whitener=whitener,
        weights=weights,
        mean=mean,
        unit=unit,
        signal=signal,
        widen=_calibration(whitener, weights, signal),
    )


def left_out(gp: GaussianProcess) -> F64:
    """Standardised leave-one-out residuals [n, J] (R&W eq. 5.12)."""
    return _left_out(gp.whitener, gp.weights, gp.signal)


def _left_out(whitener: F64, weights: F64, signal: F64) -> F64:
    precision = np.square(whitener).sum(axis=0)  # diagonal of the inverse kernel matrix
    return np.asarray(weights / np.sqrt(precision[:, None] * signal))


def _calibration(whitener: F64, weights: F64, signal: F64) -> F64:
    """How much wider rows left out say that the posterior must be, 1 to `_WIDEST` [J].

    A few dozen rows make the most probable hyperparameters too sure of themselves.
    """
    residuals = _left_out(whitener, weights, signal)
    return np.asarray(np.clip(np.sqrt(np.square(residuals).mean(axis=0)), 1.0, _WIDEST))


def _standardise(Y: F64) -> tuple[F64, F64, F64]:
    mean, unit = Y.mean(axis=0), Y.std(axis=0)
    unit = np.where(unit > 0.0, unit, 1.0)
    return (Y - mean) / unit, mean, unit
