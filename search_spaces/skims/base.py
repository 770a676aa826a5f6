"""What every skim score and every skim mechanism declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.parts import Skim

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkimScore:
    """A reference decision.

    Attributes:
        kind: Name in files.
        importance: Attention [B, heads, n, n] and lengths [B] -> importance [B, n].
        keep: Importance [B, n], lengths [B], counts [B], protected -> kept positions [B, n].
    """

    kind: str
    importance: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]
    keep: Callable[[NDArray[Any], NDArray[Any], NDArray[Any], int], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of B samples in front of one skimming layer.

    Attributes:
        lengths: Own tokens of each sample [B]; positions from there on are padding.
        alive: Tokens that have not been dropped before [B, n].
        protected: Tokens that are never skimmed [B, n].
        arrays: Named arrays [B, n]; those that the mechanism declares.
    """

    lengths: I64
    alive: Bool
    protected: Bool
    arrays: Mapping[str, NDArray[Any]]

    @property
    def own(self) -> Bool:
        """Positions that are not padding [B, n]."""
        inside: Bool = np.arange(self.alive.shape[-1]) < self.lengths[:, None]
        return inside

    def array(self, name: str) -> F64:
        """A declared array [B, n] in float64."""
        return np.asarray(self.arrays[name], dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkimRule:
    """One mechanism: which tokens go through a layer.

    Attributes:
        kind: Name in files.
        through: The policy's record, place of the layer in it, tokens -> mask [B, n] of tokens
            that the layer works on. Padding never is.
        arrays: Names of arrays that it needs.
        fixed: Whether how many go through is known before the input is.
        keeps_protected: Whether protected tokens always go through.
        falls: Whether a higher `keep_rate` or a lower threshold only adds tokens.
    """

    kind: str
    through: Callable[[Skim, int, Tokens], Bool]
    arrays: tuple[str, ...] = ()
    fixed: bool = False
    keeps_protected: bool = True
    falls: bool = True


def best(scores: F64, counts: I64, tokens: Tokens) -> Bool:
    """The protected tokens and the best of those alive, up to the counts [B], as a mask [B, n].

    Equal scores go to the earlier position.
    """
    ranked = np.where(tokens.protected, np.inf, scores)
    ranked = np.where(tokens.alive & tokens.own, ranked, -np.inf)
    rank = np.argsort(np.argsort(-ranked, axis=-1, kind="stable"), axis=-1, kind="stable")
    chosen: Bool = (rank < counts[:, None]) & tokens.alive & tokens.own
    return chosen


def blocks(scores: F64, size: int, own: Bool) -> F64:
    """Mean score of each run of `size` own tokens, at each token of the run [B, n]."""
    if size == 1:
        return scores
    n = scores.shape[-1]
    starts = np.arange(0, n, size)
    total = np.add.reduceat(np.where(own, scores, 0.0), starts, axis=-1)
    count = np.add.reduceat(own.astype(np.float64), starts, axis=-1)
    mean = total / np.maximum(count, 1.0)
    return np.repeat(mean, size, axis=-1)[..., :n]


def alive_after(skim: Skim, tokens: Tokens, through: Bool) -> Bool:
    """Tokens that later layers may still work on [B, n]: dropped ones do not return."""
    if skim.skipped == "drop":
        return tokens.alive & through
    return tokens.alive


def answered(skim: Skim, tokens: Tokens, alive: Bool) -> Bool:
    """Positions that the head sees [B, n]: all of the sample's own where tokens are restored."""
    return tokens.own if skim.restore == "last_layer" else alive & tokens.own


def protected_positions(
    names: tuple[str, ...], lengths: NDArray[Any], width: int, question: NDArray[Any] | None = None
) -> Bool:
    """Tokens that are never skimmed [B, width].

    Args:
        names: Of "cls" and "first" (position 0), "sep" and "last" (last own position), "question".
        lengths: Own tokens [B].
        width: n.
        question: Which tokens belong to the question [B, n].
    """
    size = np.asarray(lengths, dtype=np.int64)[:, None]
    at = np.arange(width)
    chosen = np.zeros((size.shape[0], width), dtype=bool)
    if {"cls", "first"} & set(names):
        chosen |= at == 0
    if {"sep", "last"} & set(names):
        chosen |= at == size - 1
    if "question" in names and question is not None:
        chosen |= np.asarray(question, dtype=bool)
    return chosen & (at < size)
