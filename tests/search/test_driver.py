from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from toy_problem import TINY_SPACE, ToyQuality, layer_cost, toy_problem, toy_space

from dynsearch.errors import DynsearchError, InputError
from dynsearch.opened import pass_fronts
from dynsearch.search import runs
from dynsearch.search.driver import SearchOptions, SearchResult, SearchState, run_search
from dynsearch.search.encoding import setting_key
from dynsearch.search.fronts import MergedFront, load_fronts
from dynsearch.search.screen import make_screen
from dynsearch.search.study import open_storage

LOCAL = SearchOptions(trials=6, workers=0, sampler="random")


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return runs.create_run(tmp_path / "toy-00000000", "")


def search(run: runs.Run, options: SearchOptions = LOCAL, **changes: Any) -> SearchResult:
    arguments = {"space": toy_space(), "quality": ToyQuality(), "problem": toy_problem()}
    return run_search(run, options=options, **(arguments | changes))


def trials(run: runs.Run, storage: str = "journal") -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=run.study_name, storage=open_storage(run, storage))
    return study.trials


def settings(run: runs.Run) -> list[str]:
    return [setting_key(t.user_attrs["setting"]) for t in trials(run)]


def same_front(a: MergedFront, b: MergedFront) -> bool:
    order_a = np.lexsort((a.costs["latency_mean_s"], a.error_bound))
    order_b = np.lexsort((b.costs["latency_mean_s"], b.error_bound))
    a, b = a.take(order_a), b.take(order_b)
    return np.array_equal(a.error_bound, b.error_bound) and np.array_equal(
        a.costs["latency_mean_s"], b.costs["latency_mean_s"]
    )


# what a search does


def test_a_search_runs_the_full_network_first_and_then_as_many_passes_as_asked(
    run: runs.Run,
) -> None:
    result = search(run)
    found = trials(run)
    assert result.stopped == "trials"
    assert [t.state for t in found] == [TrialState.COMPLETE] * 6
    assert found[0].user_attrs["setting"] == toy_space().full_params()
    assert all(len(t.values) == 3 for t in found)
    assert sorted(result.settings) == list(range(6))


def test_every_pass_leaves_trace_front_and_log(run: runs.Run) -> None:
    search(run)
    for t in trials(run):
        trace = run.path / t.user_attrs["trace"]
        assert trace.exists()
        assert load_fronts(run.fronts_file(trace)) is not None
        assert set(t.user_attrs["front"]) == {"slow", "fast"}
        assert t.user_attrs["front"]["slow"]["columns"] == ["error_bound", "latency_mean_s"]
        assert 0 < len(t.user_attrs["front"]["slow"]["points"]) <= 64
    log = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert [(line["passes"], line["trial"]) for line in log] == [(i + 1, i) for i in range(6)]


@pytest.mark.parametrize(
    "sampler", ["random", "tpe", "nsga2", "dynsearch", pytest.param("gp", marks=pytest.mark.slow)]
)
def test_no_sampler_tries_a_setting_twice(run: runs.Run, sampler: str) -> None:
    count = 13 if sampler == "gp" else 24
    result = search(run, replace(LOCAL, sampler=sampler, trials=count))
    assert result.passes == count
    assert max(Counter(settings(run)).values()) == 1


def test_our_sampler_goes_on_as_if_the_run_had_not_stopped(tmp_path: Path) -> None:
    whole, cut = (runs.create_run(tmp_path / f"toy-{i:08}", "") for i in range(2))
    options = replace(LOCAL, sampler="dynsearch", trials=14)
    search(whole, options)
    for trials_so_far in (5, 12, 14):
        search(cut, replace(options, trials=trials_so_far))
    assert settings(cut) == settings(whole)


def test_an_exhausted_space_ends_the_search_early(run: runs.Run) -> None:
    space = toy_space(TINY_SPACE)
    result = search(run, replace(LOCAL, sampler="tpe", trials=50), space=space)
    assert (result.stopped, result.passes) == ("exhausted", space.outer_size())
    assert len(trials(run)) == space.outer_size()


def test_a_setting_that_breaks_a_budget_everywhere_is_never_a_trial(run: runs.Run) -> None:
    def bound(candidates: Any) -> dict[str, dict[str, Any]]:
        cost = np.array([layer_cost(c)[: c.depth].sum() for c in candidates])
        return {"slow": {"latency_worst_s": cost}, "fast": {"latency_worst_s": 0.9 * cost}}

    space, limit = toy_space(), {"latency_worst_s": 0.6}
    budgets = {"slow": limit, "fast": limit}
    screen = make_screen(lower_bound=bound, budgets=budgets, min_depth=1)
    result = search(run, replace(LOCAL, trials=12), screen=screen)
    assert result.rejected["budget"] > 0
    tried = [space.decode(t.user_attrs["setting"]) for t in trials(run)]
    assert not screen(tried[1:]).any()  # trial 0 is the full network, budget or no budget
    assert len(tried) == 12
    study = optuna.load_study(study_name=run.study_name, storage=open_storage(run, "journal"))
    assert study.user_attrs["rejected_proposals"] == result.rejected


