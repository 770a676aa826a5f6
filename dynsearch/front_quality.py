"""Every quality metric of the front's configurations, and their accuracy by length of the text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynsearch.export.records import LengthBucket, QualityFigures
from dynsearch.quality.bootstrap import paired_bootstrap
from dynsearch.quality.metrics import (
    METRICS,
    Answers,
    badness,
    class_counts,
    log_loss,
    metric_badness,
    metric_value,
    paired_interval,
    paired_table,
)
from dynsearch.quality.trace import Trace
from dynsearch.sim.decide import exit_layers
from dynsearch.sim.ranking import last_answers
from search_spaces.candidate import PolicyBatch

BUCKETS = 4
I64 = NDArray[np.int64]


def length_edges(lengths: I64) -> I64:
    """Longest length of each bucket [K], K <= 4: quartiles of the search rows' lengths.

    Quartiles are lengths that occur (numpy's "inverted_cdf"); equal ones make one bucket.
    """
    shares = np.arange(1, BUCKETS + 1) / BUCKETS
    edges: I64 = np.unique(np.quantile(lengths, shares, method="inverted_cdf").astype(np.int64))
    return edges


def bucket_of(lengths: I64, edges: I64) -> I64:
    """Bucket [N] of each length: the first whose edge is no shorter, else the last."""
    found: I64 = np.minimum(np.searchsorted(edges, lengths), edges.size - 1)
    return found


def length_buckets(search: I64, report: I64 | None) -> tuple[LengthBucket, ...]:
    """Edges and rows of the buckets, from lengths of search rows and, once known, report rows."""
    edges = length_edges(search)
    starts = [int(search.min()), *(int(e) + 1 for e in edges[:-1])]

    def rows(lengths: I64) -> list[int]:
        return [int(n) for n in np.bincount(bucket_of(lengths, edges), minlength=edges.size)]

    confirmed: list[int | None] = [None] * edges.size
    if report is not None:
        confirmed = [*rows(report)]
    return tuple(
        LengthBucket(shortest=low, longest=int(high), selected_n=n, confirmed_n=m)
        for low, high, n, m in zip(starts, edges, rows(search), confirmed, strict=True)
    )


def policy_answers(trace: Trace, policies: PolicyBatch) -> Answers:
    """What P policies answer [P, N], with likelihoods at each policy's own temperature."""
    where = exit_layers(trace.logits, policies)
    rows = np.arange(trace.num_samples)
    logits = trace.logits[rows, where]  # [P, N, C]
    nll = [
        log_loss(part, trace.labels, float(temperature))
        for part, temperature in zip(logits, policies.temperature, strict=True)
    ]
    return Answers(logits.argmax(axis=-1), np.stack(nll))


def quality_figures(
    trace: Trace, policies: PolicyBatch, full: Trace, edges: I64
) -> list[QualityFigures]:
    """Every metric of P policies on the rows of a trace, beside the full network's.

    Args:
        trace: Of the policies' outer setting.
        policies: P policies.
        full: The full network's trace of the same rows.
        edges: Of the length buckets, from `length_edges` of the search rows.
    """
    labels, classes = trace.labels, trace.logits.shape[-1]
    answers, reference = policy_answers(trace, policies), last_answers(full)
    ends = paired_bootstrap(labels, answers, reference, classes)
    right = answers.predicted == labels
    table = paired_table(right, reference.predicted[0] == labels)
    ends["accuracy"] = paired_interval(table)
    counts = class_counts(labels, answers.predicted, classes)
    assert answers.nll is not None
    value = {m: metric_value(m, counts) for m in METRICS if m != "nll"}
    value["nll"] = answers.nll.mean(axis=-1)
    base = {m: float(metric_badness(m, labels, reference, classes)[0]) for m in METRICS}
    bucket = bucket_of(trace.lengths, edges)
    inside = [bucket == k for k in range(edges.size)]
    return [
        QualityFigures(
            n=trace.num_samples,
            value={m: float(value[m][p]) for m in METRICS},
            loss={m: float(badness(m, value[m][p]) - base[m]) for m in METRICS},
            low={m: float(ends[m][0][p]) for m in METRICS},
            high={m: float(ends[m][1][p]) for m in METRICS},
            by_length=tuple(float(right[p, k].mean()) if k.any() else None for k in inside),
        )
        for p in range(len(policies))
    ]
