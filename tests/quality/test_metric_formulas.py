"""Metrics beyond the error, against loops over rows, closed forms, and derivatives by rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.quality.bootstrap import SEED, paired_bootstrap
from dynsearch.quality.metrics import (
    METRICS,
    Answers,
    badness,
    class_counts,
    influence,
    log_loss,
    majority_badness,
    metric_badness,
    metric_value,
    paired_difference,
    paired_metric,
)

COUNTED = [m for m in METRICS if m != "nll"]
C = 3


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] with every class among them, and answers [2, N]."""
    rows = draw(st.lists(st.tuples(*[st.integers(0, C - 1)] * 3), min_size=C, max_size=30))
    table = np.array(rows + [(k, k, (k + 1) % C) for k in range(C)])
    return table[:, 0], table[:, 1:].T


def brute(metric: str, labels, predicted, weight=None) -> float:
    """One metric by loops, each row counted `weight` times."""
    weight = [1.0] * len(labels) if weight is None else weight
    cell = [[0.0] * C for _ in range(C)]
    for y, p, w in zip(labels, predicted, weight, strict=True):
        cell[y][p] += w
    n = sum(map(sum, cell))
    true = [sum(cell[k]) for k in range(C)]
    given_ = [sum(cell[y][k] for y in range(C)) for k in range(C)]
    if metric == "accuracy":
        return sum(cell[k][k] for k in range(C)) / n
    if metric == "worst_class":
        return min(cell[k][k] / true[k] for k in range(C) if true[k])
    if metric == "macro_f1":
        scores = []
        for k in range(C):
            precision = cell[k][k] / given_[k] if given_[k] else 0.0
            recall = cell[k][k] / true[k] if true[k] else 0.0
            both = precision + recall
            scores.append(2 * precision * recall / both if both else 0.0)
        return sum(scores) / C
    # Gorodkin 2004: covariance of the two indicator matrices over the root of their variances
    x = [[float(p == k) for k in range(C)] for p in predicted]
    y = [[float(q == k) for k in range(C)] for q in labels]

    def cov(a, b) -> float:
        total = 0.0
        for k in range(C):
            mean_a = sum(w * r[k] for w, r in zip(weight, a, strict=True)) / n
            mean_b = sum(w * r[k] for w, r in zip(weight, b, strict=True)) / n
            total += sum(
                w * (r[k] - mean_a) * (s[k] - mean_b) for w, r, s in zip(weight, a, b, strict=True)
            )
        return total / n

    spread = cov(x, x) * cov(y, y)
    return cov(x, y) / math.sqrt(spread) if spread > 1e-15 else 0.0


@given(cases())
def test_counted_metrics_are_what_loops_over_rows_give(case):
    labels, predicted = case
    for metric in COUNTED:
        want = [brute(metric, labels, one) for one in predicted]
        got = metric_value(metric, class_counts(labels, predicted, C))
        np.testing.assert_allclose(got, want, atol=1e-12)
        np.testing.assert_allclose(
            metric_badness(metric, labels, Answers(predicted), C), 1 - got, atol=1e-12
        )


@given(cases(), st.permutations(range(C)))
def test_names_of_classes_do_not_matter(case, names):
    labels, predicted = case
    renamed = np.array(names)
    for metric in COUNTED:
        np.testing.assert_allclose(
            metric_value(metric, class_counts(labels, predicted, C)),
            metric_value(metric, class_counts(renamed[labels], renamed[predicted], C)),
            atol=1e-12,
        )


@given(cases())
def test_influence_is_the_derivative_by_the_weight_of_a_row(case):
    labels, predicted = case
    n, step = labels.size, 1e-6
    for metric in COUNTED:
        value, moved = influence(metric, labels, Answers(predicted), C)
        np.testing.assert_allclose(moved.sum(axis=1), 0.0, atol=1e-9)
        for b, one in enumerate(predicted):
            if metric == "worst_class":
                shares = sorted(np.mean(one[labels == k] == k) for k in range(C))
                if shares[1] - shares[0] < 1e-9:
                    continue  # a kink: two classes are the worst one
            if metric == "mcc" and len(set(one.tolist())) == 1:
                continue
            for i in range(0, n, 5):
                weight = np.ones(n)
                weight[i] += step
                up = 1 - brute(metric, labels, one, weight)
                assert n * (up - value[b]) / step == pytest.approx(moved[b, i], abs=1e-3)


@given(cases())
def test_the_standard_error_of_accuracy_is_the_paired_wald_formula(case):
    labels, predicted = case
    _, loss, se = paired_metric(
        "accuracy", labels, Answers(predicted[:1]), Answers(predicted[1:]), C
    )
    right = predicted == labels
    lost, gained = (~right[0] & right[1]).sum(), (right[0] & ~right[1]).sum()
    want_loss, want_se = paired_difference(lost, gained, labels.size)
    assert loss[0] == pytest.approx(want_loss, abs=1e-12)
    assert se[0] == pytest.approx(want_se, abs=1e-12)


