"""What each exit loses on each row, with what chance had in it taken out.

Whether the full network or an exit was right on a row where they differ is one draw. How sure
both were, and how the other exits answered, says what that draw was worth on average, and is
known for every row. So what ranks policies mixes the two,

    loss_i = (1 - DRAWN) (p_i[a_i] - p_i[b_i]) + DRAWN (1[a_i right] - 1[b_i right])

where the full network answers a and the exit b, and p are class probabilities from a multinomial
logistic regression with three weights: of the full network's logits, of the mean of its other
exits' and of the exit's own, fitted to the labels of the same rows for each exit. Thousands of
policies are compared on the same draws, and the best of them is, more than by merit, the one
that the draws favoured; means of expected losses leave less to be favoured by. It is a
model-assisted estimate (Sarndal, Swensson and Wretman 1992; Angelopoulos, Duchi and Zrnic 2023,
"PPI++", where DRAWN is their power), with the rows themselves in place of unlabelled ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from dynsearch.quality.trace import Trace
from dynsearch.sim.layout import Layout

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

DRAWN = 0.5  # weight of who was right, against who was expected to be
PRIOR = 1.0  # precision of the weights' prior, which keeps separable rows finite


def row_losses(trace: Trace, full: Trace) -> F64:
    """Expected loss of every exit on every row [N, L]; 0 where both give the same answer.

    Args:
        trace: One pass over N rows.
        full: The full network's trace of the same rows.
    """
    out = np.zeros(trace.logits.shape[:2])
    for layer in range(trace.depth):
        out[:, layer] = exit_losses(trace.logits[:, layer], full)
    return out


def exit_losses(logits: NDArray[np.floating], full: Trace) -> F64:
    """Those of one exit, or of another network [N], from its logits [N, C]."""
    rows, last = np.arange(full.num_samples), full.logits[:, -1]
    answer, mine = last.argmax(axis=-1), logits.argmax(axis=-1)
    if (answer == mine).all():
        return np.zeros(full.num_samples)
    others = full.logits[:, :-1] if full.num_layers > 1 else full.logits
    known = (last, others.mean(axis=1), logits)
    p = _probabilities(np.stack([_centred(x) for x in known], axis=1), full.labels)
    expected = p[rows, answer] - p[rows, mine]
    drawn = (answer == full.labels).astype(np.float64) - (mine == full.labels)
    return np.where(answer == mine, 0.0, (1.0 - DRAWN) * expected + DRAWN * drawn)


def _centred(logits: NDArray[np.floating]) -> F64:
    values: F64 = logits.astype(np.float64)
    centred: F64 = values - values.mean(axis=-1, keepdims=True)
    return centred


def _probabilities(features: F64, labels: I64) -> F64:
    """Class probabilities [N, C] of the logistic regression over `features` [N, K, C]."""
    n, count, _ = features.shape
    wanted = features[np.arange(n), :, labels].sum(axis=0)  # [K]

    def softmax(weights: F64) -> tuple[F64, F64]:
        """Log of the normaliser [N], probabilities [N, C]."""
        logits = np.einsum("k,nkc->nc", weights, features)
        top = logits.max(axis=1, keepdims=True)
        powers = np.exp(logits - top)
        total = powers.sum(axis=1, keepdims=True)
        return (top + np.log(total))[:, 0], powers / total

    def badness(weights: F64) -> tuple[float, F64]:
        normaliser, p = softmax(weights)
        value = normaliser.sum() - weights @ wanted + 0.5 * PRIOR * weights @ weights
        slope = np.einsum("nc,nkc->k", p, features) - wanted + PRIOR * weights
        return float(value), slope

    def curvature(weights: F64) -> F64:
        _, p = softmax(weights)
        mean = np.einsum("nc,nkc->nk", p, features)
        second = np.einsum("nc,nkc,njc->kj", p, features, features)
        return np.asarray(second - mean.T @ mean + PRIOR * np.eye(count))

    found = minimize(
        badness, np.zeros(count), jac=True, hess=curvature, method="trust-exact", tol=1e-8 * n
    )
    return softmax(found.x)[1]


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums of row losses and of their squares over sets of rows, in a layout's bits."""

    cells: list[tuple[I64, U8, F64]]  # by layer: byte and bit of the rows that lose, [n, 2]

    @classmethod
    def of(cls, losses: F64, layout: Layout) -> Self:
        """Those of `losses` [N, L]."""
        cells = []
        for column in losses.T:
            rows = np.flatnonzero(column)
            slot, values = layout.slot[rows], column[rows]
            powers = np.stack([values, values**2], axis=1)
            cells.append((slot // 8, (slot % 8).astype(np.uint8), powers))
        return cls(cells)

    def over(self, layer: int, sets: U8) -> F64:
        """[R, 2] over the rows in `sets` [R, bytes] that leave after 0-based `layer`."""
        byte, bit, powers = self.cells[layer]
        member = (sets[:, byte] >> bit) & np.uint8(1)
        sums: F64 = member.astype(np.float64) @ powers
        return sums
