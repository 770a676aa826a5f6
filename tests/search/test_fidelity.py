"""Passes that are stopped after their first rows: what is told of all rows, and when it counts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from toy_problem import ToyQuality, toy_problem, toy_space

from cost_models.device import load_device
from dynsearch.evaluate import Scene, blank_trace, build, build_screen, inner_spec
from dynsearch.quality.metrics import BOUND_Z
from dynsearch.search import fidelity, runs
from dynsearch.search.driver import SearchOptions, SearchResult, run_search
from dynsearch.search.encoding import setting_key
from dynsearch.search.fronts import objective_points
from dynsearch.search.study import open_storage
from search_spaces.candidate import Backbone, Candidate, Skim
from search_spaces.codec import candidate_to_dict
from search_spaces.inner import InnerSpace
from search_spaces.workload import Workload

sys.path.insert(0, str(Path(__file__).parents[1] / "sim"))
from replay_cases import make_trace

SCREENED = SearchOptions(trials=6, workers=0, sampler="random", screen_rows=30)  # of 60


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return runs.create_run(tmp_path / "toy-00000000", "")


def search(run: runs.Run, options: SearchOptions, hope: float, **changes: Any) -> SearchResult:
    arguments = {"space": toy_space(), "quality": ToyQuality(), "problem": toy_problem(hope=hope)}
    return run_search(run, options=options, **(arguments | changes))


def trials(run: runs.Run) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(
        study_name=run.study_name, storage=open_storage(run, "journal")
    ).trials


# what is told of all rows


@pytest.mark.parametrize(("n", "z"), [(400, BOUND_Z), (100, BOUND_Z / 2 - 1.96 * 0.75**0.5)])
def test_the_factor_of_the_standard_error_in_closed_form(n: int, z: float) -> None:
    assert fidelity.bound_z(n, 400) == pytest.approx(z)


@pytest.mark.parametrize("n", [60, 150])
def test_a_bound_of_the_error_is_too_high_in_one_draw_of_40(n: int) -> None:
    rng = np.random.default_rng(n)
    losses = rng.choice([-1.0, 0.0, 1.0], 300, p=[0.05, 0.8, 0.15])
    final = losses.mean() + BOUND_Z * losses.std() / np.sqrt(300)
    drawn = np.array([rng.permutation(losses)[:n] for _ in range(4000)])
    se = drawn.std(axis=1) / np.sqrt(n)
    lower = drawn.mean(axis=1) + fidelity.bound_z(n, 300) * se
    assert (lower > final).mean() == pytest.approx(0.025, abs=0.015)


@pytest.mark.parametrize("n", [60, 150])
def test_a_bound_of_the_cost_is_too_high_in_one_draw_of_40(n: int) -> None:
    rng = np.random.default_rng(n)
    full = rng.integers(5, 60, 300).astype(float)
    cost = full * rng.choice([0.4, 0.7, 1.0], 300) + rng.normal(0, 0.5, 300)
    above = []
    for _ in range(4000):
        order = rng.permutation(300)
        share = fidelity.cost_shares(cost[order][None, :n], full[order])
        above.append(share[0] * cost[order][:n].mean() > cost.mean())
    assert np.mean(above) == pytest.approx(0.025, abs=0.015)


def test_all_rows_leave_no_doubt_about_a_cost() -> None:
    rng = np.random.default_rng(0)
    cost, full = rng.random((3, 50)) + 1, rng.random(50) + 1
    np.testing.assert_allclose(fidelity.cost_shares(cost, full), 1.0, rtol=1e-12)
    assert fidelity.lowered("latency_worst_s", np.ones(2), np.full(2, 0.5)).tolist() == [1, 1]
    assert fidelity.lowered("latency_mean_s", np.ones(2), np.full(2, 0.5)).tolist() == [0.5, 0.5]
    assert fidelity.lowered("latency_p95_s", np.ones(2), np.full(2, 0.5)).tolist() == [0, 0]


def test_points_add_only_below_what_is_known_and_the_reference() -> None:
    merged = {"x": np.array([[0.5, 0.5]]), "y": np.empty((0, 2))}
    upper = {"x": (1.0, 1.0), "y": (1.0, 1.0)}

    def adds(x: list[float], y: list[float]) -> bool:
        hoped = {"x": np.array([x]), "y": np.array([y])}
        return fidelity.adds(hoped, merged, upper)

    assert not adds([0.5, 0.6], [1.0, 0.5])
    assert adds([0.4, 0.6], [1.0, 0.5])
    assert adds([0.6, 0.6], [0.9, 0.9])  # a device without a front yet


@given(st.integers(1, 59))
@settings(max_examples=10)
def test_rows_run_in_two_goes_are_the_rows_of_one(n: int) -> None:
    quality, outer = ToyQuality(), toy_space().full()
    whole = quality.record(outer, "search")
    parts = [quality.rows("search", *ends).record(outer, "search") for ends in ((0, n), (n, None))]
    joined = fidelity.join(*parts, whole)
    for name in ("logits", "labels", "lengths", "tokens_layer", "tokens_ffn", "expert_tokens"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    np.testing.assert_array_equal(whole.take(slice(n)).logits, parts[0].logits)


NET = Backbone(
    name="small",
    num_layers=4,
    hidden_size=48,
    num_heads=4,
    ffn_size=192,
    vocab_size=99,
    max_len=64,
)


def test_a_pass_promises_what_it_later_yields_and_more() -> None:
    """Of 25 passes whose fronts are told from half their rows, 23 or more are not undersold."""
    rng = np.random.default_rng(7)
    full = Candidate(backbone=NET, depth=4)
    outer = replace(full, skim=(Skim(layers=(2,), keep_rate=(0.5,)),))
    scene = Scene(
        devices=(load_device("generic-x86-avx2"),),
        workload=Workload(batch=1, max_len=20),
        num_classes=3,
    )
    space = InnerSpace(exit_layers=(1, 2), min_depth=2, max_depth=4)
    spec: dict[str, Any] = inner_spec(
        scene,
        inner_space=space,
        objectives=("error", "latency_mean_s"),
        budgets={},
        anchors={"generic-x86-avx2": (1.0, 2.0, 3.0)},
    )
    kept = 0
    for _ in range(25):
        header = {"outer": candidate_to_dict(full), "depth": 4}
        reference = replace(make_trace(rng, 80, 4), header=header)
        logits = make_trace(rng, 80, 4).logits
        trace = replace(
            blank_trace(outer, reference.lengths, 3), logits=logits, labels=reference.labels
        )
        given = {**spec, "reference_trace": reference, "majority_error": 0.5}
        (front,) = build(given)(outer, trace).devices
        found = objective_points(front.error_bound, front.costs, spec["objectives"])
        screen = build_screen({**given, "screen_rows": 40})
        (hoped,) = screen(outer, trace.take(slice(40))).values()
        best = found[int(found[:, 0].argmin())]
        kept += bool(((hoped <= best * (1 + 1e-9)).all(axis=1)).any())
    assert kept >= 23


# when a pass is stopped


def test_a_stopped_pass_counts_by_its_share_and_is_told(run: runs.Run) -> None:
    result = search(run, SCREENED, hope=1.0)
    found = trials(run)
    stopped = [t for t in found if t.state is TrialState.PRUNED]
    assert result.screened == len(stopped) > 0
    assert result.spent == result.passes + 0.5 * len(stopped)
    assert 6 <= result.spent < 7
    assert result.passes == sum(t.state is TrialState.COMPLETE for t in found)
    assert [step.passes for step in result.history][-1] == result.passes
    assert found[0].state is TrialState.COMPLETE  # the full network is never screened
    for t in stopped:
        screened = t.user_attrs["screened"]
        assert (screened["rows"], screened["of"], screened["share"]) == (30, 60, 0.5)
        assert set(screened["lower_bounds"]) == {"slow", "fast"}
        assert "30 of 60 rows" in t.user_attrs["reason"]
    keys = [setting_key(t.user_attrs["setting"]) for t in found]
    assert len(set(keys)) == len(keys)


def test_whoever_may_add_something_runs_whole_and_yields_what_an_unscreened_pass_yields(
    run: runs.Run, tmp_path: Path
) -> None:
    result = search(run, SCREENED, hope=0.0)
    plain = runs.create_run(tmp_path / "plain-00000000", "")
    expected = search(plain, replace(SCREENED, screen_rows=None), hope=0.0)
    assert result.screened == 0
    assert [t.values for t in trials(run)] == [t.values for t in trials(plain)]
    assert [s.mean for s in result.history] == [s.mean for s in expected.history]


@pytest.mark.parametrize("sampler", ["dynsearch", "random", "tpe", "nsga2"])
def test_a_search_of_hopeless_passes_ends_for_every_sampler(run: runs.Run, sampler: str) -> None:
    options = replace(SCREENED, sampler=sampler, screen_rows=6, trials=3)
    result = search(run, options, hope=10.0)
    assert (result.passes, result.screened) == (1, 20)
    assert result.stopped == "trials"


@pytest.mark.parametrize("sampler", ["dynsearch", "random"])
def test_a_search_that_was_cut_off_goes_on_with_the_same_sequence(
    run: runs.Run, tmp_path: Path, sampler: str
) -> None:
    options = replace(SCREENED, sampler=sampler)
    search(run, replace(options, trials=3), hope=1.0)
    result = search(run, options, hope=1.0)
    other = runs.create_run(tmp_path / "other-00000000", "")
    whole = search(other, options, hope=1.0)
    assert result.spent == whole.spent
    mine, theirs = trials(run), trials(other)
    assert [t.params for t in mine] == [t.params for t in theirs]
    assert [t.state for t in mine] == [t.state for t in theirs]
