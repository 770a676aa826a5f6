from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from dynsearch.search import inner as inner_module
from dynsearch.search.inner import InnerFront, InnerProblem, search_inner
from dynsearch.search.pareto import hypervolume, non_dominated
from dynsearch.search.policies import Cuts, PolicyMaker, exit_sets
from dynsearch.sim.replay import Replayer
from search_spaces.candidate import CRITERIA, EXIT_BATCHING, PolicyBatch
from search_spaces.errors import InputError
from search_spaces.inner import InnerSpace
from search_spaces.workload import Workload

from ..sim.replay_cases import make_cost, make_trace

ALIKE = {"max_prob", "margin", "entropy", "entropy_normalized"}


def make_replayer(
    seed: int, n: int = 60, layers: int = 4, classes: int = 3, batch: int = 1
) -> Replayer:
    rng = np.random.default_rng(seed)
    trace = make_trace(rng, n, layers, classes)
    return Replayer(
        trace,
        make_cost(rng, layers, batch),
        workloads=[Workload(batch=batch, max_len=20)],
        correct_full=trace.logits[:, -1].argmax(-1) == trace.labels,
    )


def make_space(layers: int = 4, **changes: object) -> InnerSpace:
    space = InnerSpace(exit_layers=tuple(range(1, layers)), min_depth=1, max_depth=layers)
    return replace(space, **changes)  # type: ignore[arg-type]


def everywhere(limits: dict[str, float]) -> dict[str, dict[str, float]]:
    return {"device0": limits, "device1": limits}


def points(front: InnerFront, cost: str = "latency_mean_s") -> np.ndarray:
    return np.stack([front.error_bound, front.costs[cost]], axis=1)


