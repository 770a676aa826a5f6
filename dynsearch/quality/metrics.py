"""Errors and other metrics, their differences on the same rows, and intervals around them.

Paired differences compare two predictors on the same N rows. For the error only the rows on which
exactly one of them is right matter: `lost` rows (the reference is right, the policy is wrong) and
`gained` rows (the other way round). loss = (lost - gained) / N.

Every metric has a *badness* that is minimised: 1 - metric, and the negative log likelihood as it
is. A loss is the policy's badness minus the reference's. Standard errors come from influence
functions (Hampel 1974): row i moves the metric by influence_i / N, so the difference of two
metrics on the same rows has variance sum_i (influence_i - reference's influence_i)^2 / N^2; for
the error this is the Wald formula of `paired_difference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

BOUND_Z = 1.28  # standard errors in `error_bound`: one-sided 90 %
METRICS = ("accuracy", "macro_f1", "mcc", "nll", "worst_class")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTable:
    """How two predictors answer the same N rows. Arrays of any one shape."""

    both_right: NDArray[np.int64]
    lost: NDArray[np.int64]  # reference right, policy wrong
    gained: NDArray[np.int64]  # reference wrong, policy right
    both_wrong: NDArray[np.int64]

    @property
    def n(self) -> NDArray[np.int64]:
        """N."""
        return self.both_right + self.lost + self.gained + self.both_wrong


def paired_table(right: NDArray[Any], reference_right: NDArray[Any]) -> PairedTable:
    """Counts over the last axis of `right` [..., N] against the reference's [N], booleans."""
    right = np.asarray(right, dtype=bool)
    reference = np.asarray(reference_right, dtype=bool)

    def count(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.asarray(rows.sum(axis=-1, dtype=np.int64))

    return PairedTable(
        both_right=count(right & reference),
        lost=count(~right & reference),
        gained=count(right & ~reference),
        both_wrong=count(~right & ~reference),
    )


def paired_difference(lost: ArrayLike, gained: ArrayLike, n: ArrayLike) -> tuple[F64, F64]:
    """Loss and its standard error, sqrt(lost + gained - (lost - gained)^2 / N) / N (Wald).

    Args:
        lost: Rows that only the reference gets right, any shape.
        gained: Rows that only the policy gets right.
        n: N.

    Returns:
        `(loss, se)` as shares of rows.
    """
    lost, gained = np.asarray(lost, dtype=np.float64), np.asarray(gained, dtype=np.float64)
    n = np.asarray(n, dtype=np.float64)
    net = lost - gained
    variance = np.maximum(lost + gained - net**2 / n, 0.0)
    return net / n, np.sqrt(variance) / n


def error_bound(
    reference_error: ArrayLike, loss: ArrayLike, se: ArrayLike, z: float = BOUND_Z
) -> F64:
    """What ranks policies: the full network's error + paired loss + 1.28 standard errors."""
    full = np.asarray(reference_error, dtype=np.float64)
    bound: F64 = full + np.asarray(loss) + z * np.asarray(se)
    return bound


def wilson_interval(successes: ArrayLike, n: ArrayLike, *, level: float = 0.95) -> tuple[F64, F64]:
    """Score interval of a share (Wilson 1927): good at 0 and 1 and for few rows.

    Args:
        successes: Count, any shape.
        n: Rows.
        level: Two-sided coverage.

    Returns:
        `(low, high)`.
    """
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z = _z(level)
    share, scale = k / n, 1.0 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return np.where(k == 0, 0.0, centre - half), np.where(k == n, 1.0, centre + half)


def paired_interval(table: PairedTable, *, level: float = 0.95) -> tuple[F64, F64]:
    """Interval of the loss (Newcombe 1998, method 10): Wilson limits joined by correlation.

    Unlike the Wald interval it has a width when no row differs, and stays inside [-1, 1].

    Args:
        table: Counts, any shape.
        level: Two-sided coverage.

    Returns:
        `(low, high)` of loss = reference's accuracy - policy's accuracy.
    """
    a, b = table.both_right.astype(np.float64), table.lost.astype(np.float64)
    c, d = table.gained.astype(np.float64), table.both_wrong.astype(np.float64)
    n = a + b + c + d
    reference, policy = (a + b) / n, (a + c) / n
    low1, high1 = wilson_interval(a + b, n, level=level)
    low2, high2 = wilson_interval(a + c, n, level=level)
    phi = _phi(a, b, c, d)

    def joined(first: F64, second: F64) -> F64:
        return np.sqrt(np.maximum(first**2 - 2 * phi * first * second + second**2, 0.0))

    loss = reference - policy
    low = loss - joined(reference - low1, high2 - policy)
    high = loss + joined(high1 - reference, policy - low2)
    return low, high


@dataclass(frozen=True, slots=True)
class Answers:
    """What predictors say of the same N rows; `[..., N]`, usually [B, N]."""

    predicted: NDArray[np.int64]  # class
    nll: F64 | None = None  # of the true class, nats; None where no metric asks for it

    def row(self, b: int) -> Answers:
        """Predictor b alone [1, N]."""
        return Answers(
            self.predicted[b : b + 1], None if self.nll is None else self.nll[b : b + 1]
        )


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Rows (or resampled rows) by class [..., C]: all of a confusion matrix that is needed."""

    right: F64  # of the class and answered so
    given: F64  # answered so
    true: F64  # of the class

    @property
    def n(self) -> F64:
        """Rows in all [...]."""
        return np.asarray(self.true.sum(axis=-1))


def log_loss(logits: NDArray[Any], labels: NDArray[np.int64], temperature: float = 1.0) -> F64:
    """Negative log likelihood in nats, -log softmax(logits / temperature)[label].

    Args:
        logits: [..., C].
        labels: [...], or what broadcasts to it.
        temperature: Divides the logits, as it does before an exit's score.
    """
    z = np.asarray(logits, dtype=np.float64) / temperature
    z = z - z.max(axis=-1, keepdims=True)
    where = np.broadcast_to(labels, z.shape[:-1])[..., None]
    own = np.take_along_axis(z, where, axis=-1)[..., 0]
    return np.asarray(np.log(np.exp(z).sum(axis=-1)) - own)


def class_counts(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> ClassCounts:
    """Counts [B, C] of answers [B, N] to rows with labels [N]."""
    size = predicted.shape[0]
    answer = predicted + num_classes * np.arange(size)[:, None]

    def count(cells: NDArray[np.int64]) -> F64:
        found = np.bincount(cells, minlength=size * num_classes)
        return found.reshape(size, num_classes).astype(np.float64)

    true = np.bincount(labels, minlength=num_classes).astype(np.float64)
    return ClassCounts(
        right=count(answer[predicted == labels]),
        given=count(answer.ravel()),
        true=np.broadcast_to(true, (size, num_classes)),
    )


def metric_value(metric: str, counts: ClassCounts) -> F64:
    """A metric [...] of METRICS other than "nll" from class counts [..., C].

    accuracy: share of right answers. macro_f1: mean over classes of 2 right / (given + true), 0
    for a class neither given nor true. mcc: Gorodkin's R_K (2004), 0 where all answers or all
    rows are of one class. worst_class: lowest share of a class's rows that are right, over the
    classes that have rows.
    """
    right, given, true, n = counts.right, counts.given, counts.true, counts.n
    if metric == "accuracy":
        return np.asarray(right.sum(axis=-1) / n)
    if metric == "macro_f1":
        return np.asarray(_share(2 * right, given + true).mean(axis=-1))
    if metric == "worst_class":
        return np.asarray(np.where(true > 0, _share(right, true), np.inf).min(axis=-1))
    top, spread_given, spread_true = _mcc_parts(counts)
    return _share(top, np.sqrt(spread_given * spread_true))


def badness(metric: str, value: F64) -> F64:
    """What is minimised: the negative log likelihood itself, else 1 - metric."""
    return value if metric == "nll" else 1.0 - value


def metric_badness(
    metric: str, labels: NDArray[np.int64], answers: Answers, num_classes: int
) -> F64:
    """Badness [B] of answers [B, N] to rows with labels [N]."""
    if metric == "nll":
        assert answers.nll is not None
        return np.asarray(answers.nll.mean(axis=-1))
    return 1.0 - metric_value(metric, class_counts(labels, answers.predicted, num_classes))


def influence(
    metric: str, labels: NDArray[np.int64], answers: Answers, num_classes: int
) -> tuple[F64, F64]:
    """Badness [B], and how each row moves it [B, N], see the module's docstring.

    Every count metric moves by right * hit[label] - or nothing - plus own[label] plus
    given[answer], with three vectors over classes. Where a metric has a kink (another class
    becomes the worst one) or no derivative (mcc of a constant answer) the vectors are those of
    the class that is worst now, and zero.
    """
    if metric == "nll":
        assert answers.nll is not None
        mean = answers.nll.mean(axis=-1)
        return mean, answers.nll - mean[:, None]
    counts = class_counts(labels, answers.predicted, num_classes)
    value = metric_value(metric, counts)
    hit, own, given = _derivatives(metric, counts, value)
    flat = answers.predicted + num_classes * np.arange(len(value))[:, None]
    moved = np.where(answers.predicted == labels, (hit + own)[:, labels], own[:, labels])
    if given.any():
        moved += np.take(given.ravel(), flat)
    return 1.0 - value, -moved


def paired_metric(
    metric: str,
    labels: NDArray[np.int64],
    answers: Answers,
    reference: Answers,
    num_classes: int,
) -> tuple[F64, F64, F64]:
    """Badness, paired loss and its standard error, [B] each.

    Args:
        metric: One of METRICS.
        labels: [N].
        answers: Of B policies [B, N].
        reference: Of the full network [1, N].
        num_classes: C.
    """
    value, moved = influence(metric, labels, answers, num_classes)
    base, base_moved = influence(metric, labels, reference, num_classes)
    moved = moved - base_moved
    se = np.sqrt(np.einsum("bn,bn->b", moved, moved)) / labels.size
    return value, value - base, se


def majority_badness(metric: str, labels: ArrayLike, num_classes: int) -> float:
    """Badness of the best answer that does not look at its input: the most frequent class.

    For the negative log likelihood, the shares of the classes: the entropy of the labels.
    """
    labels = np.asarray(labels, dtype=np.int64)
    counts = np.bincount(labels, minlength=num_classes)
    if metric == "nll":
        share = counts[counts > 0] / labels.size
        return float(-(share * np.log(share)).sum())
    if metric == "accuracy":
        return majority_class_error(labels)
    constant = Answers(np.full((1, labels.size), int(counts.argmax())))
    return float(metric_badness(metric, labels, constant, num_classes)[0])


def majority_class_error(labels: ArrayLike) -> float:
    """Error of always answering the most frequent class. Labels [N], integers from 0."""
    labels = np.asarray(labels)
    return 1.0 - float(np.bincount(labels).max()) / labels.size


def _derivatives(metric: str, counts: ClassCounts, value: F64) -> tuple[F64, F64, F64]:
    """`hit`, `own`, `given` [B, C] of `influence`: N times the derivatives by the counts."""
    right, given, true = counts.right, counts.given, counts.true
    n, none = counts.n[:, None], np.zeros_like(right)
    if metric == "accuracy":
        return none + 1.0, none - value[:, None], none
    if metric == "macro_f1":
        whole = given + true
        pull = _share(n / right.shape[-1], whole) * _share(2 * right, whole)
        return _share(2 * n / right.shape[-1], whole), -pull, -pull
    if metric == "worst_class":
        shares = np.where(true > 0, _share(right, true), np.inf)
        worst = np.arange(right.shape[-1]) == shares.argmin(axis=-1)[:, None]
        slope = np.where(worst, _share(n, true), 0.0)
        return slope, -slope * value[:, None], none
    _, a, b = (x[:, None] for x in _mcc_parts(counts))
    root, c = np.sqrt(a * b), right.sum(axis=-1, keepdims=True)
    mcc = value[:, None]
    by_own = _share(n * (c - given), root) - mcc * _share(n * (n - true), b)
    by_given = -_share(n * true, root) - mcc * _share(n * (n - given), a)
    flat = root == 0
    return _share(n * n, root) + none, np.where(flat, 0.0, by_own), np.where(flat, 0.0, by_given)


def _mcc_parts(counts: ClassCounts) -> tuple[F64, F64, F64]:
    """Terms of R_K: c s - sum p t, s^2 - sum p^2, s^2 - sum t^2, [...] each."""
    right, given, true, n = counts.right, counts.given, counts.true, counts.n
    return (
        right.sum(axis=-1) * n - (given * true).sum(axis=-1),
        n**2 - (given**2).sum(axis=-1),
        n**2 - (true**2).sum(axis=-1),
    )


def _share(part: ArrayLike, whole: ArrayLike) -> F64:
    """The quotient, 0 where whole is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)


def _phi(a: F64, b: F64, c: F64, d: F64) -> F64:
    """Correlation of the two answers, with Newcombe's continuity correction where positive."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    product = a * d - b * c
    corrected = np.where(product > 0, np.maximum(product - (a + b + c + d) / 2, 0.0), product)
    return np.where(margins > 0, corrected / np.sqrt(np.maximum(margins, 1.0)), 0.0)


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)
