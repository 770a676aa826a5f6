from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from told import check_none_lost_twice_or_mispaired
from toy_problem import ToyQuality, toy_problem, toy_space

from dynsearch.errors import DynsearchError, InputError
from dynsearch.search import remote, runs
from dynsearch.search.driver import SearchOptions, SearchResult, run_search
from dynsearch.search.remote import open_ray
from dynsearch.search.workers import PassTask, PassWorker, open_executor
from search_spaces.candidate import Candidate

PASS_S = 0.15  # of a pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for this module, started the way a search starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where workers find toy_problem
        with open_ray(2):
            yield


def spec() -> dict[str, Any]:
    return {**toy_problem().inner_spec, "majority_error": ToyQuality().majority_error("search")}


def full() -> Candidate:
    return toy_space().full()


def search(run: runs.Run, trials: int, **quality: Any) -> SearchResult:
    return run_search(
        run,
        space=toy_space(),
        quality=ToyQuality(**quality),
        problem=toy_problem(),
        options=SearchOptions(trials=trials, workers=2, sampler="random"),
    )


def test_a_worker_replays_a_given_trace_to_the_same_fronts() -> None:
    worker = PassWorker(ToyQuality(), spec(), "search")
    first = worker.run(full(), None, None)
    again = worker.run(full(), first.trace, first.trace)
    for a, b in zip(first.fronts.devices, again.fronts.devices, strict=True):
        assert np.array_equal(a.error_bound, b.error_bound)


def test_a_source_rebuilt_from_its_payload_records_the_same_trace() -> None:
    quality = ToyQuality()
    for array in quality.arrays.values():
        array.flags.writeable = False
    again = ToyQuality.from_payload(quality.payload())
    assert np.array_equal(again.record(full(), "s").logits, quality.record(full(), "s").logits)


def test_a_figure_that_is_not_finite_fails_the_pass() -> None:
    broken = spec() | {
        "majority_error": float("nan"),
        "anchors": {"slow": (0, 0, 0), "fast": (0,)},
    }
    with open_executor(ToyQuality(), broken, split="search", workers=0) as executor:
        executor.submit(PassTask(number=7, outer=full()))
        (outcome,) = executor.wait()
    assert outcome.number == 7
    assert outcome.result is None
    assert "anchor_values on slow is not finite" in outcome.reason


def test_this_process_offers_one_slot() -> None:
    with open_executor(ToyQuality(), spec(), split="search", workers=0) as executor:
        assert (executor.free, executor.busy) == (1, 0)
        executor.submit(PassTask(number=0, outer=full()))
        assert (executor.free, executor.busy) == (0, 1)
        executor.wait()
        assert (executor.free, executor.busy) == (1, 0)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_ray_workers_find_what_this_process_finds() -> None:
    outer = toy_space().decode(toy_space().full_params() | {"keep_after_2": 0.5})
    fronts = []
    for workers in (0, 2):
        with open_executor(ToyQuality(), spec(), split="search", workers=workers) as executor:
            executor.set_reference(ToyQuality().record(full(), "search"))
            executor.submit(PassTask(number=1, outer=outer))
            outcomes = []
            while not outcomes:
                outcomes = executor.wait()
            assert outcomes[0].result is not None
            fronts.append(outcomes[0].result.fronts.devices)
    for a, b in zip(*fronts, strict=True):
        assert np.array_equal(a.error_bound, b.error_bound)
        assert np.array_equal(a.policies.thresholds, b.policies.thresholds)


def lost_on_nodes() -> type[ToyQuality]:
    """A source whose module no worker can import."""
    return type("ToyQuality", (ToyQuality,), {"__module__": "module_of_the_driver_alone"})


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_worker_without_what_the_model_needs_is_one_clear_error() -> None:
    with (
        pytest.raises(DynsearchError, match=r"a worker cannot start: ModuleNotFoundError.*node\?"),
        open_executor(lost_on_nodes()(), spec(), split="search", workers=1),
    ):
        pass


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_worker_of_another_version_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "installed_version", lambda: "9.9.9")
    with (
        pytest.raises(DynsearchError, match=r"a node has dynsearch .*, the driver 9\.9\.9"),
        open_executor(ToyQuality(), spec(), split="search", workers=1),
    ):
        pass


