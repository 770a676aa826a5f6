"""Figures of a front's configurations on rows of every length."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.front_quality import bucket_of, length_buckets, length_edges, quality_figures
from dynsearch.quality.metrics import METRICS, paired_interval, paired_table
from search_spaces.candidate import static_policies

from .sim.replay_cases import make_trace

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=60).map(np.array)


@given(LENGTHS, LENGTHS)
def test_buckets_hold_every_row_once_and_a_quarter_each_where_lengths_differ(search, report):
    buckets = length_buckets(search, report)
    assert sum(b.selected_n for b in buckets) == search.size
    assert sum(b.confirmed_n for b in buckets) == report.size
    assert 1 <= len(buckets) <= 4
    assert (buckets[0].shortest, buckets[-1].longest) == (search.min(), search.max())
    for b in buckets:
        assert b.selected_n == ((search >= b.shortest) & (search <= b.longest)).sum()
    assert all(a.longest + 1 == b.shortest for a, b in pairwise(buckets))
    distinct = length_buckets(np.arange(40), None)
    assert [b.selected_n for b in distinct] == [10] * 4
    assert all(b.confirmed_n is None for b in distinct)


def test_rows_beyond_the_ends_belong_to_the_end_buckets():
    edges = length_edges(np.arange(10, 20))
    assert bucket_of(np.array([2, 10, 19, 99]), edges).tolist() == [0, 0, 3, 3]


def test_figures_are_accuracies_by_bucket_and_newcombes_interval():
    trace = make_trace(np.random.default_rng(0), 200, 4, 3)
    policies = static_policies([2, 4], num_layers=4, exit_batching="serial")
    edges = length_edges(trace.lengths)
    shallow, whole = quality_figures(trace, policies, trace, edges)
    right = trace.logits.argmax(-1) == trace.labels[:, None]
    low, high = paired_interval(paired_table(right[:, 1], right[:, 3]))
    assert (shallow.low["accuracy"], shallow.high["accuracy"]) == (low, high)
    assert shallow.loss["accuracy"] == pytest.approx(right[:, 3].mean() - right[:, 1].mean())
    rows = bucket_of(trace.lengths, edges)
    weights = np.bincount(rows) / rows.size
    assert np.dot(weights, shallow.by_length) == pytest.approx(shallow.value["accuracy"])
    for metric in METRICS:
        assert whole.loss[metric] == 0.0
        assert whole.low[metric] <= 0.0 <= whole.high[metric]
        assert shallow.low[metric] < shallow.loss[metric] < shallow.high[metric]
    assert shallow.loss["nll"] == pytest.approx(shallow.value["nll"] - whole.value["nll"])
