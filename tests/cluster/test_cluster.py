"""One job file: in one process, on a real cluster of two nodes, and in a real PostgreSQL."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from postgres import PASSWORD, postgres, why_not
from ray_nodes import TwoNodes, family, kill_tree, two_nodes
from tiny_job import comparable, write_job
from toy_problem import ToyQuality, toy_problem, toy_space

from dynsearch.cli import run
from dynsearch.search import runs
from dynsearch.search.driver import SearchOptions
from dynsearch.search.encoding import setting_key
from dynsearch.search.study import open_storage, trial_values
from dynsearch.search.workers import PassWorker

KILLS = 5
SEARCH = Path(__file__).parents[1] / "search"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    write_job(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
        patch.setenv("RAY_AUTH_MODE", "disabled")  # whatever this process did before
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"):
            patch.delenv(name, raising=False)
        yield home


@pytest.fixture(scope="module")
def alone(home: Path) -> dict[str, Any]:
    """The job in one process."""
    assert run(["search", str(home / "job.toml"), "--out", str(home / "alone"), "-q"]) == 0
    return front_of(home / "alone")


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[TwoNodes]:
    variables = {"DYNSEARCH_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    # Where workers find toy_problem.
    path = os.pathsep.join([str(SEARCH), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        with two_nodes(home, variables) as nodes:
            (home / "token").write_text(nodes.token)
            yield nodes


def front_of(out: Path) -> dict[str, Any]:
    (file,) = out.glob("tiny-*/front.json")
    front: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return front


def call(
    capfd: pytest.CaptureFixture[str], nodes: TwoNodes, home: Path, *words: str
) -> tuple[int, dict[str, Any], str]:
    access = ["--address", nodes.address, "--token-file", str(home / "token"), "--json"]
    status = run([*words, *access])
    said = capfd.readouterr()
    assert nodes.token not in said.out + said.err
    return status, json.loads(said.out), said.err


def holds(folder: Path, secret: str) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.ray
def test_a_submitted_job_finds_what_one_process_finds(
    home: Path, alone: dict[str, Any], cluster: TwoNodes, capfd: pytest.CaptureFixture[str]
) -> None:
    out = home / "shared"
    words = ["submit", str(home / "job.toml"), "--out", str(out), "--workers", "2", "--follow"]
    status, found, log = call(capfd, cluster, home, *words)
    assert (status, found["state"], found["passes"], found["total"]) == (0, "succeeded", 2, 2), log
    assert "passes 2/2 done" in log
    assert comparable(front_of(out)) == comparable(alone)

    folder = Path(found["run"])
    assert folder.parent == out
    assert run(["resume", str(folder), "-q"]) == 0  # its model and texts are still there
    capfd.readouterr()
    assert not [*holds(folder, cluster.token), *holds(out / "inputs", cluster.token)]
    status, listed, _ = call(capfd, cluster, home, "list")
    assert (listed["jobs"][0]["id"], listed["jobs"][0]["passes"]) == (found["id"], 2)
    status, told, _ = call(capfd, cluster, home, "logs", found["id"])
    assert f"run: {folder}" in told["log"]
    status, stopped, _ = call(capfd, cluster, home, "stop", found["id"])
    assert (status, stopped["stopping"]) == (0, False)


def test_a_job_in_postgresql_finds_what_a_journal_finds(
    home: Path, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := why_not():
        pytest.skip(reason)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    out = home / "database"
    with postgres() as server:
        words = ["search", str(home / "job.toml"), "--out", str(out), "--storage"]
        assert run([*words, server.url, "-q"]) == 0
        assert comparable(front_of(out)) == comparable(alone)
        assert run([*words, server.url, "--trials", "3", "-q"]) == 0
    assert not holds(out, PASSWORD)
    assert not list(out.glob("tiny-*/study.journal"))


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_that_is_stopped_writes_its_front_and_goes_on_when_submitted_again(
    home: Path, cluster: TwoNodes, capfd: pytest.CaptureFixture[str]
) -> None:
    out = home / "stopped"
    words = ["submit", str(home / "job.toml"), "--out", str(out), "--seed", "1"]
    _, job, _ = call(capfd, cluster, home, *words, "--trials", "40", "--workers", "1")
    passes = 0
    while passes < 2:
        time.sleep(1.0)
        _, found, _ = call(capfd, cluster, home, "status", job["id"])
        passes = found["jobs"][0]["passes"]
        assert found["jobs"][0]["state"] in ("pending", "running"), found
    _, stopped, _ = call(capfd, cluster, home, "stop", job["id"])
    assert stopped["stopping"]
    call(capfd, cluster, home, "logs", job["id"], "--follow")
    _, found, _ = call(capfd, cluster, home, "status", job["id"])
    assert found["jobs"][0]["run"] is not None
    before = len(front_of(out)["hypervolume"])
    assert 2 <= before < 40
    status, again, _ = call(capfd, cluster, home, *words, "--trials", str(before + 1), "--follow")
    assert (status, again["passes"]) == (0, before + 1)


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_with_bad_input_ends_as_bad_input(
    home: Path, cluster: TwoNodes, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (home / "job.toml").read_text().replace('folder = "model"', 'package = "no_such_one"')
    (home / "bad.toml").write_text(text)
    words = ["submit", str(home / "bad.toml"), "--out", str(home / "bad"), "--in-place"]
    status, found, _ = call(capfd, cluster, home, *words, "--follow")
    assert (status, found["state"], found["exit_status"]) == (2, "failed", 2)
    assert "no_such_one" in found["reason"]


# kills


def drive(
    folder: Path, nodes: TwoNodes, options: SearchOptions, marks: Path, *, sleep_s: float = 0.3
) -> subprocess.Popen[bytes]:
    """A driver that joins the cluster, in a process of its own."""
    quality = {"sleep_s": sleep_s, "marks": str(marks)}
    variables = {
        "RAY_ADDRESS": nodes.gcs,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": nodes.token,
        "PYTHONPATH": os.pathsep.join([str(SEARCH), str(SEARCH.parents[1])]),
    }
    command = [sys.executable, str(SEARCH / "drive.py"), str(folder)]
    words = [json.dumps(asdict(options)), json.dumps(quality)]
    return subprocess.Popen([*command, *words], env=os.environ | variables)


def finished(one: runs.Run) -> list[tuple[str, tuple[float, ...]]]:
    study = optuna.load_study(study_name=one.study_name, storage=open_storage(one, "journal"))
    done = study.get_trials(states=(TrialState.COMPLETE,))
    return [(setting_key(t.user_attrs["setting"]), tuple(t.values)) for t in done]


def begun(marks: Path, driver: subprocess.Popen[bytes], more: int) -> None:
    wanted = len(list(marks.iterdir())) + more
    while len(list(marks.iterdir())) < wanted and driver.poll() is None:
        time.sleep(0.01)


def check_nothing_is_lost_or_mispaired(one: runs.Run, trials: int) -> None:
    """Every trial holds what its own setting yields when it is run once more, here."""
    study = optuna.load_study(study_name=one.study_name, storage=open_storage(one, "journal"))
    done = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(done) == trials
    settings = [t.user_attrs["setting"] for t in done]
    assert max(Counter(setting_key(setting) for setting in settings).values()) == 1
    quality, problem, space = ToyQuality(), toy_problem(), toy_space()
    spec = {**problem.inner_spec, "majority_error": quality.majority_error("search")}
    worker = PassWorker(quality, spec, "search")
    reference = worker.run(space.full(), None, None).trace
    for trial in done:
        outer = space.decode(trial.user_attrs["setting"])
        assert trial.values == trial_values(worker.run(outer, None, reference).fronts)


def work_on_node(nodes: TwoNodes, marks: Path, driver: subprocess.Popen[bytes]) -> None:
    """Wait until a worker of the second node begins a pass."""
    before = set(marks.iterdir())
    while driver.poll() is None:
        assert nodes.node is not None
        there = set(family(nodes.node.pid))
        if any(int(m.name.partition("-")[2]) in there for m in set(marks.iterdir()) - before):
            return
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.ray
def test_a_node_killed_five_times_in_mid_pass_loses_no_pass(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    one = runs.create_run(tmp_path / "toy-00000000", "")
    marks = tmp_path / "marks"
    marks.mkdir()
    rng = random.Random(6)
    options = SearchOptions(trials=300, workers=2, sampler="random")
    with drive(one.path, cluster, options, marks, sleep_s=1.0) as driver:
        for _ in range(KILLS):
            work_on_node(cluster, marks, driver)
            time.sleep(rng.random() * 0.8)
            cluster.kill_node()
            cluster.wait_for(1)  # the other goes on alone
            cluster.start_node()
            cluster.wait_for(2)
        driver.send_signal(signal.SIGINT)
        assert driver.wait() == 0
    passes = len(list(marks.iterdir()))
    study = optuna.load_study(study_name=one.study_name, storage=open_storage(one, "journal"))
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}
    assert passes - KILLS <= len(study.trials) < passes
    check_nothing_is_lost_or_mispaired(one, len(study.trials))


@pytest.mark.slow
@pytest.mark.ray
def test_a_driver_on_a_cluster_killed_five_times_loses_nothing_that_was_told(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    one = runs.create_run(tmp_path / "toy-11111111", "")
    marks = tmp_path / "marks"
    marks.mkdir()
    rng = random.Random(7)
    options = SearchOptions(trials=30, workers=2, sampler="random")
    before: list[tuple[str, tuple[float, ...]]] = []
    for _ in range(5):
        with drive(one.path, cluster, options, marks) as driver:
            begun(marks, driver, rng.randint(2, 4))
            time.sleep(rng.random() * 0.3)
            kill_tree(driver)
        runs.mend_journal(one)
        assert finished(one)[: len(before)] == before
        before = finished(one)
    with drive(one.path, cluster, options, marks) as driver:
        assert driver.wait() == 0
    assert finished(one)[: len(before)] == before
    check_nothing_is_lost_or_mispaired(one, 30)
