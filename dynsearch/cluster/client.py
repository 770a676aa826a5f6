"""Ray's Job Submission, with a stated wait, tokens that are never shown, and one line an error."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from ray.job_submission import JobSubmissionClient

from dynsearch.cluster.luggage import pack
from dynsearch.errors import DynsearchError, InputError
from dynsearch.job import Job
from dynsearch.redact import keep_secret, redact

WAIT_S = 10.0  # for the cluster to answer
FOLLOW_RETRIES = 5  # looks at a log without an answer, one after another
STOP_WAIT_S = 3600  # for passes under way and the front, before Ray kills the driver
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_ADDRESS = "RAY_API_SERVER_ADDRESS"
_TOKEN, _TOKEN_PATH, _MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_OURS = "dynsearch_job"  # key of a job's metadata
_OUT = "dynsearch_out"
_PAUSE_S = 0.5
_FOLLOW_S = 1.0  # between two looks at a log
_PASSES = re.compile(r"^passes:? (\d+)(?:/(\d+))?", re.MULTILINE)
_RUN = re.compile(r"^run: (.+)$", re.MULTILINE)
_ERROR = re.compile(r"^error: (.+)$", re.MULTILINE)
_COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """A submitted job as the cluster tells of it."""

    id: str
    state: str  # pending, running, stopped, succeeded or failed
    passes: int  # finished
    total: int | None  # passes in all; None until the search begins
    job: str  # the job's name
    out: str  # folder on the cluster that runs go to
    run: str | None  # the run folder there; None until the search has ended
    seconds: float | None  # that it has run
    reason: str  # why it failed; empty otherwise
    exit_status: int | None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state.upper() in _ENDED


class Cluster:
    """A Ray cluster that answers, reached at the address of its dashboard.

    Args:
        address: http://HOST:PORT; None: `RAY_API_SERVER_ADDRESS`, else this machine's.
        token_file: File that holds the cluster's token; None: `RAY_AUTH_TOKEN`, the file that
            `RAY_AUTH_TOKEN_PATH` names, and with `RAY_AUTH_MODE=token` `~/.ray/auth_token`.
        wait_s: Seconds for the cluster to answer.

    Raises:
        InputError: no cluster answers there, or it refuses the token.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token_file: Path | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self.address = (address or os.environ.get(_ADDRESS) or DEFAULT_ADDRESS).rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            text = "is no address of a dashboard; write http://HOST:8265"
            raise InputError.one(_COMMAND_LINE, "--address", self.address, text)
        token = find_token(token_file)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._knock(headers, wait_s)
        for handler in logging.getLogger("ray").handlers:
            handler.setLevel(logging.WARNING)  # it tells of every package that it uploads
        with _only_address(self.address), _one_line():
            self._client = JobSubmissionClient(self.address, headers=headers)

    def _knock(self, headers: dict[str, str], wait_s: float) -> None:
        """Wait until the dashboard answers.

        Raises:
            InputError: it does not, or something else does, or it refuses the token.
        """
        deadline = time.monotonic() + wait_s
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                # One request that has no side effects and needs the token.
                answer = requests.get(f"{self.address}/api/jobs/", headers=headers, timeout=left)
                break
            except requests.RequestException as error:
                if time.monotonic() + _PAUSE_S > deadline:
                    text = f"no Ray cluster answered within {wait_s:g} s ({_kind(error)}); check"
                    raise self._bad(f"{text} the address and that its dashboard runs") from None
                time.sleep(_PAUSE_S)
        if answer.status_code in (401, 403):
            told = "refused the token" if headers else "wants a token"
            text = f"the cluster {told}; give --token-file FILE, or set {_TOKEN} or {_TOKEN_PATH}"
            raise self._bad(text)
        if answer.status_code != 200 or "json" not in answer.headers.get("Content-Type", ""):
            text = f"what answers there is no Ray dashboard with jobs (HTTP {answer.status_code})"
            raise self._bad(f"{text}; ray[default] must be installed on the head")

    def _bad(self, text: str) -> InputError:
        return InputError.one(_COMMAND_LINE, "--address", redact(self.address), text)

    def submit(
        self, job: Job, *, out: str, in_place: bool = False, options: tuple[str, ...] = ()
    ) -> str:
        """Send a job with the files that it names, and start it. Returns its id.

        Args:
            job: The job, its paths absolute.
            out: Folder on the cluster that gets the run folder; `~` is the head's home.
            in_place: Paths of the job are the cluster's: only the job file travels.
            options: More options of `dynsearch search`.

        Raises:
            InputError: what cannot travel, see `luggage.pack`.
            DynsearchError: the cluster did not take it.
        """
        words = ["exec", "python", "-m", "dynsearch.cluster.entry", out, *options]
        with tempfile.TemporaryDirectory(prefix="dynsearch-") as folder, _one_line():
            pack(job, Path(folder), in_place=in_place)
            return str(
                self._client.submit_job(
                    entrypoint=shlex.join(words),
                    submission_id=f"{job.name}-{secrets.token_hex(4)}",
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": {
                            # Being stopped, the driver finishes passes and writes the front.
                            "RAY_JOB_STOP_SIGNAL": "SIGINT",
                            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
                        },
                    },
                    metadata={_OURS: job.name, _OUT: out},
                )
            )

    def jobs(self) -> list[JobState]:
        """All jobs that `submit` started there, the newest first.

        Raises:
            DynsearchError: the cluster does not answer any more.
        """
        with _one_line():
            found = [d for d in self._client.list_jobs() if _OURS in (d.metadata or {})]
        found.sort(key=lambda details: details.start_time or 0, reverse=True)
        return [self._state(details) for details in found]

    def job(self, id_: str) -> JobState:
        """One job.

        Raises:
            InputError: there is none of that id.
        """
        with self._known(id_):
            return self._state(self._client.get_job_info(id_))

    def log(self, id_: str) -> str:
        """What a job has written so far.

        Raises:
            InputError: there is none of that id.
        """
        with self._known(id_):
            return redact(self._client.get_job_logs(id_))

    def follow(self, id_: str, write: Callable[[str], object]) -> None:
        """Hand on what a job writes, in whole lines, until it has ended.

        Asked for again and again over HTTP: a broken connection loses nothing.

        Raises:
            InputError: there is none of that id.
            DynsearchError: the cluster has not answered several times in a row.
        """
        self.job(id_)
        shown, failures, ended = 0, 0, False
        while not ended:
            try:
                with _one_line():
                    status = str(self._client.get_job_info(id_).status)
                    log = self._client.get_job_logs(id_) or ""
            except DynsearchError:
                failures += 1
                if failures > FOLLOW_RETRIES:
                    raise
                time.sleep(_FOLLOW_S)
                continue
            failures, ended = 0, status.rpartition(".")[2] in _ENDED
            whole = len(log) if ended else log.rfind("\n") + 1
            write(redact(log[shown:whole]))
            shown = whole
            if not ended:
                time.sleep(_FOLLOW_S)

    def stop(self, id_: str) -> bool:
        """Have a job finish the passes under way and write its front. False: it had ended.

        Raises:
            InputError: there is none of that id.
        """
        with self._known(id_):
            return bool(self._client.stop_job(id_))

    @contextlib.contextmanager
    def _known(self, id_: str) -> Iterator[None]:
        try:
            with _one_line():
                yield
        except DynsearchError as error:
            if "status code 404" not in str(error):
                raise
            text = "no such job on this cluster; `dynsearch list` names those that are there"
            raise InputError.one(_COMMAND_LINE, "ID", id_, text) from None

    def _state(self, details: Any) -> JobState:
        id_ = str(details.submission_id)
        log = ""
        with contextlib.suppress(RuntimeError):  # a job without a log yet
            log = self._client.get_job_logs(id_) or ""
        passes = _PASSES.findall(log)
        totals = [total for _, total in passes if total]
        runs, errors = _RUN.findall(log), _ERROR.findall(log)
        state = str(getattr(details.status, "value", details.status))
        failed = state == "FAILED"
        reason = (errors[-1:] or _last_line(details.message))[0] if failed else ""
        end = details.end_time or time.time() * 1000.0
        metadata = details.metadata or {}
        return JobState(
            id=id_,
            state=state.lower(),
            passes=int(passes[-1][0]) if passes else 0,
            total=int(totals[-1]) if totals else None,
            job=metadata.get(_OURS, ""),
            out=metadata.get(_OUT, ""),
            run=runs[-1] if runs else None,
            seconds=(end - details.start_time) / 1000.0 if details.start_time else None,
            reason=redact(reason),
            exit_status=details.driver_exit_code,
        )


