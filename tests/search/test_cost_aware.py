from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState

from dynsearch.errors import InputError
from dynsearch.search.columns import Batch
from dynsearch.search.cost_aware import CostAwareSampler
from dynsearch.search.free import FreeChecks
from dynsearch.search.history import History
from dynsearch.search.proposals import Proposer
from dynsearch.search.types import F64

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestItIsAnOptunaSampler(
    BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase
):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: CostAwareSampler(seed=0, startup=3)


SPACE: dict[str, BaseDistribution] = {
    **{f"on_{i}": IntDistribution(0, 1) for i in range(4)},
    "level": IntDistribution(0, 7),
    "share": FloatDistribution(0.5, 1.0),
    "kind": CategoricalDistribution(("a", "b", "c")),
}


def cost(batch: Batch) -> dict[str, np.ndarray]:
    flags = sum(batch[f"on_{i}"] for i in range(4))
    return {"bytes": 10.0 + 3.0 * batch["level"] + 5.0 * flags}


def canonical(batch: Batch) -> Batch:
    off = sum(batch[f"on_{i}"] for i in range(4)) == 0
    return {**batch, "share": np.where(off, 0.75, batch["share"])}


def values(params: dict[str, Any]) -> list[float]:
    flags = sum(params[f"on_{i}"] * (i + 1) for i in range(4)) / 10.0
    slow = 1.0 + params["level"] * (2.0 - flags) + (params["kind"] == "b")
    return [0.4 / (1.0 + 0.3 * params["level"]) + 0.1 * flags * params["share"], slow]


CHECKS = FreeChecks(cost=cost, budgets={"bytes": 26.0}, canonical=canonical)
REFERENCE = (0.5, 15.0)


def new_sampler(seed: int = 0, **more: Any) -> CostAwareSampler:
    return CostAwareSampler(
        seed=seed, space=SPACE, checks=CHECKS, reference=REFERENCE, startup=5, **more
    )


def new_study(sampler: BaseSampler) -> optuna.Study:
    return optuna.create_study(directions=["minimize"] * 2, sampler=sampler)


def run(study: optuna.Study, trials: int) -> list[dict[str, Any]]:
    found = []
    for _ in range(trials):
        trial = study.ask(SPACE)
        study.tell(trial, values(trial.params))
        found.append(dict(trial.params))
    return found


def test_no_proposal_breaks_a_budget_or_comes_twice_or_has_idle_knobs_elsewhere() -> None:
    found = run(new_study(new_sampler()), 30)
    for params in found:
        batch = {name: np.array([value]) for name, value in params.items()}
        assert cost(batch)["bytes"][0] <= 26.0
        assert canonical(batch)["share"][0] == params["share"]
    assert len({str(params) for params in found}) == 30


def test_it_is_rebuilt_from_the_trials_of_a_study() -> None:
    whole, half = new_study(new_sampler()), new_study(new_sampler())
    expected = run(whole, 24)
    for at in (3, 9, 17):
        run(half, at - len(half.trials))
        half.sampler = new_sampler()  # as after a crash: no cache is left
    assert run(half, 24 - len(half.trials)) == expected[17:]


def test_a_trial_given_up_and_run_again_changes_nothing() -> None:
    whole, cut = new_study(new_sampler()), new_study(new_sampler())
    expected = run(whole, 16)
    run(cut, 11)
    stale = cut.ask(SPACE)
    stale.set_user_attr("stale", True)
    cut.enqueue_trial(stale.params)
    cut.tell(stale, state=TrialState.FAIL)
    cut.sampler = new_sampler()
    assert run(cut, 5) == expected[11:]


def test_seeds_differ() -> None:
    assert run(new_study(new_sampler(0)), 3) != run(new_study(new_sampler(1)), 3)


def test_trials_under_way_are_not_proposed_again() -> None:
    study = new_study(new_sampler())
    run(study, 8)
    batch = [study.ask(SPACE) for _ in range(8)]
    assert len({str(trial.params) for trial in batch}) == 8


def test_better_fronts_than_random_from_as_many_evaluations() -> None:
    def volume(sampler: BaseSampler) -> float:
        study = new_study(sampler)
        run(study, 30)
        points = np.array([t.values for t in study.trials])
        inside = points[(points < REFERENCE).all(axis=1)]
        order = inside[np.argsort(inside[:, 0])]
        best = np.minimum.accumulate(order[:, 1])
        widths = np.diff(np.append(order[:, 0], REFERENCE[0]))
        return float((widths * (REFERENCE[1] - best)).sum())

    random = [volume(optuna.samplers.RandomSampler(seed=s)) for s in range(5)]
    assert volume(new_sampler()) > max(random)


def test_a_small_space_is_searched_to_the_last_setting_and_then_nothing_is_left() -> None:
    space = {"a": IntDistribution(0, 3), "b": CategoricalDistribution(("x", "y", "z"))}
    sampler = CostAwareSampler(seed=0, space=space, startup=3)
    study = new_study(sampler)
    for _ in range(12):
        trial = study.ask(space)
        study.tell(trial, [float(trial.params["a"]), float(trial.params["b"] == "x")])
    assert len({str(trial.params) for trial in study.trials}) == 12
    assert sampler.propose(study, space) is None


def test_limits_that_no_free_check_answers_are_learned() -> None:
    space = {name: FloatDistribution(0.0, 1.0) for name in "ab"}
    study = new_study(CostAwareSampler(seed=0, space=space, reference=(1.5, 1.5), startup=6))
    kept = []
    for _ in range(24):
        trial = study.ask(space)
        a, b = trial.params["a"], trial.params["b"]
        trial.set_constraint("sum", 1.0 - (a + b))  # the best points lie beyond the limit
        kept.append(a + b >= 1.0)
        study.tell(trial, [a, b])
    assert sum(kept[12:]) >= 8


