"""A private PostgreSQL on a free port of the loopback interface; it may be killed at any time."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PASSWORD = "s3cret-of-tests"  # no more than a word to look for
USER = "dyn"


def programs() -> Path | None:
    """Folder of the newest server's programs; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version)
    other = shutil.which("postgres")
    return found[-1].parent if found else Path(other).parent if other else None


def _version(path: Path) -> int:
    name = path.parent.parent.name
    return int(name) if name.isdigit() else 0


def why_not() -> str:
    """Why no server can run here; empty where one can."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    if programs() is None:
        return "PostgreSQL is not installed"
    return "" if os.geteuid() or _account() else "PostgreSQL refuses root, and there is no other"


def _account() -> str | None:
    """Whom the server runs as: it refuses to run as root."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


class Postgres:
    """The server; `url` names no password."""

    def __init__(self) -> None:
        bin_ = programs()
        assert bin_ is not None
        self._bin, self._user = bin_, _account()
        self._folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.url = f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"
        self.url_with_password = self.url.replace("@", f":{PASSWORD}@")
        secret = self._folder / "password"
        secret.write_text(PASSWORD + "\n")
        if self._user:
            for path in (self._folder, secret):
                shutil.chown(path, self._user)
        options = ["-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"]
        command = [str(bin_ / "initdb"), "-D", str(self._folder / "data"), *options]
        subprocess.run(
            command, user=self._user, cwd=self._folder, check=True, stdout=subprocess.DEVNULL
        )
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._server is None
        options = ["-p", str(self.port), "-k", str(self._folder), "-h", "127.0.0.1", "-F"]
        command = [str(self._bin / "postgres"), "-D", str(self._folder / "data"), *options]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command,
                user=self._user,
                cwd=self._folder,
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
        ready = [str(self._bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + 120
        while subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode:
            assert self._server.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def new_database(self, name: str) -> str:
        """Make another database; its URL, without the password."""
        import psycopg

        with psycopg.connect(self.url_with_password, autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return self.url.rpartition("/")[0] + f"/{name}"

    def kill(self) -> None:
        """Kill the server with all its processes, as the loss of its machine would."""
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None

    def close(self) -> None:
        """End it and delete its files."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()
