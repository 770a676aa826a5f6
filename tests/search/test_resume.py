"""A driver that dies loses nothing that was finished, and counts nothing twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from told import check_none_lost_twice_or_mispaired, finished
from toy_problem import ToyQuality, toy_problem, toy_space

import dynsearch.search.ledger as ledger_module
import dynsearch.search.sampler as sampler_module
import dynsearch.search.study as study_module
from dynsearch.errors import InputError
from dynsearch.quality.trace import load_trace
from dynsearch.search import runs
from dynsearch.search.driver import SearchOptions, SearchResult, run_search
from dynsearch.search.study import open_storage

DRIVE = Path(__file__).parent / "drive.py"
OPTIONS = SearchOptions(trials=6, workers=0, sampler="random")


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return runs.create_run(tmp_path / "toy-00000000", "")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def search(run: runs.Run, options: SearchOptions = OPTIONS, **quality: Any) -> SearchResult:
    return run_search(
        run,
        space=toy_space(),
        quality=ToyQuality(**quality),
        problem=toy_problem(),
        options=options,
    )


def trials(run: runs.Run) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=run.study_name, storage=open_storage(run, "journal"))
    return study.trials


def kill_driver(run: runs.Run, marks: Path, options: SearchOptions, rng: random.Random) -> None:
    """Start a driver and kill it at a random moment after a random number of passes began."""
    begun = len(list(marks.iterdir())) + rng.randint(1, 2)
    quality = {"sleep_s": 0.05, "marks": str(marks)}
    command = [sys.executable, str(DRIVE), str(run.path), json.dumps(asdict(options))]
    root = DRIVE.parents[2]
    path = {"PYTHONPATH": f"{DRIVE.parent}:{root}"}  # where Ray workers find toy_problem
    with subprocess.Popen([*command, json.dumps(quality)], env=os.environ | path) as process:
        while len(list(marks.iterdir())) < begun and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.12)
        process.send_signal(signal.SIGKILL)


def check_nothing_lost(
    run: runs.Run, marks: Path, options: SearchOptions, rng: random.Random, kills: int
) -> None:
    """Kill drivers at random points; lost are at most the passes that were under way."""
    before: Counter[tuple[str, tuple[float, ...]]] = Counter()
    for _ in range(kills):
        kill_driver(run, marks, options, rng)
        runs.mend_journal(run)
        done = Counter(finished(run))
        assert before <= done
        before = done
    result = search(run, replace(options, workers=0), marks=str(marks))
    assert result.passes == options.trials
    assert before <= Counter(finished(run))
    check_none_lost_twice_or_mispaired(run, options.trials)
    again = len(list(marks.iterdir())) - options.trials
    assert 0 <= again <= kills * max(1, options.workers)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_driver_loses_nothing_finished_and_draws_the_same_settings(
    run: runs.Run, marks: Path, tmp_path: Path, seed: int
) -> None:
    check_nothing_lost(run, marks, OPTIONS, random.Random(seed), kills=1)
    straight = runs.create_run(tmp_path / "toy-11111111", "")
    search(straight)
    assert finished(run) == finished(straight)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["dynsearch", "random", "tpe", "nsga2"])
def test_a_driver_killed_five_times_ends_where_an_undisturbed_one_does(
    run: runs.Run, marks: Path, tmp_path: Path, sampler: str
) -> None:
    options = replace(OPTIONS, trials=24, sampler=sampler)
    check_nothing_lost(run, marks, options, random.Random(sampler), kills=5)
    straight = runs.create_run(tmp_path / "toy-11111111", "")
    search(straight, options)
    assert finished(run) == finished(straight)


@pytest.mark.slow
@pytest.mark.ray
def test_a_driver_with_ray_workers_killed_five_times_loses_nothing(
    run: runs.Run, marks: Path
) -> None:
    options = replace(OPTIONS, trials=14, workers=2)
    check_nothing_lost(run, marks, options, random.Random(5), kills=5)


class Dies(BaseException):
    """Stands for the end of the process at a chosen line."""


def die_at(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int
) -> Callable[[], None]:
    """Let the `call`-th call of `module.name` end the search, before it does anything."""
    real, calls = getattr(module, name), []

    def replaced(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            raise Dies
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, replaced)
    return lambda: monkeypatch.setattr(module, name, real)


def test_a_pass_whose_trace_is_on_disk_is_not_run_again(
    run: runs.Run, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = die_at(monkeypatch, ledger_module, "tell_complete", call=3)
    with pytest.raises(Dies):
        search(run, marks=str(marks))
    live()
    assert [t.state for t in trials(run)][-1] == TrialState.RUNNING
    search(run, marks=str(marks))
    assert len(list(marks.iterdir())) == 6
    assert [t.state for t in trials(run)] == [TrialState.COMPLETE] * 6


def test_a_pass_told_in_part_is_told_in_full(
    run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = {"latency_worst_s": 1.0, "peak_bytes": 5000.0}

    def search_within() -> SearchResult:
        return run_search(
            run,
            space=toy_space(),
            quality=ToyQuality(),
            problem=toy_problem(budgets=budgets),
            options=OPTIONS,
        )

    live = die_at(monkeypatch, optuna.trial.Trial, "set_constraint", call=4)
    with pytest.raises(Dies):
        search_within()
    live()
    assert search_within().passes == 6
    for t in trials(run):
        assert t.state == TrialState.COMPLETE
        assert set(t.constraints) == set(budgets)


def test_a_pass_that_left_no_trace_runs_again_once(
    run: runs.Run, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = die_at(monkeypatch, ledger_module, "save_trace", call=3)
    with pytest.raises(Dies):
        search(run, marks=str(marks))
    live()
    search(run, marks=str(marks))
    states = Counter(t.state for t in trials(run))
    assert states == {TrialState.COMPLETE: 6, TrialState.FAIL: 1}
    (retry,) = [t for t in trials(run) if "retry_of" in t.user_attrs]
    stale = trials(run)[retry.user_attrs["retry_of"]]
    assert (stale.state, stale.params) == (TrialState.FAIL, retry.params)
    assert len(list(marks.iterdir())) == 7


@pytest.mark.parametrize("storage", ["journal", "memory"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_driver_that_dies_in_one_of_its_first_passes_keeps_their_order(
    run: runs.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: int, storage: str
) -> None:
    """The full network, which all are compared with, then the same in other formats."""
    options = replace(OPTIONS, storage=storage, sampler="dynsearch")
    live = die_at(monkeypatch, ledger_module, "save_trace", call=call)
    with pytest.raises(Dies):
        search(run, options)
    live()
    search(run, options)
    straight = runs.create_run(tmp_path / "toy-11111111", "")
    search(straight, options)
    assert finished(run) == finished(straight)
    check_none_lost_twice_or_mispaired(run, OPTIONS.trials)


@pytest.mark.parametrize("call", [1, 2])
def test_a_driver_that_dies_while_it_queues_anew_keeps_the_order_too(
    run: runs.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: int
) -> None:
    live = die_at(monkeypatch, ledger_module, "save_trace", call=1)
    with pytest.raises(Dies):
        search(run)
    live()
    for name in ("enqueue", "tell_failed"):
        live = die_at(monkeypatch, study_module, name, call=call)
        with pytest.raises(Dies):
            search(run)
        live()
    assert search(run).passes == OPTIONS.trials
    straight = runs.create_run(tmp_path / "toy-11111111", "")
    search(straight)
    assert finished(run) == finished(straight)
    check_none_lost_twice_or_mispaired(run, OPTIONS.trials)


def test_a_trial_without_its_parameters_is_given_up(
    run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = die_at(monkeypatch, sampler_module.FreeCheckSampler, "sample_relative", call=2)
    with pytest.raises(Dies):
        search(run)
    live()
    assert search(run).passes == 6
    states = Counter(t.state for t in trials(run))
    assert states == {TrialState.COMPLETE: 6, TrialState.FAIL: 1}
    assert len(trials(run)) == 7


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def test_a_damaged_trace_of_an_unfinished_pass_is_run_again(
    run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = die_at(monkeypatch, ledger_module, "tell_complete", call=3)
    with pytest.raises(Dies):
        search(run)
    live()
    (stale,) = [t for t in trials(run) if t.state == TrialState.RUNNING]
    (trace,) = (run.path / "traces").glob(f"{stale.number}-*.npz")
    damage(trace)
    assert search(run).passes == 6


def test_a_damaged_trace_of_the_full_network_is_refused(run: runs.Run) -> None:
    search(run)
    trace = run.path / trials(run)[0].user_attrs["trace"]
    damage(trace)
    with pytest.raises(InputError, match="damaged") as caught:
        search(run)
    assert caught.value.problems[0].file == str(trace)


def test_a_damaged_trace_is_refused_when_fronts_are_rebuilt_from_it(run: runs.Run) -> None:
    search(run)
    trace = run.path / trials(run)[2].user_attrs["trace"]
    damage(trace)
    run.fronts_file(trace).unlink()
    with pytest.raises(InputError, match="damaged"):
        search(run)


def test_traces_of_other_weights_are_refused(run: runs.Run) -> None:
    search(run)
    with pytest.raises(InputError, match="other weights"):
        search(run, seed=1)


def test_lost_fronts_are_rebuilt_from_traces_without_a_pass(run: runs.Run, marks: Path) -> None:
    first = search(run)
    for file in (run.path / "fronts").iterdir():
        file.unlink()
    again = search(run, marks=str(marks))
    assert not list(marks.iterdir())
    assert len(trials(run)) == 6
    for a, b in zip(first.fronts, again.fronts, strict=True):
        assert sorted(a.error_bound) == sorted(b.error_bound)
    assert len(list((run.path / "fronts").iterdir())) == 6


def test_lost_traces_are_recorded_again_and_no_trial_is_added(run: runs.Run, marks: Path) -> None:
    first = search(run)
    for number in (0, 3):
        (run.path / trials(run)[number].user_attrs["trace"]).unlink()
    again = search(run, marks=str(marks))
    assert len(list(marks.iterdir())) == 2
    assert len(trials(run)) == 6
    for a, b in zip(first.fronts, again.fronts, strict=True):
        assert np.array_equal(np.sort(a.error_bound), np.sort(b.error_bound))


def test_the_log_is_rebuilt_from_the_study(run: runs.Run) -> None:
    search(run)
    log = run.log.read_text()
    run.log.unlink()
    search(run)
    assert run.log.read_text() == log


def test_a_newer_trace_is_refused(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import dynsearch.quality.trace as trace_module

    with monkeypatch.context() as patch:
        patch.setattr(trace_module, "SCHEMA_VERSION", 2)
        search(run)
    with pytest.raises(InputError, match="newer schema"):
        search(run)
    with pytest.raises(InputError, match="newer schema"):
        load_trace(next((run.path / "traces").iterdir()))
