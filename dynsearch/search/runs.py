"""The folder of a run: what it holds, who may write to it, and how it is checked.

```
runs/out/<job>-<hash8>/
    job.toml          the job as it was resolved        environment.json  versions, study name
    study.journal     Optuna's storage, the truth       traces/*.npz      the truth for fronts
    fronts/*.npz      fronts per pass, rebuilt from traces when missing
    log.jsonl         one line per pass, derived        front.json        derived
    lock              held by the one driver that writes
```
No path in it is absolute except where the job itself names one; there are no pickles.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dynsearch.export.files import safe_name
from search_spaces.errors import InputError, Problem

SCHEMA_VERSION = 1
HASH_DIGITS = 8
_PACKAGES = ("dynsearch", "numpy", "scipy", "torch", "optuna", "ray", "moocore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder that exists and was checked."""

    path: Path
    study_name: str
    id: str = ""  # drawn when the folder was made; empty in those of earlier versions

    @property
    def job_file(self) -> Path:
        """The resolved job."""
        return self.path / "job.toml"

    @property
    def journal(self) -> Path:
        """The study's storage, unless the job names a database."""
        return self.path / "study.journal"

    @property
    def log(self) -> Path:
        """One JSON object a line, derived."""
        return self.path / "log.jsonl"

    @property
    def lock_file(self) -> Path:
        """Held while a driver writes."""
        return self.path / "lock"

    def trace_file(self, number: int, key: str) -> Path:
        """Where the trace of a trial lies. `key` is the hash of its setting."""
        return self.path / "traces" / f"{number}-{key[:HASH_DIGITS]}.npz"

    def fronts_file(self, trace: Path) -> Path:
        """Where the fronts that belong to a trace lie."""
        return self.path / "fronts" / trace.name


def run_folder(out: Path, job: str, job_hash: str) -> Path:
    """`<out>/<job>-<hash8>`."""
    return out / f"{safe_name(job)}-{job_hash[:HASH_DIGITS]}"


def environment() -> dict[str, Any]:
    """Versions and machine of this process, without paths or host names."""
    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": packages,
    }


def source_commit() -> str | None:
    """The git commit that this code was checked out at; None for an installed package."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def create_run(path: Path, job_toml: str, *, fresh: bool = False, seed: int | None = None) -> Run:
    """Make a run folder, or open the one that is there.

    The folder is filled under another name and renamed, so that it is never half-written.

    Args:
        path: Folder of the run, see `run_folder`.
        job_toml: The resolved job as TOML, without passwords.
        fresh: Delete what an earlier run of the same job left there.
        seed: Of the search, for the record.

    Raises:
        InputError: as `open_run`; with `fresh`, when a driver still works there.
    """
    if path.is_dir():
        if not fresh:
            return open_run(path)
        with lock(path / "lock"):
            shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        made.chmod(0o755)
        for folder in ("traces", "fronts"):
            (made / folder).mkdir()
        (made / "job.toml").write_text(job_toml, encoding="utf-8")
        record = {
            "schema_version": SCHEMA_VERSION,
            "study": path.name,
            "id": secrets.token_hex(8),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "commit": source_commit(),
            **environment(),
        }
        text = json.dumps(record, indent=1)
        (made / "environment.json").write_text(text + "\n", encoding="utf-8")
        made.rename(path)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return open_run(path)


def open_run(path: Path) -> Run:
    """Check a run folder and open it.

    Raises:
        InputError: when it is missing, half-written or of a newer schema.
    """
    if not path.is_dir():
        text = "no such run folder; `dynsearch search JOB.toml` makes one"
        raise InputError.one(path, "", None, text)
    needed = ("job.toml", "environment.json", "traces", "fronts")
    missing = [name for name in needed if not (path / name).exists()]
    if missing:
        text = "the run folder is half-written or no run; start anew with --fresh"
        raise InputError(Problem(str(path), name, "missing", text) for name in missing)
    file = path / "environment.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        version, study = record["schema_version"], record["study"]
    except (OSError, ValueError, KeyError, TypeError):
        text = "is damaged; restore it from a copy or start anew with --fresh"
        raise InputError.one(file, "", None, text) from None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        text = f"newer schema: this dynsearch reads up to {SCHEMA_VERSION}; upgrade dynsearch"
        raise InputError.one(file, "schema_version", version, text)
    return Run(path=path, study_name=str(study), id=str(record.get("id", "")))


@contextlib.contextmanager
def lock(file: Path) -> Iterator[None]:
    """Hold a lock file; the system releases it when the process ends, however it ends.

    Raises:
        InputError: when another process holds it, with its number and host.
    """
    with file.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            text = "another driver works on this run; wait until it ends, or stop that process"
            raise InputError.one(file.parent, "lock", holder, text) from None
        handle.truncate(0)
        handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)


def _holder(file: Path) -> str:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return f"pid {record['pid']} on {record['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown process"


def append_log(run: Run, record: Mapping[str, Any]) -> None:
    """Add one line to `log.jsonl`."""
    line = json.dumps({"schema_version": SCHEMA_VERSION, **record}, allow_nan=False)
    with run.log.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def write_log(run: Run, records: list[dict[str, Any]]) -> None:
    """Write `log.jsonl` anew."""
    run.log.unlink(missing_ok=True)
    for record in records:
        append_log(run, record)


def mend_journal(run: Run) -> None:
    """Remove what a killed driver left half-done in the journal. The run's lock must be held.

    A last line without its end was never acknowledged, and would spoil the line appended after
    it; a leftover lock of the journal would hold up the first write for half a minute.
    """
    (run.path / f"{run.journal.name}.lock").unlink(missing_ok=True)
    if not run.journal.exists():
        return
    with run.journal.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        block = min(size, 1 << 24)
        file.seek(size - block)
        tail = file.read(block)
        if tail and not tail.endswith(b"\n"):
            file.truncate(size - block + tail.rfind(b"\n") + 1)
