from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import TrialState

from dynsearch import Choice, FloatRange, IntRange, SearchSpace, optimize
from dynsearch.errors import DynsearchError, InputError
from dynsearch.search.sampler import SAMPLERS, Gate

SPACE = SearchSpace(
    {
        "exit": IntRange(0, 1),
        "threshold": FloatRange(0.5, 0.99),
        "experts": Choice([1, 2, 4, 8]),
        "keep": Choice([1.0, 0.75, 0.5, 0.25]),
        "pooling": Choice(["mean", "cls", "max"]),
    },
    active={"threshold": lambda knobs: knobs["exit"] == 1},
)
Knobs = dict[str, np.ndarray]


def cost(knobs: Knobs) -> Knobs:
    return {"peak_bytes": 2.0 * knobs["experts"], "latency_worst_s": 4.0 * knobs["keep"]}


def quality(knobs: Knobs) -> Knobs:
    stays = np.where(knobs["exit"] == 1, knobs["threshold"], 1.0)
    error = 0.4 - 0.03 * np.log2(knobs["experts"]) - 0.1 * knobs["keep"] - 0.1 * stays**2
    error = error + 0.02 * (knobs["pooling"] != "mean")
    return {"error": error, "latency_mean_s": 4.0 * knobs["keep"] * stays}


ARGUMENTS: dict[str, Any] = {
    "quality": quality,
    "cost": cost,
    "objectives": ("error", "latency_mean_s"),
    "budgets": {"peak_bytes": 9.0, "latency_worst_s": 3.5},
    "ref_point": (0.4, 3.5),
}


def search(**more: Any) -> Any:
    return optimize(SPACE, **(ARGUMENTS | {"n_trials": 14} | more))


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s != "gp"])
def test_every_sampler_keeps_budgets_and_tries_nothing_twice(sampler: str) -> None:
    result = search(sampler=sampler)
    assert [e.number for e in result.evaluations] == list(range(14))
    assert all(e.feasible and e["experts"] <= 4 and e["keep"] < 1.0 for e in result.evaluations)
    assert len({str(e.knobs) for e in result.evaluations}) == 14
    assert all(e["threshold"] == 0.745 for e in result.evaluations if e["exit"] == 0)


def test_gp_looks_for_its_next_setting_among_what_may_be_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # More experts and tokens always promise less error, and budgets forbid the most of both: left
    # to itself GPSampler proposes just that, and something else has to stand in.
    def stands_in(*_: Any) -> Any:
        raise AssertionError("a proposal was refused")

    monkeypatch.setattr(Gate, "nearest", stands_in)
    result = search(sampler="gp", n_trials=11)
    assert all(e.feasible for e in result.evaluations)
    assert len({str(e.knobs) for e in result.evaluations}) == 11


def test_the_front_is_what_no_evaluation_beats() -> None:
    result = search()
    points = np.array([list(e.objectives.values()) for e in result.evaluations])
    front = {tuple(e.objectives.values()) for e in result.front}
    beaten = [((points <= p).all(axis=1) & (points < p).any(axis=1)).any() for p in points]
    assert front == {tuple(p) for p, b in zip(points.tolist(), beaten, strict=True) if not b}
    assert result.study.user_attrs["problem"]["objectives"] == ["error", "latency_mean_s"]
    one = result.front[0]
    again = quality({name: np.array([v]) for name, v in one.knobs.items()})
    assert one["error"] == again["error"][0]


def test_batches_and_workers_evaluate_each_setting_once() -> None:
    sizes = []

    def counted(knobs: Knobs) -> Knobs:
        sizes.append(len(knobs["exit"]))
        return quality(knobs)

    result = search(quality=counted, batch=4, workers=2)
    assert sum(sizes) == 14
    assert max(sizes) == 4
    assert len({str(e.knobs) for e in result.evaluations}) == 14


