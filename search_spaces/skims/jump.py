"""A recurrent reader jumps over tokens that it never sees.

LSTM-Jump (Yu et al., ACL 2017): after `read_tokens` tokens it draws a jump of 0 .. `jump_max`; 0
stops, and so does a wish to jump after `max_jumps` jumps. LSTM-Shuttle (Fu and Ma, EMNLP 2018) and
Yu et al. 2018 also go back (`jump_min` below 0). Structural-Jump-LSTM (Hansen et al., ICLR 2019)
jumps to the next mark (`structural`; here the token after the mark is read next).
"""

from __future__ import annotations

import numpy as np

from search_spaces.parts import Skim
from search_spaces.skims.base import I64, Bool, SkimRule, Tokens


def visits(skim: Skim, tokens: Tokens) -> I64:
    """How often each token is read [B, n]; more than once only where jumps go back.

    The array "jump" holds the jump that the reader draws at each token, were it there, counted
    from that token: 1 goes to the next one. With `structural`, "mark" tells punctuation and a
    non-zero jump goes past the next mark.
    """
    n = tokens.alive.shape[-1]
    drawn = tokens.array("jump").astype(np.int64)
    marks = tokens.array("mark") > 0.5
    size, every = drawn.shape[0], skim.read_tokens or 1
    counts = np.zeros((size, n), dtype=np.int64)
    at = np.zeros(size, dtype=np.int64)
    left = np.full(size, n if skim.max_jumps is None else skim.max_jumps, dtype=np.int64)
    rows = np.arange(size)
    run = np.zeros(size, dtype=np.int64)
    reading = tokens.lengths > 0
    # every jump ends a run of reads, and a reader that goes back has only so many jumps
    for _ in range(every * (int(left.max(initial=0)) + 1) + n):
        if not reading.any():
            break
        counts[rows[reading], at[reading]] += 1
        run = np.where(reading, run + 1, run)
        here = np.minimum(at, n - 1)
        jumps = reading & (run >= every)
        goal = drawn[rows, here]
        step = np.clip(goal, skim.jump_min, n if skim.jump_max is None else skim.jump_max)
        if skim.structural:
            step = np.where(goal == 0, 0, _past_mark(marks, at, n))
        reading &= ~(jumps & ((step == 0) | (left == 0)))
        at = np.maximum(np.where(jumps, at + step, at + 1), 0)
        left, run = left - jumps, np.where(jumps, 0, run)
        reading &= at < tokens.lengths
        at = np.minimum(at, n - 1)
    return counts


def through(skim: Skim, layer: int, tokens: Tokens) -> Bool:
    """Tokens that are read at least once."""
    return (visits(skim, tokens) > 0) & tokens.own


def _past_mark(marks: Bool, at: I64, n: int) -> I64:
    """Steps from each place to just after the next mark behind it; past the end without one."""
    after = np.where(marks & (np.arange(n) >= at[:, None]), np.arange(n), n).min(axis=-1)
    steps: I64 = after + 1 - at
    return steps


RULE = SkimRule(
    kind="jump",
    through=through,
    arrays=("jump", "mark"),
    keeps_protected=False,
    falls=False,
)
