"""Replay ranked by another metric is what each policy's own answers, one by one, are worth."""

from __future__ import annotations

import numpy as np
import pytest

from dynsearch.quality.metrics import METRICS, Answers, log_loss, metric_badness, paired_metric
from dynsearch.search.inner import InnerProblem, search_inner
from dynsearch.search.policies import PolicyMaker
from dynsearch.sim.decide import exit_layers
from dynsearch.sim.ranking import Ranking, last_answers
from dynsearch.sim.replay import Replayer
from search_spaces.candidate import PolicyBatch, static_policies
from search_spaces.inner import InnerSpace
from search_spaces.workload import Workload

from .replay_cases import make_cost, make_trace

OTHERS = [m for m in METRICS if m != "accuracy"]
L = 4


def make_replayer(metric: str, *, classes: int = 3, batch: int = 1, n: int = 70) -> Replayer:
    rng = np.random.default_rng(classes + batch)
    trace = make_trace(rng, n, L, classes)
    return Replayer(
        trace,
        make_cost(rng, L, batch),
        workloads=[Workload(batch=batch, max_len=20)],
        correct_full=trace.logits[:, -1].argmax(-1) == trace.labels,
        ranking=Ranking.of(metric, trace),
    )


def random_policies(replayer: Replayer, count: int = 40) -> PolicyBatch:
    rng = np.random.default_rng(5)
    depth = rng.integers(1, L + 1, count)
    on = (rng.random((count, L)) < 0.6) & (np.arange(1, L + 1) < depth[:, None])
    criterion = rng.choice([0, 1, 4], count)
    thresholds = np.where(on & (criterion < 4)[:, None], rng.random((count, L)), np.inf)
    return PolicyBatch(
        depth=depth,
        exit_on=on,
        criterion=criterion,
        thresholds=thresholds,
        patience=np.where(criterion == 4, 1, 0),
        temperature=np.where(criterion == 4, 1.0, rng.choice([0.5, 1.0, 2.0], count)),
        exit_batching=rng.integers(0, 2, count),
    )


@pytest.mark.parametrize("metric", OTHERS)
@pytest.mark.parametrize(("classes", "batch"), [(2, 1), (3, 4), (3, 20)])
def test_figures_are_those_of_every_policys_own_answers(metric, classes, batch):
    replayer = make_replayer(metric, classes=classes, batch=batch)
    trace, policies = replayer.trace, random_policies(replayer)
    got = replayer.run(policies, ["latency_mean_s"])
    where = exit_layers(trace.logits, policies)
    full = last_answers(trace)
    for p in range(len(policies)):
        logits = trace.logits[np.arange(trace.num_samples), where[p]]
        nll = log_loss(logits, trace.labels, float(policies.temperature[p]))
        own = Answers(logits.argmax(-1)[None], nll[None])
        want = paired_metric(metric, trace.labels, own, full, classes)
        np.testing.assert_allclose(
            [got.error[p], got.loss[p], got.loss_se[p]], [x[0] for x in want], atol=1e-12
        )
    base = metric_badness(metric, trace.labels, full, classes)[0]
    np.testing.assert_allclose(got.error_bound, base + got.loss + 1.28 * got.loss_se)
    np.testing.assert_allclose(got.error, base + got.loss, atol=1e-12)


@pytest.mark.parametrize("metric", OTHERS)
def test_the_full_network_is_allowed_at_no_loss(metric):
    replayer = make_replayer(metric)
    whole = static_policies([L], num_layers=L, exit_batching="serial")
    got = replayer.run(whole)
    assert replayer.ranking is not None
    assert got.error_bound[0] == replayer.ranking.full_error


@pytest.mark.parametrize("metric", METRICS)
def test_exits_and_costs_do_not_depend_on_what_ranks(metric):
    replayer, plain = make_replayer(metric, batch=4), make_replayer("accuracy", batch=4)
    policies = random_policies(replayer)
    got, want = replayer.run(policies), plain.run(policies)
    np.testing.assert_array_equal(got.exits, want.exits)
    np.testing.assert_array_equal(got.cost("latency_mean_s"), want.cost("latency_mean_s"))
    np.testing.assert_array_equal(got.n_wrong, want.n_wrong)
    if metric == "accuracy":
        assert got.judged is None
        np.testing.assert_array_equal(got.error_bound, want.error_bound)


@pytest.mark.parametrize("metric", OTHERS)
def test_the_inner_search_finds_what_is_best_by_the_metric(metric):
    replayer = make_replayer(metric, n=120)
    space = InnerSpace(exit_layers=(1, 2, 3), min_depth=1, max_depth=L)
    front = search_inner(replayer, InnerProblem(space=space))[0]
    again = replayer.run(front.policies)
    np.testing.assert_array_equal(front.error_bound, again.error_bound)
    statics = static_policies(range(1, L + 1), num_layers=L, exit_batching="serial")
    rivals = replayer.run(statics)
    costs = rivals.cost("latency_mean_s")[0]
    for bound, cost in zip(rivals.error_bound, costs, strict=True):
        reached = front.error_bound[front.costs["latency_mean_s"] <= cost]
        assert reached.min() <= bound


def test_with_two_classes_temperatures_are_tried_where_they_change_the_figure():
    space = InnerSpace(exit_layers=(1, 2, 3), min_depth=2, max_depth=L, temperatures=(0.5, 2.0))
    for metric, wanted in (("nll", 2), ("mcc", 1)):
        replayer = make_replayer(metric, classes=2)
        scorers = PolicyMaker.of(replayer, space).scorers
        assert len({s.temperature for s in scorers}) == wanted
