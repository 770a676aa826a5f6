"""Fits of the model of exits: to accuracy by exit, correctness by sample, exits by threshold.

Without correctness by sample, what exits have in common is that of one published network: twelve
exits on 8,000 pairs of SNLI (Sun et al. 2022, "A Simple Hash-Based Early Exiting Approach For
Language Understanding and Generation", repository txsun1997/HashEE; the checkpoint is not
stated), stretched over the depth.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.special import expit, logit, ndtr, ndtri

from dynsearch.sim.exit_model import ExitModel, likeness
from search_spaces.errors import InputError

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

SNLI_SHARED = 0.0  # what `fit_exit_model` finds there, to three digits
SNLI_CARRY = (0.790, 0.570, 0.467, 0.919, 0.956, 0.987, 0.987, 0.994, 0.994, 0.993, 0.994)

_NODES = 40  # of Gauss and Legendre
_MOST = 0.995  # of a correlation between neighbours
_HALVINGS = 40


def fit_exit_model(accuracy: ArrayLike, correct: Bool | None = None) -> ExitModel:
    """From accuracy by exit, and how alike exits err where that is known.

    Args:
        accuracy: Of each exit [L].
        correct: Whether each exit is right [N, L]; None: as alike as on SNLI.

    Raises:
        InputError: an accuracy outside (0, 1).
    """
    values = np.asarray(accuracy, dtype=np.float64)
    if not ((values > 0) & (values < 1)).all():
        text = "must lie between 0 and 1, both excluded"
        raise InputError.one("arguments", "accuracy", values.tolist(), text)
    if correct is not None:
        shared, carry = _fit_likeness(latent_correlation(correct))
        return ExitModel(accuracy=values, shared=shared, carry=carry)
    here = np.linspace(0.0, 1.0, values.size - 1)
    carry = np.interp(here, np.linspace(0.0, 1.0, len(SNLI_CARRY)), SNLI_CARRY)
    return ExitModel(accuracy=values, shared=SNLI_SHARED, carry=carry)


def fit_confidence(model: ExitModel, thresholds: F64, exits: F64) -> ExitModel:
    """The model with sharpness and temperature from who left where under a few thresholds.

    Least squares over the shares that have left by each layer.

    Args:
        model: With its accuracy and likeness.
        thresholds: Of P policies [P, L], +inf where there is no exit.
        exits: Share of samples that left after each layer [P, L].
    """
    gone = np.cumsum(exits, axis=1)

    def at(x: F64) -> ExitModel:
        return replace(model, sharpness=float(expit(x[0])), temperature=float(np.exp(x[1])))

    def misses(x: F64) -> F64:
        found = np.cumsum(at(x).expected(thresholds).exits, axis=1)
        return np.asarray((found - gone)[:, :-1].ravel())

    start = np.array([logit(model.sharpness), np.log(model.temperature)])
    return at(least_squares(misses, start, bounds=([-4.0, -3.0], [6.0, 3.0])).x)


def latent_correlation(correct: Bool) -> F64:
    """Tetrachoric correlation between exits [L, L] (Pearson 1900), from correctness [N, L].

    The correlation of two standard normals that are below their thresholds together as often as
    both exits are right; halving finds it, as that share grows with it.
    """
    right = correct.astype(np.float64)
    share = right.mean(axis=0)
    both = right.T @ right / len(right)
    tau = ndtri(np.clip(share, 0.5 / len(right), 1 - 0.5 / len(right)))
    low, high = np.full(both.shape, -_MOST), np.full(both.shape, _MOST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = both_below(tau[:, None], tau, middle) > both
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    found: F64 = (low + high) / 2
    np.fill_diagonal(found, 1.0)
    return found


def both_below(h: F64, k: F64, correlation: F64) -> F64:
    """P(X < h, Y < k) of standard normals (Drezner and Wesolowsky 1990), arrays that broadcast.

    Phi(h) Phi(k) plus the integral of the density over the correlation, in its arc sine.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    end = np.arcsin(correlation)[..., None]
    angle = end * (nodes + 1) / 2
    h, k = np.asarray(h)[..., None], np.asarray(k)[..., None]
    density = np.exp(-(h**2 + k**2 - 2 * h * k * np.sin(angle)) / (2 * np.cos(angle) ** 2))
    apart = ndtr(h[..., 0]) * ndtr(k[..., 0])
    total: F64 = apart + (density * end * weights).sum(axis=-1) / (4 * np.pi)
    return total


def _fit_likeness(wanted: F64) -> tuple[float, F64]:
    """W and c whose correlations come nearest to those wanted [L, L]."""
    upper = np.triu_indices(len(wanted), 1)

    def parts(x: F64) -> tuple[float, F64]:
        return _MOST * float(expit(x[0])), _MOST * expit(x[1:])

    def misses(x: F64) -> F64:
        return np.asarray(likeness(*parts(x))[upper] - wanted[upper])

    return parts(least_squares(misses, np.zeros(len(wanted)), bounds=(-8.0, 8.0)).x)
