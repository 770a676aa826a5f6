"""Where samples leave and how right they are when no trace is there: a stated model of both.

Each sample has a difficulty d, each exit a disturbance e that lives on from exit to exit:

    z_l = sqrt(w) d + sqrt(1 - w) e_l,   e_(l+1) = c_l e_l + sqrt(1 - c_l^2) noise,

all standard normal. Exit l is right where z_l < tau_l = Phi^-1(accuracy_l), so accuracy by exit is
met exactly, whatever w and c; they say how alike exits err (a multivariate probit: Ashford and
Sowden 1970; Chib and Greenberg 1998). What an exit knows is u_l = -r z_l + sqrt(1 - r^2) noise;
the probability of being right given u_l,

    p_l = Phi((tau_l + r u_l) / sqrt(1 - r^2)),

is its calibrated confidence, and Phi(Phi^-1(p_l) / temperature) the confidence that it states.

Means over policies are integrals over the difficulty and the Markov chain e, done on a grid;
`draw` samples the same law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_DIFFICULTIES = 24  # nodes of Gauss and Hermite
_WIDTH, _CELLS = 6.0, 161  # grid of e: standard deviations to either side, cells
_POLICIES = 1000  # at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedExits:
    """What P policies do."""

    exits: F64  # [P, L] share of samples that leave after each layer
    right: F64  # [P, L] share of samples that leave there and are right

    @property
    def accuracy(self) -> F64:
        """Share of right answers [P]."""
        total: F64 = self.right.sum(axis=1)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitModel:
    """Correctness and confidence of L exits as one law; see the module."""

    accuracy: F64  # [L] above 0 and below 1
    shared: float  # w, from 0 to below 1
    carry: F64  # [L - 1] c, above 0 and below 1
    sharpness: float = 0.9  # r: how well an exit knows whether it is right
    temperature: float = 1.0  # above 1: less confident than right

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Bool, F64]:
        """Whether each exit is right, and its confidence, each [count, L]."""
        L = self.accuracy.size
        noise = rng.normal(size=(count, L))
        e = noise.copy()
        for layer in range(1, L):
            c = self.carry[layer - 1]
            e[:, layer] = c * e[:, layer - 1] + np.sqrt(1 - c**2) * noise[:, layer]
        z = np.sqrt(self.shared) * rng.normal(size=(count, 1)) + np.sqrt(1 - self.shared) * e
        dull = np.sqrt(1 - self.sharpness**2)
        u = -self.sharpness * z + dull * rng.normal(size=(count, L))
        tau = ndtri(self.accuracy)
        confidence = ndtr((tau + self.sharpness * u) / (dull * self.temperature))
        return z < tau, confidence

    def expected(self, thresholds: F64) -> ExpectedExits:
        """What policies do that leave where the confidence reaches a threshold.

        Args:
            thresholds: [P, L], +inf where there is no exit; the last layer takes whoever is left.
        """
        dull = np.sqrt(1 - self.sharpness**2)
        with np.errstate(divide="ignore", invalid="ignore"):
            least = ndtri(np.clip(thresholds, 0.0, 1.0)) * dull * self.temperature
        least = np.where(thresholds > 1, np.inf, least)
        cut = (least - ndtri(self.accuracy)) / self.sharpness  # leaves where u >= cut

        def stay(layer: int, z: F64, rows: slice) -> F64:
            here = cut[rows, layer, None, None]
            return np.asarray(ndtr((here + self.sharpness * z) / dull))

        parts = [
            self._filter(stay, slice(first, min(first + _POLICIES, len(cut))))
            for first in range(0, len(cut), _POLICIES)
        ]
        return ExpectedExits(
            exits=np.concatenate([part.exits for part in parts]),
            right=np.concatenate([part.right for part in parts]),
        )

    def expected_oracle(self) -> ExpectedExits:
        """Samples that leave at the first exit that is right, else at the end; P = 1."""
        return self._filter(lambda layer, _, rows: self._wrong(layer)[None], slice(0, 1))

    def _filter(self, stay: Callable[[int, F64, slice], F64], rows: slice) -> ExpectedExits:
        """The law of who is still there, from exit to exit, over difficulty and e [P, D, E].

        Args:
            stay: (layer, z [D, E], policies) -> share that stays [P, D, E].
            rows: Policies.
        """
        e, step = _grid()
        z, weights = self._z()
        L, P = self.accuracy.size, rows.stop - rows.start
        edge = ndtr(np.append(e - step / 2, e[-1] + step / 2))
        live = np.broadcast_to(weights[:, None] * np.diff(edge) / (edge[-1] - edge[0]), z.shape)
        live = np.repeat(live[None], P, axis=0)
        exits, right = np.zeros((2, P, L))
        for layer in range(L):
            left = live * (1.0 - stay(layer, z, rows)) if layer < L - 1 else live
            exits[:, layer] = left.sum(axis=(1, 2))
            right[:, layer] = np.einsum("pde,de->p", left, 1.0 - self._wrong(layer))
            if layer < L - 1:
                live = (live - left) @ _transition(float(self.carry[layer]))
        return ExpectedExits(exits=exits, right=right)

    def _z(self) -> tuple[F64, F64]:
        """Z at the nodes of difficulty and e [D, E], and the weights of the nodes [D]."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(_DIFFICULTIES)
        e, _ = _grid()
        z = np.sqrt(self.shared) * nodes[:, None] + np.sqrt(1 - self.shared) * e
        return z, weights / weights.sum()

    def _wrong(self, layer: int) -> F64:
        """Share of each cell of e in which exit `layer` is wrong [D, E]."""
        z, _ = self._z()
        reach = np.sqrt(1 - self.shared) * _grid()[1]
        share: F64 = np.clip((z - ndtri(self.accuracy[layer])) / reach + 0.5, 0.0, 1.0)
        return share


def likeness(shared: float, carry: F64) -> F64:
    """Correlation of z between exits [L, L]: w + (1 - w) times the c between them."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(carry))])
    between: F64 = shared + (1 - shared) * np.exp(-np.abs(logs[:, None] - logs))
    return between


def _grid() -> tuple[F64, float]:
    """Middles of the cells of e, and their width."""
    step = 2 * _WIDTH / _CELLS
    return np.linspace(step / 2 - _WIDTH, _WIDTH - step / 2, _CELLS), step


def _transition(carry: float) -> F64:
    """P(cell of e at the next exit | cell at this one) [E, E]."""
    e, step = _grid()
    edges = np.append(e - step / 2, e[-1] + step / 2)
    noise = np.sqrt(max(1 - carry**2, 1e-12))
    chance = np.diff(ndtr((edges - carry * e[:, None]) / noise), axis=1)
    table: F64 = chance / chance.sum(axis=1, keepdims=True)
    return table