def find_token(file: Path | None) -> str | None:
    """The token of the cluster, as Ray finds it; None where there is none.

    Args:
        file: Holds the token; None: the environment says.

    Raises:
        InputError: the file cannot be read or is empty.
    """
    path, key = file, "--token-file"
    token: str | None = None
    if path is None:
        token = os.environ.get(_TOKEN, "").strip() or None
        named = os.environ.get(_TOKEN_PATH)
        usual = Path.home() / ".ray" / "auth_token"
        if token is None and named:
            path, key = Path(named), _TOKEN_PATH
        elif token is None and os.environ.get(_MODE) == "token" and usual.is_file():
            path, key = usual, _MODE
    if path is not None:
        try:
            token = path.expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no text"
            text = f"cannot be read ({reason}); name a file that holds the token alone"
            raise InputError.one(_COMMAND_LINE, key, path, text) from None
        if not token:
            text = "is empty; it must hold the token alone"
            raise InputError.one(_COMMAND_LINE, key, path, text)
    keep_secret(token or "")
    return token


@contextlib.contextmanager
def _only_address(address: str) -> Iterator[None]:
    """Ray prefers what the environment says to the address that it is given."""
    before = os.environ.get(_ADDRESS)
    os.environ[_ADDRESS] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ADDRESS]
        else:
            os.environ[_ADDRESS] = before


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What Ray's client raises, as one line.

    Raises:
        DynsearchError: in its place.
    """
    try:
        yield
    except DynsearchError:
        raise
    except (RuntimeError, ValueError, OSError, requests.RequestException) as error:
        line = _last_line(str(error))[0] or type(error).__name__
        raise DynsearchError(f"the cluster did not answer as expected: {redact(line)}") from None


def _kind(error: BaseException) -> str:
    return "refused" if "refused" in str(error) else type(error).__name__


def _last_line(text: str | None) -> list[str]:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1:] or [""]