def test_constraints_tell_which_trials_are_within_budget(run: runs.Run) -> None:
    budgets = {"latency_worst_s": 0.2, "peak_bytes": 1500.0}
    search(run, replace(LOCAL, trials=10), problem=toy_problem(budgets=budgets))
    space, feasible = toy_space(), []
    for t in trials(run):
        one_layer = 0.25 * layer_cost(space.decode(t.user_attrs["setting"]))[0]
        assert t.constraints["latency_worst_s"] == pytest.approx(one_layer / 0.2 - 1)
        assert t.constraints["peak_bytes"] == pytest.approx(1000 / 1500 - 1)
        feasible.append(one_layer <= 0.2)
    assert set(feasible) == {True, False}


def test_the_merged_front_is_what_no_policy_of_any_pass_beats(run: runs.Run) -> None:
    result = search(run)
    for d, front in enumerate(result.fronts):
        every = set()
        for t in trials(run):
            fronts = load_fronts(run.fronts_file(run.path / t.user_attrs["trace"]))
            assert fronts is not None
            part = fronts.devices[d]
            every |= set(zip(part.error_bound, part.costs["latency_mean_s"], strict=True))
        best = {
            p for p in every if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in every)
        }
        assert best == set(zip(front.error_bound, front.costs["latency_mean_s"], strict=True))


def test_fronts_are_read_in_the_order_of_their_passes(run: runs.Run) -> None:
    """Of equal points the first counts, and `10-...` stands before `2-...` among names."""
    search(run, replace(LOCAL, trials=12))
    parts, traces = pass_fronts(run)
    assert list(traces) == list(range(12))
    assert [int(part.trial[0]) for part in parts] == [i for i in range(12) for _ in range(2)]


def test_hypervolume_never_falls_and_stays_within_one(run: runs.Run) -> None:
    result = search(run, replace(LOCAL, trials=12))
    means = [step.mean for step in result.history]
    assert 0 < means[0] <= means[-1] < 1
    assert means == sorted(means)
    last = result.history[-1]
    assert last.mean == pytest.approx(sum(last.devices.values()) / 2)
    assert [s.passes for s in result.history] == list(range(1, 13))


def test_final_policies_are_trials_of_a_study_per_device_once(run: runs.Run) -> None:
    result = search(run)
    search(run)
    for front in result.fronts:
        name = f"{run.study_name}/front/{front.device}"
        study = optuna.load_study(study_name=name, storage=open_storage(run, "journal"))
        assert len(study.trials) == len(front)
        values = {tuple(t.values) for t in study.trials}
        assert values == set(zip(front.error, front.costs["latency_mean_s"], strict=True))
        for t in study.trials:
            assert t.user_attrs["fidelity"] == "replay"
            assert t.user_attrs["outer_trial"] in result.settings
            assert {t.params[f"exit_{i}"] for i in (1, 2, 3)} <= {0, 1}


def test_progress_ends_at_the_last_pass(run: runs.Run) -> None:
    states: list[SearchState] = []
    search(run, progress=states.append)
    assert [s.done for s in states] == sorted(s.done for s in states)
    assert (states[-1].done, states[-1].running, states[-1].total) == (6, 0, 6)
    assert states[-1].front_size > 0
    assert states[0].eta_s is None


# failing passes


def test_a_failing_pass_is_recorded_with_its_reason_and_the_search_goes_on(run: runs.Run) -> None:
    result = search(run, replace(LOCAL, trials=8), quality=ToyQuality(fails=("bf16",)))
    assert result.passes == 8
    failed = [t for t in trials(run) if t.state == TrialState.FAIL]
    assert len(failed) == result.failed > 0
    assert {t.user_attrs["reason"] for t in failed} == {"RuntimeError: no kernel for bf16"}
    assert result.reason == "RuntimeError: no kernel for bf16"


def test_too_many_failures_end_the_search(run: runs.Run) -> None:
    options = replace(LOCAL, trials=100, max_failures=2)
    result = search(run, options, quality=ToyQuality(fails=("bf16",)))
    assert (result.stopped, result.failed) == ("failures", 3)