def test_an_objective_that_cost_gives_needs_no_model() -> None:
    def error(knobs: Knobs) -> Knobs:
        return {"error": quality(knobs)["error"]}

    def known(knobs: Knobs) -> Knobs:
        return cost(knobs) | {"latency_mean_s": quality(knobs)["latency_mean_s"]}

    result = search(quality=error, cost=known, n_trials=16)
    for e in result.evaluations:
        row = {name: np.array([v]) for name, v in e.knobs.items()}
        assert e["latency_mean_s"] == pytest.approx(known(row)["latency_mean_s"][0])


def test_a_ragged_quality_yields_a_front_per_evaluation() -> None:
    outer = SearchSpace({"experts": Choice([1, 2, 4]), "keep": FloatRange(0.25, 0.75)})

    def ragged(knobs: Knobs) -> Knobs:
        rows = np.repeat(np.arange(len(knobs["keep"])), 5)
        taken = {name: values[rows] for name, values in knobs.items()}
        thresholds = np.tile(np.linspace(0.5, 0.9, 5), len(knobs["keep"]))
        inner = {"exit": np.ones(rows.size), "pooling": np.full(rows.size, "mean")}
        found = quality(taken | inner | {"threshold": thresholds})
        return {"outer": rows, "threshold": thresholds, **found}

    result = optimize(outer, **(ARGUMENTS | {"quality": ragged, "n_trials": 14}))
    assert len(result.evaluations) == 14
    assert len(result.front) > 14
    assert {e["threshold"] for e in result.front} == {0.5, 0.6, 0.7, 0.8, 0.9}
    for e in result.front:
        row = {n: np.array([v]) for n, v in (e.knobs | {"exit": 1, "pooling": "mean"}).items()}
        assert e["error"] == pytest.approx(quality(row)["error"][0])


def test_a_ragged_point_beyond_a_budget_does_not_count() -> None:
    def ragged(knobs: Knobs) -> Knobs:
        return {
            "outer": np.array([0, 0]),
            "error": np.array([0.1, 0.2]),
            "latency_mean_s": np.array([1.0, 1.0]),
            "energy_j": np.array([3.0, 1.0]),
        }

    budgets = ARGUMENTS["budgets"] | {"energy_j": 2.0}
    result = search(quality=ragged, budgets=budgets, n_trials=1)
    assert [e["error"] for e in result.front] == [0.2]


@pytest.mark.parametrize("bad", ["raises", "nan"])
def test_an_evaluation_that_fails_says_why_and_the_search_goes_on(bad: str) -> None:
    def sometimes(knobs: Knobs) -> Knobs:
        if bad == "raises" and (knobs["experts"] == 2).any():
            raise RuntimeError("no kernel for two experts")
        found = quality(knobs)
        return found | {"error": np.where(knobs["experts"] == 2, np.nan, found["error"])}

    result = search(quality=sometimes, batch=2, max_failures=50)
    failed = [e for e in result.evaluations if e.reason]
    assert failed
    assert all(e["experts"] == 2 for e in failed)
    assert {e.reason for e in failed} == {
        "RuntimeError: no kernel for two experts"
        if bad == "raises"
        else "quality gave error = nan"
    }
    assert len(result.evaluations) - len(failed) == 14
    assert not {str(e.knobs) for e in failed} & {str(e.knobs) for e in result.front}


def test_too_many_failures_end_the_search() -> None:
    def broken(knobs: Knobs) -> Knobs:
        raise OSError("disk full")

    with pytest.raises(DynsearchError, match=r"no evaluation succeeded; .*disk full"):
        search(quality=broken, max_failures=3)
    calls = iter(range(100))

    def soon_broken(knobs: Knobs) -> Knobs:
        return quality(knobs) if next(calls) < 3 else broken(knobs)

    result = search(quality=soon_broken, max_failures=3)
    assert result.stopped == "failures"
    assert [bool(e.reason) for e in result.evaluations] == [False] * 3 + [True] * 4


