"""What every exit criterion declares, and the softmax that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.parts import Exits

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the active exits of N samples know, in order. X early exits.

    Attributes:
        logits: [N, X, C], divided by their temperatures and aggregated (`exits.decisions`).
        votes: Class that each exit alone names [N, X].
        layers: Layer of each exit [X], 1-based, ascending.
        temperature: What the logits were divided by [X]; 1 where they were aggregated.
        aux: Named trace arrays at the exits, each [N, X]; those that the criterion declares.
    """

    logits: F64
    votes: NDArray[np.int64]
    layers: NDArray[np.int64]
    temperature: F64
    aux: Mapping[str, NDArray[Any]]

    def array(self, name: str) -> F64:
        """A declared array [N, X] in float64."""
        return np.asarray(self.aux[name], dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregator:
    """What exits answer together: logits of exits in order -> logits of each answer.

    Attributes:
        kind: Name in files.
        combine: Logits [N, K, C], layers [K], depth, the policy -> [N, K, C]; what stands at an
            exit depends on it and the exits before it alone.
    """

    kind: str
    combine: Callable[[F64, NDArray[np.int64], int, Exits], F64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitCriterion:
    """One exit criterion. A sample leaves where `score >= threshold`; larger = surer.

    A criterion is a `score` of one exit's logits alone, or a `trail` over the active exits where
    it needs more (earlier exits, trace arrays, parameters). One that `counts` leaves at the
    `patience`-th exit in a row whose score reaches its threshold.

    Attributes:
        kind: Name in files.
        score: logits [..., C], temperature -> float64 [...]; None: logits alone do not tell.
        always_exits_at: C -> the score that every sample reaches: a threshold at or below it
            leaves at the first exit. None where no such score exists.
        highest: The score of a certain prediction; a threshold above it never leaves. None
            where there is none.
        aux: Names of trace arrays that it needs besides the logits.
        trail: The policy's record and the evidence of its exits -> float64 [N, X].
        has_thresholds: Whether the record's thresholds are compared with the scores. Where not,
            a criterion that does not count leaves where its score reaches 0.
        counts: Whether it leaves after `patience` exits in a row.
        compares: Whether an exit is compared with the one before; the first then has nothing to
            be compared with and never counts.
        first_scores: What every sample scores at the first exit; None: samples differ there.
        needs_classes: Whether a regression head has no such score.
        fixed: Whether it is known before the input is run: no trace is needed for time.
        needs_labels: Whether it can only be simulated, on labelled samples.
        fields: Fields of the record that it reads -> a sensible value. A field whose default is
            None or empty must be set.
    """

    kind: str
    score: Callable[[NDArray[Any], float], F64] | None = None
    always_exits_at: Callable[[int], float] | None = None
    highest: float | None = None
    aux: tuple[str, ...] = ()
    trail: Callable[[Exits, Evidence], F64] | None = None
    has_thresholds: bool = True
    counts: bool = False
    compares: bool = False
    first_scores: float | None = None
    needs_classes: bool = True
    fixed: bool = False
    needs_labels: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)

    def scores(self, exits: Exits, seen: Evidence) -> F64:
        """Score of each early exit [N, X], larger = surer.

        Raises:
            ValueError: the criterion declares neither a score nor a trail.
        """
        if self.trail is not None:
            return self.trail(exits, seen)
        if self.score is None:
            raise ValueError(f"criterion {self.kind} declares neither a score nor a trail")
        return self.score(seen.logits, 1.0)

    def legal_range(self, num_classes: int) -> tuple[float, float] | None:
        """Thresholds (low, high] that decide anything, None where there is no threshold."""
        if not self.has_thresholds:
            return None
        low = -math.inf if self.always_exits_at is None else self.always_exits_at(num_classes)
        return low, math.inf if self.highest is None else self.highest


def log_softmax(logits: NDArray[Any], temperature: float) -> F64:
    """Stable log-probabilities in float64.

    Args:
        logits: [..., C], any float type.
        temperature: Divides the logits; above 0.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    log_sum: F64 = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    result: F64 = shifted - log_sum
    return result


def softmax(logits: NDArray[Any], temperature: float) -> F64:
    """Stable probabilities in float64, shapes as `log_softmax`."""
    return np.exp(log_softmax(logits, temperature))


def entropy_nats(logits: NDArray[Any], temperature: float) -> F64:
    """H = -sum p ln p in nats [...], 0 ln 0 = 0."""
    logs = log_softmax(logits, temperature)
    entropy: F64 = -(np.exp(logs) * logs).sum(axis=-1)
    return entropy


def run_lengths(
    passes: NDArray[np.bool_], restart: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Length of the run of passes that ends at each exit.

    Args:
        passes: [..., X].
        restart: Where a run that breaks begins anew with a length of 1 [..., X]; None: nowhere.

    Returns:
        Counts [..., X].
    """
    counts = np.zeros(passes.shape, dtype=np.int64)
    before = np.zeros(passes.shape[:-1], dtype=np.int64)
    for x in range(passes.shape[-1]):
        broken = 0 if restart is None else restart[..., x].astype(np.int64)
        before = np.where(passes[..., x], before + 1, broken)
        counts[..., x] = before
    return counts
