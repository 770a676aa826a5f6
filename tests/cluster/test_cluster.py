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
from tiny_job import comparable, passes_told, write_large_job
from told import check_none_lost_twice_or_mispaired, finished

from dynsearch.cli import run
from dynsearch.search import runs
from dynsearch.search.driver import SearchOptions
from dynsearch.search.study import open_storage

KILLS = 5
SEARCH = Path(__file__).parents[1] / "search"
ROOT = SEARCH.parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    write_large_job(home)
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
def test_one_job_file_finds_the_same_front_wherever_it_runs(
    home: Path, cluster: TwoNodes, capfd: pytest.CaptureFixture[str]
) -> None:
    """With as many passes as the space has settings, nothing depends on their order."""
    if reason := why_not():
        pytest.skip(reason)

    def front(name: str, *words: str, here: bool = True) -> list[tuple[Any, ...]]:
        file, out = str(home / "job.toml"), home / "everywhere" / name
        more = ["--out", str(out), "--trials", "3", *words]
        if here:
            command = [sys.executable, "-m", "dynsearch.cli", "search", file, *more, "-q"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            said = done.stdout + done.stderr
        else:
            status, found, said = call(capfd, cluster, home, "submit", file, *more, "--follow")
            assert (status, found["passes"]) == (0, 3), said
        assert PASSWORD not in said
        assert not holds(out, PASSWORD)
        return comparable(front_of(out))

    with postgres() as server:
        (home / ".pgpass").write_text(f"127.0.0.1:{server.port}:*:*:{PASSWORD}\n")
        (home / ".pgpass").chmod(0o600)  # the cluster's home
        whole = front("one", "--workers", "1")
        assert front("two", "--workers", "2") == whole
        assert front("cluster", "--workers", "2", here=False) == whole
        assert front("database", "--workers", "1", "--storage", server.url_with_password) == whole
        other = ["--workers", "2", "--storage", server.new_database("other")]
        assert front("cluster-database", *other, here=False) == whole
    assert not holds(home / "everywhere", cluster.token)


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_that_is_stopped_writes_its_front_and_goes_on_when_submitted_again(
    home: Path, cluster: TwoNodes, capfd: pytest.CaptureFixture[str]
) -> None:
    out = home / "stopped"
    words = ["submit", str(home / "large.toml"), "--out", str(out), "--workers", "1"]
    _, job, _ = call(capfd, cluster, home, *words, "--trials", "300")
    while passes_told(out) < 2:
        _, found, _ = call(capfd, cluster, home, "status", job["id"])
        assert found["jobs"][0]["state"] in ("pending", "running"), found
    _, stopped, _ = call(capfd, cluster, home, "stop", job["id"])
    assert stopped["stopping"]
    _, log, _ = call(capfd, cluster, home, "logs", job["id"], "--follow")
    _, found, _ = call(capfd, cluster, home, "status", job["id"])
    assert found["jobs"][0]["run"] is not None, log
    before = len(front_of(out)["hypervolume"])
    assert 2 <= before < 300
    status, again, _ = call(capfd, cluster, home, *words, "--trials", str(before + 1), "--follow")
    assert (status, again["passes"]) == (0, before + 1)


@pytest.mark.slow
@pytest.mark.ray
def test_a_submitted_job_whose_driver_is_killed_goes_on_when_submitted_again(
    home: Path, cluster: TwoNodes, capfd: pytest.CaptureFixture[str]
) -> None:
    out = home / "killed"
    words = ["submit", str(home / "large.toml"), "--out", str(out), "--workers", "2"]
    _, job, _ = call(capfd, cluster, home, *words, "--trials", "300")
    while passes_told(out) < 3:
        _, found, _ = call(capfd, cluster, home, "status", job["id"])
        assert found["jobs"][0]["state"] in ("pending", "running"), found
    (folder,) = out.glob("tiny-*")
    os.kill(json.loads((folder / "lock").read_text())["pid"], signal.SIGKILL)
    call(capfd, cluster, home, "logs", job["id"], "--follow")
    _, found, _ = call(capfd, cluster, home, "status", job["id"])
    assert found["jobs"][0]["state"] == "failed"
    one = runs.open_run(folder)
    runs.mend_journal(one)
    before = Counter(finished(one))
    more = ["--trials", str(before.total() + 2), "--follow"]
    status, again, log = call(capfd, cluster, home, *words, *more)
    assert (status, again["passes"]) == (0, before.total() + 2), log
    after = Counter(finished(one))
    assert before <= after
    assert max(Counter(setting for setting, _ in after).values()) == 1


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_with_bad_input_ends_as_bad_input(
    home: Path, cluster: TwoNodes, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (home / "job.toml").read_text().replace('folder = "model"', 'package = "no_such_one"')
    (home / "bad.toml").write_text(text)
    words = ["submit", str(home / "bad.toml"), "--out", str(home / "bad"), "--in-place"]
    status, found, log = call(capfd, cluster, home, *words, "--follow")
    assert (status, found["state"], found["exit_status"]) == (2, "failed", 2), (found, log)
    assert "no_such_one" in found["reason"]


@pytest.mark.slow
@pytest.mark.ray
def test_a_driver_with_a_wrong_token_is_refused_in_one_line(
    home: Path, cluster: TwoNodes, tmp_path: Path
) -> None:
    wrong = "w" * 64
    access = {"RAY_ADDRESS": cluster.gcs, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": wrong}
    words = ["search", str(home / "job.toml"), "--out", str(tmp_path), "--workers", "2", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "dynsearch.cli", *words],
        env=os.environ | access,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert "token" in line
    assert wrong not in done.stdout + done.stderr
    assert not holds(tmp_path, wrong)


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


def begun(marks: Path, driver: subprocess.Popen[bytes], more: int) -> None:
    wanted = len(list(marks.iterdir())) + more
    while len(list(marks.iterdir())) < wanted and driver.poll() is None:
        time.sleep(0.01)


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
    check_none_lost_twice_or_mispaired(one, len(study.trials))


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
    before: Counter[tuple[str, tuple[float, ...]]] = Counter()
    for _ in range(KILLS):
        with drive(one.path, cluster, options, marks) as driver:
            begun(marks, driver, rng.randint(2, 4))
            time.sleep(rng.random() * 0.3)
            kill_tree(driver)
        runs.mend_journal(one)
        assert before <= Counter(finished(one))
        before = Counter(finished(one))
    with drive(one.path, cluster, options, marks) as driver:
        assert driver.wait() == 0
    assert before <= Counter(finished(one))
    check_none_lost_twice_or_mispaired(one, 30)
    assert 0 <= len(list(marks.iterdir())) - 30 <= 2 * KILLS  # two are under way at a time