@pytest.mark.parametrize("sampler", ["dynsearch", "random"])
def test_an_infeasible_space_is_one_error_that_names_the_budget(sampler: str) -> None:
    budgets = {"peak_bytes": 1.5, "latency_worst_s": 3.5}
    with pytest.raises(InputError, match=r"peak_bytes = 1\.5: .* needs peak_bytes = 2"):
        search(budgets=budgets, sampler=sampler)


@pytest.mark.parametrize("sampler", ["dynsearch", "random"])
def test_a_space_searched_to_its_end_stops_the_search(sampler: str) -> None:
    space = SearchSpace({"experts": Choice([1, 2, 4, 8]), "keep": Choice([1.0, 0.5])})
    fixed = {"exit": 0, "threshold": 0.5, "pooling": "mean"}

    def small(knobs: Knobs) -> Knobs:
        size = len(knobs["keep"])
        return quality(knobs | {n: np.full(size, v) for n, v in fixed.items()})

    result = optimize(space, **(ARGUMENTS | {"quality": small, "sampler": sampler}))
    assert result.stopped == "exhausted"
    assert len(result.evaluations) == 3


@pytest.mark.parametrize("sampler", ["dynsearch", "tpe"])
def test_a_search_that_was_cut_off_goes_on_as_if_it_had_not_been(sampler: str) -> None:
    class KilledError(BaseException):
        pass

    calls = iter(range(1000))

    def killed_twice(knobs: Knobs) -> Knobs:
        if next(calls) in (6, 13):
            raise KilledError
        return quality(knobs)

    whole = search(sampler=sampler, n_trials=18)
    storage = InMemoryStorage()
    for _ in range(2):
        with pytest.raises(KilledError):
            search(sampler=sampler, n_trials=18, quality=killed_twice, storage=storage)
    cut = search(sampler=sampler, n_trials=18, quality=killed_twice, storage=storage)
    assert [e.knobs for e in cut.evaluations] == [e.knobs for e in whole.evaluations]
    assert len(cut.study.get_trials(states=[TrialState.FAIL])) == 2


def test_a_call_that_dies_while_it_queues_anew_evaluates_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class KilledError(BaseException):
        pass

    calls = iter(range(1000))

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise KilledError

    def killed_once(knobs: Knobs) -> Knobs:
        return killed() if next(calls) == 6 else quality(knobs)

    storage = InMemoryStorage()
    with pytest.raises(KilledError):
        search(quality=killed_once, storage=storage)
    with monkeypatch.context() as patch:
        patch.setattr(Study, "tell", killed)
        with pytest.raises(KilledError):
            search(quality=killed_once, storage=storage)
    cut = search(quality=killed_once, storage=storage)
    assert [e.knobs for e in cut.evaluations] == [e.knobs for e in search().evaluations]
    assert next(calls) == 15


def test_a_storage_with_a_study_of_something_else_is_bad_input() -> None:
    storage = InMemoryStorage()
    search(n_trials=2, storage=storage)
    with pytest.raises(InputError, match=r"budgets.*differs from what the study began with"):
        search(n_trials=2, storage=storage, budgets={"peak_bytes": 4.0})


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"n_trials": 0}, "n_trials = 0: must be 1 or more"),
        ({"budgets": {"peak_bytes": 0.0}}, "budgets.peak_bytes = 0.0"),
        ({"objectives": ()}, "name at least one"),
        ({"ref_point": (1.0,)}, "one number per objective"),
        ({"sampler": "annealing"}, "choose one of dynsearch, tpe"),
    ],
)
def test_bad_arguments_are_named(more: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        search(**more)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"error": [0.1]}, "neither quality nor cost gives latency_mean_s"),
        ({"error": [0.1, 0.2], "latency_mean_s": [1.0]}, "error has shape"),
        ({"outer": [7], "error": [0.1], "latency_mean_s": [1.0]}, "rows of the batch"),
    ],
)
def test_an_answer_that_does_not_fit_fails_with_what_is_wrong(
    answer: dict[str, list[float]], text: str
) -> None:
    with pytest.raises(DynsearchError, match=text):
        search(quality=lambda knobs: answer, max_failures=0)
