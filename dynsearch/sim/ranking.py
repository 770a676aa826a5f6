"""Ranking of policies by a metric other than the error, from the layers where samples leave.

The error needs counts of right answers alone, which sets of samples give at once; other metrics
need each sample's answer. A `Judge` gets the layers of a block of policies and gives their
figures in one go, so that the search tries as many policies as it does for the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dynsearch.quality.metrics import (
    Answers,
    log_loss,
    majority_badness,
    metric_badness,
    paired_metric,
)
from dynsearch.quality.trace import Trace

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """A metric, and what the full network answers on the same N rows."""

    metric: str
    labels: I64  # [N]
    full: Answers  # [1, N]
    num_classes: int

    @classmethod
    def of(cls, metric: str, full: Trace) -> Self | None:
        """Ranking against the last layer of the full network's trace; None for the error."""
        if metric == "accuracy":
            return None
        return cls(
            metric=metric,
            labels=full.labels,
            full=last_answers(full),
            num_classes=full.logits.shape[-1],
        )

    @property
    def full_error(self) -> float:
        """The full network's badness."""
        return float(metric_badness(self.metric, self.labels, self.full, self.num_classes)[0])

    @property
    def majority_error(self) -> float:
        """Badness of an answer that does not look at its input."""
        return majority_badness(self.metric, self.labels, self.num_classes)


def last_answers(trace: Trace) -> Answers:
    """Answers [1, N] of the last layer, at temperature 1."""
    logits = trace.logits[:, -1]
    return Answers(logits.argmax(axis=-1)[None], log_loss(logits, trace.labels)[None])


def error_of(metric: str, full: Trace) -> float:
    """What the full network scores: its error, or its badness by another metric."""
    ranking = Ranking.of(metric, full)
    if ranking is None:
        return float(np.mean(full.logits[:, -1].argmax(axis=-1) != full.labels))
    return ranking.full_error


class Judge:
    """Figures of policies of one temperature, from the layers where samples leave."""

    def __init__(self, ranking: Ranking, trace: Trace, temperature: float) -> None:
        """Tabulate what each exit answers.

        Args:
            ranking: The metric and the full network's answers.
            trace: Whose policies are judged, on the same rows.
            temperature: Of the policies.
        """
        self._ranking = ranking
        self._layers = trace.num_layers
        self._rows = np.arange(trace.num_samples) * trace.num_layers
        self._predicted = trace.logits.argmax(axis=-1).ravel()  # [N * L]
        self._nll: F64 | None = None
        if ranking.metric == "nll":
            self._nll = log_loss(trace.logits, trace.labels[:, None], temperature).ravel()

    def answers(self, where: NDArray[np.uint8] | I64) -> Answers:
        """Answers [R, N] of the exits after 0-based layers `where` [R, N]."""
        cells = where + self._rows
        predicted = np.take(self._predicted, cells)
        return Answers(predicted, None if self._nll is None else np.take(self._nll, cells))

    def __call__(self, where: NDArray[np.uint8]) -> F64:
        """Badness, paired loss and its standard error [R, 3]."""
        r = self._ranking
        found = paired_metric(r.metric, r.labels, self.answers(where), r.full, r.num_classes)
        return np.stack(found, axis=1)