def test_a_cluster_that_does_not_answer_is_bad_input_after_the_stated_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "WAIT_S", 0.4)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(InputError, match=r"RAY_ADDRESS = 127.*within 0\.4 s \(ConnectionRefused"):
        remote.slots(0)


@pytest.mark.parametrize(
    ("address", "wanted", "workers"),
    [("", 1, 0), ("", 2, 2), ("http://head:8265", 1, 0), ("local", 3, 3), ("10.0.0.1:6379", 1, 1)],
)
def test_one_worker_needs_ray_only_on_a_cluster(
    monkeypatch: pytest.MonkeyPatch, address: str, wanted: int, workers: int
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert remote.slots(wanted) == workers


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_without_a_gpu_the_same_job_runs_on_processors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="dynsearch.search.remote")
    with open_executor(ToyQuality(), spec(), split="search", workers=1, gpu_share=0.5) as executor:
        executor.submit(PassTask(number=0, outer=full()))
        while not (done := executor.wait()):
            pass
    assert done[0].result.trace.header["device"] == "cpu"
    assert "Ray has no GPU" in caplog.text


HALVES = """
import time, ray
from test_workers import full, spec
from toy_problem import ToyQuality
from dynsearch.search.workers import PassTask, open_executor
ray.init(address="local", num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False)
with open_executor(ToyQuality(), spec(), split="search", workers=3, gpu_share=0.5) as executor:
    while executor.free < 2:
        executor.wait()
    until = time.monotonic() + 3
    while time.monotonic() < until:
        executor.wait()
    started = executor.free
    executor.submit(PassTask(number=0, outer=full()))
    while not (done := executor.wait()):
        pass
    print(started, done[0].result.trace.header["device"])
"""


@pytest.mark.ray
def test_workers_share_a_gpu_and_no_more_than_fit_on_it() -> None:
    """A GPU that Ray is told of: what is tested is who gets a share, not what runs on it."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", HALVES], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["2", "cuda"], done.stderr[-2000:]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_an_exception_in_a_remote_pass_fails_that_trial_alone(tmp_path: Path) -> None:
    run = runs.create_run(tmp_path / "toy-00000000", "")
    result = search(run, 6, fails=("bf16",))
    assert result.passes == 6
    assert result.failed > 0
    assert result.reason == "RuntimeError: no kernel for bf16"


def kill_workers(marks: Path, times: int, rng: random.Random) -> None:
    """Kill workers at random points: a while after some passes more have begun."""
    seen = 2
    for _ in range(times):
        wanted = seen + rng.randint(1, 3)
        while len(files := sorted(marks.iterdir())) < wanted:
            time.sleep(0.005)
        time.sleep(rng.random() * PASS_S)
        seen = len(files)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(files[-1].name.partition("-")[2]), signal.SIGKILL)


def check_no_trial_is_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], *, trials: int, kills: int
) -> None:
    run = runs.create_run(tmp_path / "toy-00000000", "")
    marks = tmp_path / "marks"
    marks.mkdir()
    arguments = (marks, kills, random.Random(kills))
    killer = threading.Thread(target=kill_workers, args=arguments, daemon=True)
    killer.start()
    result = search(run, trials, sleep_s=PASS_S, marks=str(marks))
    killer.join(timeout=1)
    assert not killer.is_alive()
    assert (result.passes, result.failed) == (trials, 0)
    check_none_lost_twice_or_mispaired(run, trials)
    again = len(list(marks.iterdir())) - trials  # passes that were under way, and no others
    assert 1 <= again <= kills
    assert capfd.readouterr().out == ""  # standard output is for results


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_workers_killed_in_mid_pass_lose_no_trial(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_no_trial_is_lost(tmp_path, capfd, trials=8, kills=2)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_killed_five_times_lose_no_trial(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_no_trial_is_lost(tmp_path, capfd, trials=24, kills=5)
