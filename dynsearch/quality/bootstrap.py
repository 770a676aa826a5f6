"""Paired bootstrap: intervals of the losses of all metrics from one set of resampled rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynsearch.quality.metrics import F64, METRICS, Answers, ClassCounts, metric_value

DRAWS, SEED = 1000, 0
_AT_ONCE = 100  # resamples held at a time


def paired_bootstrap(
    labels: NDArray[np.int64],
    answers: Answers,
    reference: Answers,
    num_classes: int,
    *,
    level: float = 0.95,
    seed: int = SEED,
) -> dict[str, tuple[F64, F64]]:
    """Percentile intervals of the loss by metric: the same 1,000 resamples of rows for all.

    Args:
        labels: [N].
        answers: Of B policies [B, N], with their negative log likelihoods.
        reference: Of the full network [1, N].
        num_classes: C.
        level: Two-sided coverage.
        seed: Of the resamples.
    """
    assert answers.nll is not None
    assert reference.nll is not None
    rng, n = np.random.default_rng(seed), labels.size
    parts: dict[str, list[F64]] = {metric: [] for metric in METRICS}
    nll = np.concatenate([answers.nll, reference.nll])  # [B + 1, N]
    classes = np.arange(num_classes)
    is_true = (labels[:, None] == classes).astype(np.float64)  # [N, C]
    for _ in range(DRAWS // _AT_ONCE):
        drawn = rng.integers(0, n, (_AT_ONCE, n)) + n * np.arange(_AT_ONCE)[:, None]
        often = np.bincount(drawn.ravel(), minlength=_AT_ONCE * n).reshape(-1, n)
        weight = often.astype(np.float64)  # [R, N]
        found: dict[str, list[F64]] = {metric: [] for metric in METRICS}
        for predicted in (*answers.predicted, reference.predicted[0]):
            given = (predicted[:, None] == classes).astype(np.float64)
            counts = ClassCounts(
                right=weight @ (given * is_true), given=weight @ given, true=weight @ is_true
            )
            for metric in METRICS:
                if metric != "nll":
                    found[metric].append(1.0 - metric_value(metric, counts))
        found["nll"] = list((weight @ nll.T / n).T)
        for metric, values in found.items():
            parts[metric].append(np.stack(values[:-1]) - values[-1])  # [B, R]
    ends = [(1 - level) / 2, (1 + level) / 2]
    out = {}
    for metric, losses in parts.items():
        low, high = np.quantile(np.concatenate(losses, axis=1), ends, axis=1)
        out[metric] = (low, high)
    return out
