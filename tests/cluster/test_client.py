"""The commands of jobs against a dashboard made of the standard library: what goes wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ray.job_submission import JobDetails
from ray_nodes import free_port

from dynsearch.cli import run
from dynsearch.cluster import client
from dynsearch.errors import DynsearchError

TOKEN = "t0ken-of-tests"
DETAILS = {
    "type": "SUBMISSION",
    "submission_id": "tiny-1",
    "status": "FAILED",
    "entrypoint": "python",
    "message": "Job entrypoint command failed with exit code 2",
    "start_time": 1000,
    "end_time": 61_000,
    "metadata": {"dynsearch_job": "tiny", "dynsearch_out": "/out"},
    "driver_exit_code": 2,
}
LOG = (
    "searching\npasses 3/8 done, 1 running, 0 failed | front 4\npasses: 3\nwarning: slow\n"
    f"error: postgresql://me:s3cret@h/db: gone, {TOKEN}\n"
)


class Dashboard(BaseHTTPRequestHandler):
    """What the client asks of Ray's dashboard, answered as Ray 2.60 answers."""

    wants: ClassVar[str] = TOKEN

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {self.wants}":
            given = "Authorization" in self.headers
            self.answer(403 if given else 401, f"Unauthorized: {self.wants}")
        elif self.path == "/api/version":
            self.answer(200, {"version": "4", "ray_version": "2.60.0", "ray_commit": ""})
        elif self.path == "/api/jobs/":
            other = DETAILS | {"submission_id": "other", "metadata": {}}
            newer = DETAILS | {"submission_id": "tiny-2", "start_time": 2000, "status": "RUNNING"}
            self.answer(200, [DETAILS, other, newer | {"end_time": None}])
        elif self.path in ("/api/jobs/tiny-1", "/api/jobs/tiny-2"):
            self.answer(200, DETAILS)
        elif self.path in ("/api/jobs/tiny-1/logs", "/api/jobs/tiny-2/logs"):
            self.answer(200, {"logs": LOG})
        else:
            self.answer(404, "Job does not exist")

    def answer(self, code: int, body: Any) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        kind = "text/plain" if isinstance(body, str) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Dashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, the one object on standard output, and standard error."""
    status = run([*words, "--json"])
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert "s3cret" not in said.out + said.err
    return status, json.loads(said.out), said.err


def test_list_names_our_jobs_newest_first_with_their_passes(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found, _ = call(capsys, "list", "--address", address)
    assert status == 0
    assert [(j["id"], j["state"], j["passes"], j["total"]) for j in found["jobs"]] == [
        ("tiny-2", "running", 3, 8),
        ("tiny-1", "failed", 3, 8),
    ]


def test_status_of_one_says_why_it_failed(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found, _ = call(capsys, "status", "tiny-1", "--address", address)
    (job,) = found["jobs"]
    assert status == 0
    assert job["reason"] == "postgresql://me@h/db: gone, ***"
    assert (job["seconds"], job["out"], job["exit_status"]) == (60.0, "/out", 2)


def test_status_without_an_id_is_of_what_runs(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found, _ = call(capsys, "status", "--address", address)
    assert [job["id"] for job in found["jobs"]] == ["tiny-2"]


def test_logs_are_handed_on_without_secrets(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found, _ = call(capsys, "logs", "tiny-1", "--address", address)
    assert found["log"].startswith("searching\npasses 3/8")
    assert run(["logs", "tiny-1", "--address", address]) == 0
    assert capsys.readouterr().out == LOG.replace(":s3cret", "").replace(TOKEN, "***")


class Talks:
    """In place of Ray's client: a job that writes a little more at each look."""

    def __init__(self, *looks: tuple[str, str] | None) -> None:
        self._looks = list(looks)

    def get_job_info(self, id_: str) -> JobDetails:
        if self._looks[0] is None:
            self._looks.pop(0)
            raise ConnectionError("connection reset")
        return JobDetails(**(DETAILS | {"status": self._looks[0][0]}))

    def get_job_logs(self, id_: str) -> str:
        look = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        assert look is not None
        return look[1]


def test_following_loses_no_line_and_shows_no_half_secret(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_FOLLOW_S", 0.0)
    cluster = client.Cluster(address)
    cluster._client = Talks(
        *[("RUNNING", "")] * 2,
        ("RUNNING", f"one\n{TOKEN[:5]}"),
        None,
        ("RUNNING", f"one\n{TOKEN}\ntw"),
        ("SUCCEEDED", f"one\n{TOKEN}\ntwo"),
    )
    parts: list[str] = []
    cluster.follow("tiny-1", parts.append)
    assert "".join(parts) == "one\n***\ntwo"
    assert not any(TOKEN[:5] in part for part in parts)


def test_following_ends_when_the_cluster_is_gone(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_FOLLOW_S", 0.0)
    cluster = client.Cluster(address)
    cluster._client = Talks(*[("RUNNING", "")] * 2, *[None] * 9)
    with pytest.raises(DynsearchError, match="connection reset"):
        cluster.follow("tiny-1", lambda text: None)


@pytest.mark.parametrize("command", ["status", "logs"])
def test_an_unknown_job_is_bad_input(
    address: str, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    status, found, told = call(capsys, command, "none", "--address", address)
    assert status == 2
    assert "no such job on this cluster" in found["errors"][0]["message"]
    assert len(told.splitlines()) == 1


def test_a_token_comes_from_a_file_or_the_environment(
    address: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-token")
    assert call(capsys, "list", "--address", address, "--token-file", str(file))[0] == 0
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert call(capsys, "list", "--address", address)[0] == 0
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    assert call(capsys, "list", "--address", address)[0] == 0


def test_the_address_given_counts_more_than_those_of_the_environment(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert call(capsys, "list", "--address", address)[0] == 0
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
    assert call(capsys, "list")[0] == 0


@pytest.mark.parametrize(
    ("token", "message"),
    [("another-token", "refused the token; give --token-file"), (None, "wants a token")],
)
def test_a_wrong_token_is_bad_input_and_not_shown(
    address: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    message: str,
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    status, found, told = call(capsys, "list", "--address", address)
    assert status == 2
    assert message in found["errors"][0]["message"]
    assert "another-token" not in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("content", [None, ""])
def test_a_token_file_that_holds_none_is_bad_input(
    address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    status, found, _ = call(capsys, "list", "--address", address, "--token-file", str(file))
    assert (status, found["errors"][0]["key"]) == (2, "--token-file")


def test_an_address_that_does_not_answer_is_bad_input_after_the_stated_wait(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    status, found, _ = call(capsys, "list", "--address", nobody, "--wait", "0.7")
    assert status == 2
    assert "no Ray cluster answered within 0.7 s (refused)" in found["errors"][0]["message"]


def test_what_is_no_address_of_a_dashboard_is_bad_input(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, found, _ = call(capsys, "list", "--address", "127.0.0.1:6379")
    assert status == 2
    assert "http://HOST:8265" in found["errors"][0]["message"]


def test_a_job_with_a_password_is_not_sent(
    address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tiny_job import write_job

    job = write_job(tmp_path)
    url = "postgresql://me:s3cret@h/db"
    words = ("submit", str(job), "--address", address, "--storage", url)
    status, found, _ = call(capsys, *words)
    assert status == 2
    assert found["errors"][0]["key"] == "search.storage"