def all_policies(replayer: Replayer, layers: int) -> PolicyBatch:
    """Every depth, exit set and per-exit threshold between two scores, criterion max_prob."""
    scores = replayer.scores(0, 1.0)
    middles = []
    for x in range(layers - 1):
        distinct = np.unique(scores[:, x])
        middles.append([np.inf, 0.0, *((distinct[:-1] + distinct[1:]) / 2)])
    rows = [
        (depth, (*chosen, *[np.inf] * (layers - depth + 1)))
        for depth in range(1, layers + 1)
        for chosen in product(*middles[: depth - 1])
    ]
    thresholds = np.array([t for _, t in rows])
    count = len(rows)
    return PolicyBatch(
        depth=np.array([d for d, _ in rows]),
        exit_on=np.isfinite(thresholds),
        criterion=np.zeros(count, dtype=np.int64),
        thresholds=thresholds,
        patience=np.zeros(count, dtype=np.int64),
        temperature=np.ones(count),
        exit_batching=np.zeros(count, dtype=np.int64),
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_front_of_a_small_case_is_nearly_that_of_brute_force(seed: int) -> None:
    replayer = make_replayer(seed, n=16, layers=4)
    every = replayer.run(all_policies(replayer, 4))
    fronts = search_inner(replayer, InnerProblem(space=make_space()))
    for d, front in enumerate(fronts):
        cost = every.cost("latency_mean_s")[d]
        best = np.stack([every.error_bound, cost], axis=1)
        reference = best.max(axis=0) * 1.01
        reached = hypervolume(points(front), reference)
        limit = hypervolume(best, reference)
        assert 0.97 * limit <= reached <= limit + 1e-12


@pytest.mark.parametrize("batch", [1, 8])
def test_fronts_are_what_replay_says_within_budgets_thin_and_non_dominated(batch: int) -> None:
    replayer = make_replayer(1, n=200, layers=5, batch=batch)
    space = make_space(
        5, criteria=("margin", "patience"), patience=(1, 2), exit_batching=("compact", "wait_all")
    )
    open_front = search_inner(replayer, InnerProblem(space=space))[1]
    limits = {
        "latency_mean_s": float(np.median(open_front.costs["latency_mean_s"])),
        "latency_worst_s": float(np.quantile(open_front.costs["latency_worst_s"], 0.9)),
    }
    front = search_inner(replayer, InnerProblem(space=space, budgets=everywhere(limits)))[1]
    got = replayer.run(front.policies)
    np.testing.assert_array_equal(front.error, got.error)
    np.testing.assert_array_equal(front.error_bound, got.error_bound)
    for name in ("latency_mean_s", "time_per_sample_s", "energy_j"):
        np.testing.assert_array_equal(front.costs[name], got.cost(name)[1])
    assert all((front.costs[name] <= limit).all() for name, limit in limits.items())
    assert non_dominated(points(front)).all()
    assert (np.diff(front.costs["latency_mean_s"]) > 0).all()
    assert 2 <= len(front.policies) <= 64
    assert front.violation == 0.0
    assert all(front.budget_values[name] <= limit for name, limit in limits.items())


def test_the_worst_case_pays_all_layers_and_checks_of_a_full_longest_batch() -> None:
    replayer = make_replayer(2, batch=4)
    t = replayer.costs[0].seconds
    policies = all_policies(replayer, 4).take(np.array([-1, -1, 0]))
    policies.exit_batching[:] = [EXIT_BATCHING.index(m) for m in ("compact", "serial", "serial")]
    got = replayer.costs[0].worst_s(policies, batch=4, max_len=20)
    for p, b in ((0, 3), (1, 0)):
        layers = t.embed[:, b, -1] + t.layer[:, :, b, -1].sum(axis=1)
        want = layers + t.check[:, :3, b, -1].sum(axis=1) + t.head[:, 3, b, -1]
        np.testing.assert_allclose(got[:, p], want)
    shallow = t.embed[:, 0, -1] + t.layer[:, 0, 0, -1] + t.head[:, 0, 0, -1]
    np.testing.assert_allclose(got[:, 2], shallow)


def test_where_nothing_fits_the_least_violation_is_that_of_the_cheapest_policy() -> None:
    replayer = make_replayer(3)
    worst = replayer.costs[0].worst_s(all_policies(replayer, 4), batch=1, max_len=20)
    limit = float(worst.min()) / 3
    budgets = {"latency_worst_s": limit, "latency_mean_s": 1e9}
    for d, front in enumerate(
        search_inner(replayer, InnerProblem(space=make_space(), budgets=everywhere(budgets)))
    ):
        assert len(front.policies) == 0
        assert front.violation == pytest.approx(worst[d].min() / limit - 1)
        assert front.budget_values["latency_worst_s"] == pytest.approx(worst[d].min())
        assert set(front.budget_values) == set(budgets)


def test_memory_budgets_drop_what_the_memory_model_says() -> None:
    replayer = make_replayer(4)
    problem = InnerProblem(
        space=make_space(),
        budgets=everywhere({"peak_bytes": 2.5}),
        peak_bytes=lambda policies: policies.depth.astype(np.float64),
    )
    front = search_inner(replayer, problem)[0]
    free = search_inner(replayer, replace(problem, budgets={}))[0]
    assert free.policies.depth.max() == 4
    assert front.policies.depth.max() == 2
    np.testing.assert_array_equal(front.costs["peak_bytes"], front.policies.depth)


def test_each_device_has_its_own_budgets_and_its_own_most_comfortable_policy() -> None:
    replayer = make_replayer(15)
    free = search_inner(replayer, InnerProblem(space=make_space()))
    worst = replayer.costs[0].worst_s(all_policies(replayer, 4), batch=1, max_len=20).min(axis=1)
    limit = float(np.median(free[1].costs["latency_mean_s"]))
    budgets = {
        "device0": {"latency_worst_s": 9.0},
        "device1": {"latency_worst_s": 90.0, "latency_mean_s": limit},
    }
    bound = search_inner(replayer, InnerProblem(space=make_space(), budgets=budgets))
    assert bound[1].costs["latency_mean_s"].max() <= limit
    assert bound[0].costs["latency_mean_s"].max() > limit
    assert [front.violation for front in bound] == [0.0, 0.0]
    assert bound[0].budget_values["latency_worst_s"] == pytest.approx(worst[0])
    tight = {"device0": {"latency_worst_s": worst[0] / 3}, "device1": {"latency_worst_s": 9.0}}
    fronts = search_inner(replayer, InnerProblem(space=make_space(), budgets=tight))
    assert [len(front.policies) > 0 for front in fronts] == [False, True]
    assert [front.violation for front in fronts] == pytest.approx([2.0, 0.0])


def test_a_patience_that_could_never_fire_is_not_tried() -> None:
    space = make_space(criteria=("patience",), patience=(1, 2, 3))
    maker = PolicyMaker.of(make_replayer(16), space)
    sets = exit_sets((1, 2, 3), (4,), 4, 3)
    made = maker.grid(sets, 5)
    count = made.exit_on.sum(axis=1)
    waits = made.criterion == CRITERIA.index("patience")
    assert sorted(zip(made.patience[waits], count[waits], strict=True)) == [
        (1, 2), (1, 2), (1, 2), (1, 3), (2, 3),
    ]  # fmt: skip


def test_with_two_classes_criteria_that_decide_alike_are_tried_once_by_the_first_name() -> None:
    replayer = make_replayer(5, classes=2)
    space = make_space(criteria=("margin",))
    one = search_inner(replayer, InnerProblem(space=space))[0]
    many = replace(
        space, criteria=("margin", *sorted(ALIKE - {"margin"})), temperatures=(1.0, 2.0)
    )
    four = search_inner(replayer, InnerProblem(space=many))[0]
    assert four.tried == one.tried
    exits = four.policies.exit_on.any(axis=1)
    assert set(four.policies.criterion[exits]) == {CRITERIA.index("margin")}
    three = make_replayer(5, classes=3)
    alone = search_inner(three, InnerProblem(space=space, refine=False))[0]
    both = search_inner(three, InnerProblem(space=many, refine=False))[0]
    assert both.tried > 7 * alone.tried


def test_with_two_classes_these_criteria_really_decide_alike() -> None:
    replayer = make_replayer(6, n=300, classes=2)
    order = [
        np.argsort(replayer.scores(CRITERIA.index(name), temperature).ravel(), kind="stable")
        for name in sorted(ALIKE)
        for temperature in (0.7, 1.0)
    ]
    for other in order[1:]:
        np.testing.assert_array_equal(other, order[0])


def test_the_same_input_gives_the_same_fronts() -> None:
    first, second = (
        search_inner(make_replayer(7), InnerProblem(space=make_space())) for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.policies.thresholds, b.policies.thresholds)
        np.testing.assert_array_equal(a.error_bound, b.error_bound)


def test_moving_thresholds_only_improves_and_its_points_say_so() -> None:
    replayer = make_replayer(8, n=300, layers=5)
    grid, moved = (
        search_inner(replayer, InnerProblem(space=make_space(5), refine=r))[0]
        for r in (False, True)
    )
    reference = points(grid).max(axis=0) * 1.01
    assert not grid.heuristic.any()
    assert moved.heuristic.any()
    assert hypervolume(points(moved), reference) > hypervolume(points(grid), reference)


def test_beyond_eight_exits_coarse_to_fine_comes_near_all_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replayer = make_replayer(9, n=120, layers=10)
    problem = InnerProblem(space=make_space(10), refine=False)
    coarse = search_inner(replayer, problem)[0]
    monkeypatch.setattr(inner_module, "ENUMERATED_SITES", 9)
    every = search_inner(replayer, problem)[0]
    reference = points(every).max(axis=0) * 1.01
    assert coarse.tried < every.tried / 2
    assert hypervolume(points(coarse), reference) > 0.97 * hypervolume(points(every), reference)


@pytest.mark.parametrize("layers", [4, 10])
def test_policies_keep_to_the_space(layers: int) -> None:
    sites = tuple(range(1, layers, 2)) if layers == 4 else tuple(range(1, layers))
    space = make_space(
        layers,
        exit_layers=sites,
        min_depth=2,
        max_depth=layers - 1,
        criteria=("patience", "entropy"),
        patience=(1, 2),
        max_exits=2,
        exit_batching=("wait_all", "compact"),
    )
    front = search_inner(make_replayer(10, layers=layers), InnerProblem(space=space))[0]
    p = front.policies
    assert p.depth.min() >= 2
    assert p.depth.max() <= layers - 1
    allowed = np.zeros(layers, dtype=bool)
    allowed[np.array(sites) - 1] = True
    assert not p.exit_on[:, ~allowed].any()
    count = p.exit_on.sum(axis=1)
    assert count.max() <= 2
    waits = p.criterion == CRITERIA.index("patience")
    assert (p.patience[waits] < count[waits]).all()
    assert set(p.exit_batching) == {EXIT_BATCHING.index("wait_all")}  # batch 1: all alike


def test_anchor_values_are_the_best_bounds_below_each_cost() -> None:
    front = search_inner(make_replayer(11), InnerProblem(space=make_space()))[0]
    cost, bound = front.costs["latency_mean_s"], front.error_bound
    middle = float(cost[len(cost) // 2])
    got = front.anchor_values("latency_mean_s", [cost[0] * 0.9, middle, 1e9], 0.66)
    np.testing.assert_array_equal(got, [0.66, bound[cost <= middle].min(), bound.min()])


def test_percentiles_can_be_budgets_and_objectives() -> None:
    replayer = make_replayer(12, n=20, layers=3)
    space = make_space(3)
    open_front = search_inner(
        replayer, InnerProblem(space=space, cost="latency_p95_s", refine=False)
    )[0]
    want = np.percentile(replayer.latencies(open_front.policies)[0], 95, axis=-1)
    np.testing.assert_array_equal(open_front.costs["latency_p95_s"], want)
    assert non_dominated(points(open_front, "latency_p95_s")).all()


def test_unknown_costs_missing_energy_and_deep_spaces_are_refused_together() -> None:
    replayer = make_replayer(13)
    silent = replace(
        replayer.costs[0], joules=replayer.costs[0].joules.map(np.full((20, 20), np.nan))
    )
    half = replace(
        silent,
        joules=replace(silent.joules, layer=replayer.costs[0].joules.layer),
    )
    mute = Replayer(
        replayer.trace,
        half,
        workloads=replayer.workloads,
        correct_full=replayer.correct_full,
    )
    budgets = everywhere({"peak_bytes": 1.0, "energy_j": 1.0, "speed": 1.0})
    problem = InnerProblem(space=make_space(6), budgets=budgets | {"phone": {}})
    with pytest.raises(InputError) as failed:
        search_inner(mute, problem)
    values = [p.value for p in failed.value.problems]
    assert values == ["peak_bytes", "speed", "device0", "device1", "phone", "6"]


def test_a_cut_never_meets_a_score_and_splits_off_the_share_that_it_says() -> None:
    rng = np.random.default_rng(14)
    scores = rng.integers(0, 30, 200) / 7.0
    cuts = Cuts.of(scores)
    assert (np.abs(cuts.values[:, None] - scores).min(axis=1) > 0).all()
    shares = (scores[None] >= cuts.values[:, None]).mean(axis=1)
    np.testing.assert_allclose(cuts.rates, shares)
    np.testing.assert_allclose(cuts.rate_of(cuts.values), shares)
    for wanted in (0.0, 0.31, 0.5, 1.0):
        reached = (scores >= cuts.at(wanted)).mean()
        assert abs(reached - wanted) == pytest.approx(np.abs(shares - wanted).min())


def test_a_cut_between_neighbouring_floats_still_separates_them() -> None:
    low = 0.7
    high = np.nextafter(low, 1.0)
    cuts = Cuts.of([low, high])
    assert low < cuts.values[0] <= high
    assert list(Cuts.of([low, low]).values) == [low]