def test_the_budget_that_binds_is_named_where_nothing_keeps_it() -> None:
    checks = FreeChecks(cost=cost, budgets={"bytes": 9.0})
    sampler = CostAwareSampler(seed=0, space=SPACE, checks=checks)
    with pytest.raises(InputError, match=re.escape("needs bytes = 10")):
        sampler.propose(new_study(sampler), SPACE)


def test_budgets_that_hardly_any_setting_keeps_are_found_by_climbing() -> None:
    space = {f"x{i}": IntDistribution(0, 9) for i in range(12)}
    checks = FreeChecks(
        cost=lambda batch: {"sum": 1.0 + sum(batch.values())}, budgets={"sum": 4.0}
    )
    sampler = CostAwareSampler(seed=0, space=space, checks=checks)
    params = sampler.propose(new_study(sampler), space)
    assert params is not None
    assert sum(params.values()) <= 3


@pytest.mark.parametrize("answer", [{"other": [1.0]}, {"bytes": [1.0]}, {"bytes": [np.nan]}])
def test_a_cost_that_does_not_answer_is_bad_input(answer: dict[str, list[float]]) -> None:
    checks = FreeChecks(cost=lambda batch: answer, budgets={"bytes": 9.0})  # type: ignore[arg-type]
    sampler = CostAwareSampler(seed=0, space=SPACE, checks=checks)
    with pytest.raises(InputError, match="cost"):
        sampler.propose(new_study(sampler), SPACE)


def test_fronts_are_modelled_from_the_third_evaluation_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    far_apart = Proposer.first

    def first(self: Proposer, history: History, rng: np.random.Generator) -> F64:
        asked.append(history.rows.shape[0])
        return far_apart(self, history, rng)

    monkeypatch.setattr(Proposer, "first", first)
    run(new_study(new_sampler(read_fronts=lambda trial: [np.array([[0.5, 0.5]])])), 7)
    assert asked == [0, 1, 2]
    asked.clear()
    run(new_study(new_sampler()), 7)
    assert asked == [0, 1, 2, 3, 4]


def told(study: optuna.Study, params: dict[str, Any], front: list[list[float]]) -> None:
    study.add_trial(
        optuna.trial.create_trial(
            params=params, distributions=KEPT, values=[0.5, 0.5], user_attrs={"front": front}
        )
    )


KEPT: dict[str, BaseDistribution] = {
    "keep_1": IntDistribution(0, 4),
    "keep_2": IntDistribution(0, 4),
    "split": IntDistribution(0, 1),
    "kind": CategoricalDistribution(("a", "b", "c")),
}


def test_a_knob_of_which_only_the_ends_were_tried_is_tried_half_way_at_the_widest_front(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_model: list[int] = []
    ranked = Proposer.ranked

    def counted(self: Proposer, history: History, *args: Any) -> F64:
        by_model.append(history.rows.shape[0])
        return ranked(self, history, *args)

    monkeypatch.setattr(Proposer, "ranked", counted)
    fronts = lambda trial: [np.array(trial.user_attrs["front"])]  # noqa: E731
    sampler = CostAwareSampler(seed=0, space=KEPT, reference=(1.0, 1.0), read_fronts=fronts)
    study = new_study(sampler)
    told(study, {"keep_1": 4, "keep_2": 4, "split": 0, "kind": "a"}, [[0.2, 0.8], [0.7, 0.6]])
    told(study, {"keep_1": 0, "keep_2": 4, "split": 1, "kind": "b"}, [[0.3, 0.4]])
    told(study, {"keep_1": 4, "keep_2": 0, "split": 0, "kind": "c"}, [[0.6, 0.3], [0.9, 0.1]])
    tried = [
        {"keep_1": 2, "keep_2": 4, "split": 1, "kind": "b"},
        {"keep_1": 0, "keep_2": 2, "split": 1, "kind": "b"},
    ]
    for params in tried:
        assert sampler.propose(study, KEPT) == params
        told(study, params, [[0.3, 0.3]] if params["keep_1"] == 0 else [[0.5, 0.5]])
    assert by_model == []
    sampler.propose(study, KEPT)  # another front is the widest now, both knobs were half-way
    assert by_model == [5]


def test_half_way_is_not_tried_again_where_it_is_under_way_or_was_refused() -> None:
    fronts = lambda trial: [np.array(trial.user_attrs["front"])]  # noqa: E731
    refused: list[dict[str, Any]] = []

    def accept(params: dict[str, Any]) -> dict[str, Any] | None:
        if 0 < params["keep_1"] < 4:
            refused.append(params)
            return None
        return params

    sampler = CostAwareSampler(
        seed=0, space=KEPT, reference=(1.0, 1.0), read_fronts=fronts, accept=accept
    )
    study = new_study(sampler)
    for ends in ((4, 4, "a"), (0, 0, "b"), (4, 0, "c")):
        params = {"keep_1": ends[0], "keep_2": ends[1], "split": 0, "kind": ends[2]}
        told(study, params, [[0.5, 0.5 - 0.1 * (ends[2] == "a")]])
    first = study.ask(KEPT)
    assert first.params == {"keep_1": 4, "keep_2": 2, "split": 0, "kind": "a"}
    second = study.ask(KEPT)
    assert refused
    assert second.params != first.params
    assert second.params["keep_1"] in (0, 4)