def test_a_failing_full_network_ends_the_search_and_is_tried_again_later(run: runs.Run) -> None:
    with pytest.raises(DynsearchError, match="full network failed: RuntimeError"):
        search(run, quality=ToyQuality(fails=("fp32",)))
    result = search(run)
    complete = [t for t in trials(run) if t.state == TrialState.COMPLETE]
    assert trials(run)[0].state == TrialState.FAIL
    assert complete[0].user_attrs["setting"] == toy_space().full_params()
    assert result.passes == len(complete) == 6


# stopping and going on


def test_more_trials_continue_a_run(run: runs.Run, tmp_path: Path) -> None:
    search(run, replace(LOCAL, trials=3))
    result = search(run, replace(LOCAL, trials=7))
    assert (result.passes, len(trials(run))) == (7, 7)
    other = runs.create_run(tmp_path / "toy-11111111", "")
    search(other, replace(LOCAL, trials=7))
    assert settings(run) == settings(other)


def test_a_finished_run_is_left_as_it_is(run: runs.Run, tmp_path: Path) -> None:
    first = search(run)
    marks = tmp_path / "marks"
    marks.mkdir()
    again = search(run, quality=ToyQuality(marks=str(marks)))
    assert not list(marks.iterdir())
    assert again.passes == 6
    assert all(same_front(a, b) for a, b in zip(first.fronts, again.fronts, strict=True))
    assert again.history == first.history


def test_a_wish_to_stop_lets_the_pass_under_way_finish(run: runs.Run) -> None:
    polls = iter([False, False, True])
    result = search(run, should_stop=lambda: next(polls))
    assert (result.stopped, result.passes) == ("interrupted", 2)
    assert [t.state for t in trials(run)] == [TrialState.COMPLETE] * 2


class Interrupting(ToyQuality):
    """Sends SIGINT to its own process in the middle of its second pass."""

    signals = 1

    def record(self, outer: Any, split: str) -> Any:
        if outer.skim or outer.moe or outer.dtype != "fp32":
            for _ in range(self.signals):
                signal.raise_signal(signal.SIGINT)
        return super().record(outer, split)


class InterruptingTwice(Interrupting):
    signals = 2


def test_one_sigint_finishes_the_pass_under_way(run: runs.Run) -> None:
    before = signal.getsignal(signal.SIGINT)
    result = search(run, quality=Interrupting())
    assert (result.stopped, result.passes) == ("interrupted", 2)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_sigint_stops_at_once_and_the_pass_runs_again_later(run: runs.Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(run, quality=InterruptingTwice())
    assert [t.state for t in trials(run)] == [TrialState.COMPLETE, TrialState.RUNNING]
    search(run)
    assert [t.state for t in trials(run)][:3] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]
    assert trials(run)[2].user_attrs["retry_of"] == 1


def test_a_search_beside_the_main_thread_leaves_signals_alone(run: runs.Run) -> None:
    results: list[SearchResult] = []
    thread = threading.Thread(target=lambda: results.append(search(run)))
    thread.start()
    thread.join()
    assert results[0].passes == 6


def test_no_pass_begins_after_the_time_limit(run: runs.Run) -> None:
    options = replace(LOCAL, trials=50, timeout_s=0.3)
    result = search(run, options, quality=ToyQuality(sleep_s=0.2))
    assert result.stopped == "timeout"
    assert 1 <= result.passes < 50


# storages


def test_a_database_holds_the_study(run: runs.Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    for count in (2, 4):
        result = search(run, replace(LOCAL, trials=count, storage=url))
        assert result.passes == count
    assert not run.journal.exists()
    found = trials(run, url)
    assert [t.state for t in found] == [TrialState.COMPLETE] * 4
    assert len({setting_key(t.user_attrs["setting"]) for t in found}) == 4


def test_a_study_in_memory_lives_on_in_its_journal_copy(run: runs.Run) -> None:
    for count in (3, 6):
        result = search(run, replace(LOCAL, trials=count, storage="memory"))
        assert result.passes == count
    assert len(set(settings(run))) == len(trials(run)) == 6
    assert search(run).passes == 6


def test_two_drivers_on_one_run_are_refused(run: runs.Run) -> None:
    with (
        runs.lock(run.lock_file),
        pytest.raises(InputError, match=f"pid {os.getpid()} on .*another driver"),
    ):
        search(run)
    assert not run.journal.exists()


def test_a_run_folder_can_be_moved_in_between(run: runs.Run, tmp_path: Path) -> None:
    search(run, replace(LOCAL, trials=3))
    moved = run.path.rename(tmp_path / "elsewhere")
    text = str(tmp_path).encode()
    assert not [f for f in moved.rglob("*") if f.is_file() and text in f.read_bytes()]
    assert search(runs.open_run(moved), replace(LOCAL, trials=5)).passes == 5