@given(cases())
def test_the_reference_against_itself_has_no_loss_and_no_error_at_all(case):
    labels, predicted = case
    nll = np.random.default_rng(0).exponential(size=predicted.shape)
    for metric in METRICS:
        _, loss, se = paired_metric(
            metric, labels, Answers(predicted, nll), Answers(predicted[:1], nll[:1]), C
        )
        assert loss[0] == 0.0
        assert se[0] == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_standard_errors_agree_with_a_bootstrap_of_many_rows(metric):
    rng = np.random.default_rng(1)
    n = 3000
    labels = rng.choice(C, n, p=(0.5, 0.3, 0.2))
    sure = np.array([1.0, 1.6])[:, None] * np.array([1.0, 1.0, 0.4])  # the last class is worst
    logits = rng.normal(size=(2, n, C)) + sure[:, labels, None] * np.eye(C)[labels]
    answers = Answers(logits.argmax(-1), log_loss(logits, labels))
    policy, full = answers.row(0), answers.row(1)
    _, loss, se = paired_metric(metric, labels, policy, full, C)
    low, high = paired_bootstrap(labels, policy, full, C)[metric]
    assert low[0] < loss[0] < high[0]
    assert (high[0] - low[0]) / (2 * 1.96) == pytest.approx(se[0], rel=0.12)
    again = paired_bootstrap(labels, policy, full, C)[metric]
    assert (low[0], high[0]) == (again[0][0], again[1][0])


def test_bootstrap_intervals_are_quantiles_over_resampled_rows():
    rng = np.random.default_rng(3)
    n = 25
    labels = rng.integers(0, C, n)
    predicted = np.where(rng.random((2, n)) < 0.6, labels, rng.integers(0, C, (2, n)))
    nll = rng.exponential(size=(2, n))
    answers = Answers(predicted, nll)
    got = paired_bootstrap(labels, answers.row(0), answers.row(1), C)
    stream = np.random.default_rng(SEED)
    draws = np.concatenate([stream.integers(0, n, (100, n)) for _ in range(10)])
    for metric in METRICS:
        losses = []
        for rows in draws:
            if metric == "nll":
                losses.append((nll[0, rows] - nll[1, rows]).mean())
            else:
                own, full = (brute(metric, labels[rows], p[rows]) for p in predicted)
                losses.append(full - own)
        want = np.quantile(losses, [0.025, 0.975])
        np.testing.assert_allclose([got[metric][0][0], got[metric][1][0]], want, atol=1e-12)


def test_closed_forms():
    labels = np.array([0, 0, 0, 1, 1])
    predicted = np.array([[0, 0, 1, 1, 0], [0, 0, 0, 1, 1], [1, 1, 1, 0, 0], [0] * 5])
    counts = class_counts(labels, predicted, 2)
    tp, fn, fp, tn = 2, 1, 1, 1
    phi = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    np.testing.assert_allclose(metric_value("mcc", counts), [phi, 1, -1, 0], atol=1e-12)
    f1 = (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn)) / 2
    np.testing.assert_allclose(metric_value("macro_f1", counts), [f1, 1, 0, 0.375])
    np.testing.assert_allclose(metric_value("worst_class", counts), [0.5, 1, 0, 0])
    np.testing.assert_allclose(badness("nll", np.array([0.7])), [0.7])


@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=6),
    st.floats(0.1, 10),
    st.integers(0, 5),
    st.floats(-100, 100),
)
def test_nll_is_minus_the_log_of_the_softmax_at_a_temperature(logits, temperature, label, shift):
    label %= len(logits)
    shares = [math.exp((x - max(logits)) / temperature) for x in logits]
    want = -math.log(shares[label] / sum(shares)) if shares[label] else None
    got = log_loss(np.array([logits]), np.array([label]), temperature)
    if want is not None:
        assert got[0] == pytest.approx(want, abs=1e-9)
    moved = log_loss(np.array([logits]) + shift, np.array([label]), temperature)
    assert moved[0] == pytest.approx(got[0], abs=1e-9)


def test_nll_of_even_shares_is_the_log_of_their_number_and_stays_finite():
    assert log_loss(np.zeros((1, 7)), np.array([3]))[0] == pytest.approx(math.log(7))
    assert log_loss(np.array([[1e4, 0.0]]), np.array([1]))[0] == pytest.approx(1e4)


@given(cases())
def test_no_constant_answer_is_better_than_the_majority(case):
    labels, _ = case
    shares = np.bincount(labels, minlength=C) / labels.size
    for metric in COUNTED:
        constant = np.repeat(np.arange(C)[:, None], labels.size, axis=1)
        best = metric_badness(metric, labels, Answers(constant), C).min()
        assert majority_badness(metric, labels, C) == pytest.approx(best)
    guess = log_loss(np.log(shares)[None].repeat(labels.size, axis=0), labels).mean()
    assert majority_badness("nll", labels, C) == pytest.approx(guess)
