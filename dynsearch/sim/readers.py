"""Recurrent readers that leave words out: words read, decisions made, in closed form and drawn.

- Jumps: after R words a softmax over offsets says where to go on, or to stop (Yu, Lee and Le
  2017, "Learning to Skim Text"; signed offsets: Fu and Ma 2018, "Speed Reading"). Choices are
  taken as independent of the text.
- Structural jumps: to the next sentence mark or the end (Hansen, Hansen, Alstrup, Simonsen and
  Lioma 2019, "Neural Speed Reading with Structural-Jump-LSTM"): `expected_visits`.
- Gates: each word is read by one of several cells (Seo et al. 2018, "Neural Speed Reading via
  Skim-RNN"; Campos et al. 2018, "Skip RNN"; Huang et al. 2019, "Leap-LSTM").
- Part of the state: the first ceil(m D) of D units are updated (Jernite, Grave, Joulin and Mikolov
  2017, "Variable Computation in Recurrent Neural Networks").

A text takes `reads * read_s + jumps * jump_s`. Texts of a batch jump apart, so batches are of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jumps:
    """How a reader goes on after reading `read` words."""

    offsets: I64  # [J] from the last word read; 1 is the next word, below 1 reads again
    chance: F64  # [J] of each offset; what is missing to 1 stops
    read: int  # words between two decisions R
    most: int  # jumps; after the last of them R words are read and no more


def expected_reads(jumps: Jumps, lengths: NDArray[np.integer]) -> tuple[F64, F64]:
    """Mean words read and jumps decided for texts of these lengths, each [N].

    Goes through the law of the position after each jump.

    Args:
        jumps: The reader.
        lengths: Words of each text [N].
    """
    distinct, index = np.unique(lengths, return_inverse=True)
    words = np.arange(int(distinct.max(initial=0)))
    reads, decided = np.zeros((2, distinct.size))
    at = np.zeros((distinct.size, words.size))
    at[:, :1] = 1.0
    for jump in range(jumps.most + 1):
        at = np.where(words < distinct[:, None], at, 0.0)
        left = np.minimum(jumps.read, distinct[:, None] - words)
        reads += (at * left).sum(axis=1)
        if jump == jumps.most:
            break
        goes_on = np.where(words + jumps.read < distinct[:, None], at, 0.0)
        decided += goes_on.sum(axis=1)
        at = np.zeros_like(at)
        for offset, chance in zip(jumps.offsets, jumps.chance, strict=True):
            target = np.maximum(words + jumps.read - 1 + offset, 0)
            inside = target < words.size
            np.add.at(at.T, target[inside], chance * goes_on.T[inside])
    return reads[index], decided[index]


def draw_reads(
    rng: np.random.Generator, jumps: Jumps, lengths: NDArray[np.integer]
) -> tuple[I64, I64]:
    """Words read and jumps decided, one draw for each text, each [N]."""
    at, reads, decided = np.zeros((3, lengths.size), dtype=np.int64)
    live = lengths > 0
    moves = np.append(jumps.offsets, 0)
    chance = np.append(jumps.chance, max(0.0, 1.0 - jumps.chance.sum()))
    for jump in range(jumps.most + 1):
        reads += np.where(live, np.minimum(jumps.read, lengths - at), 0)
        live &= at + jumps.read < lengths
        if jump == jumps.most:
            break
        decided += live
        choice = rng.choice(moves.size, lengths.size, p=chance / chance.sum())
        at = np.maximum(at + jumps.read - 1 + moves[choice], 0)
        live &= (choice < jumps.offsets.size) & (at < lengths)
    return reads, decided


def expected_visits(next_law: F64) -> F64:
    """Mean times that each word of one text is read [n], starting at the first.

    Solves v = start + Q' v, the expected visits of an absorbing chain (Kemeny and Snell 1960).

    Args:
        next_law: P(word j is read after word i) [n, n]; what is missing to 1 stops.
    """
    n = len(next_law)
    visits: F64 = np.linalg.solve(np.eye(n) - next_law.T, np.eye(n)[0])
    return visits


def structural_law(marks: Bool, skip: float, jump: float) -> F64:
    """`next_law` of a reader that skips words one by one and jumps behind marks [n, n].

    After a word it jumps, with probability `jump`, behind the next mark or to the end; else it
    goes to the next word that it does not skip.

    Args:
        marks: Words that are sentence marks [n].
        skip: Probability that a word is skipped.
        jump: Probability of a jump after a word that is read.
    """
    n = marks.size
    ahead = np.arange(n) - np.arange(n)[:, None] - 1  # words between
    near = np.where(ahead >= 0, (1 - skip) * skip ** np.maximum(ahead, 0), 0.0)
    law = (1 - jump) * near
    behind = np.flatnonzero(marks) + 1
    target = np.append(behind, n)[np.searchsorted(behind, np.arange(n) + 2)]
    rows = np.flatnonzero(target < n)
    law[rows, target[rows]] += jump
    return law


def gated_s(lengths: ArrayLike, share: ArrayLike, step_s: ArrayLike, gate_s: float = 0.0) -> F64:
    """Mean seconds of texts whose words go through one of K cells each [N].

    Args:
        lengths: Words [N].
        share: Of words that each cell reads [K].
        step_s: Seconds of a step of each cell [K]; 0 for one that copies its state.
        gate_s: Seconds of the decision, for each word.
    """
    mean = float(np.asarray(share) @ np.asarray(step_s))
    return np.asarray(lengths, np.float64) * (mean + gate_s)


def draw_gated_s(
    rng: np.random.Generator,
    lengths: NDArray[np.integer],
    share: F64,
    step_s: F64,
    gate_s: float = 0.0,
) -> F64:
    """Seconds of each text, words independent [N]; arguments as `gated_s`."""
    counts = rng.multinomial(lengths, share)
    seconds: F64 = counts @ step_s + lengths * gate_s
    return seconds


def batch_step_share(share: ArrayLike, batch: ArrayLike) -> F64:
    """Share of steps that a batch runs when it can leave out only what all rows leave out."""
    runs: F64 = 1.0 - (1.0 - np.asarray(share, np.float64)) ** np.asarray(batch)
    return runs


def expected_units(mean: float, spread: float, units: int) -> float:
    """E[ceil(m D)] of D units for m ~ Beta with variance spread * mean * (1 - mean).

    Sum over d of P(m > d / D).

    Args:
        mean: Of m, above 0 and below 1.
        spread: Above 0 and below 1.
        units: D.
    """
    strength = (1 - spread) / spread
    above = beta.sf(np.arange(units) / units, mean * strength, (1 - mean) * strength)
    return float(above.sum())
