"""What travels with a submitted job: its file, and every local file that it names.

On the cluster it is kept beside the runs, in `<out>/inputs/<hash>/`, because Ray deletes what it
unpacked when the job has ended, and a run goes on, exports and reports from its model and texts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dynsearch.checksums import file_sha256
from dynsearch.errors import InputError
from dynsearch.job import Job, resolve_to_toml
from dynsearch.job_checks import short_name
from dynsearch.models.weights import SETTINGS, weights_path

JOB_FILE = "job.toml"
FILES = "files"
MOST_BYTES = 400 * 2**20  # Ray carries working folders of up to half a GB, in one message


def pack(job: Job, folder: Path, *, in_place: bool = False) -> None:
    """Put a job and the files that it names into a folder, under relative paths.

    Args:
        job: The job, its paths absolute.
        folder: An empty folder.
        in_place: Its paths are the cluster's; the job file travels alone.

    Raises:
        InputError: a storage that holds a password or means another file on the cluster; files
            that are larger than Ray carries.
    """
    check_storage(job.search.storage)
    packed = job if in_place else _with_files(job, folder)
    (folder / JOB_FILE).write_text(resolve_to_toml(packed), encoding="utf-8")
    _check_size(folder, job.source)


def _with_files(job: Job, folder: Path) -> Job:
    files = folder / FILES
    update: dict[str, Any] = {
        key: tuple(_pack_device(name, files, folder) for name in getattr(job, key))
        for key in ("devices", "score_on")
    }
    if job.model.folder is not None:
        model = _copy_model(Path(job.model.folder), files / "model")
        update["model"] = job.model.model_copy(update={"folder": _name(model, folder)})
    if job.data.file is not None:
        given = {key: getattr(job.data, key) for key in ("file", "unlabelled", "also")}
        texts = {
            key: _name(_copy(Path(path), files / key), folder)
            for key, path in given.items()
            if path is not None
        }
        update["data"] = job.data.model_copy(update=texts)
    return job.model_copy(update=update)


def keep(folder: Path, out: Path) -> Path:
    """Keep what travelled beside the runs of `out`, unless it is there. Returns the job file."""
    kept = out / "inputs" / content_hash(folder)[:16]
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".inputs-", dir=kept.parent))
        try:
            made.chmod(0o755)
            if (folder / FILES).is_dir():
                shutil.copytree(folder / FILES, made / FILES)
            shutil.copyfile(folder / JOB_FILE, made / JOB_FILE)
            made.rename(kept)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            if not kept.is_dir():  # else another driver was quicker
                raise
    return kept / JOB_FILE


def content_hash(folder: Path) -> str:
    """sha256 over names and contents of the files that travel, as hex."""
    digest = hashlib.sha256()
    for path in [folder / JOB_FILE, *sorted((folder / FILES).rglob("*"))]:
        if path.is_file():
            digest.update(f"{path.relative_to(folder)} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def check_storage(storage: str) -> None:
    """A storage that may be named in a file on the cluster.

    Raises:
        InputError: it holds a password, or a file's relative path.
    """
    if "://" not in storage:
        return
    from dynsearch.redact import redact_url

    plain = redact_url(storage)
    if plain != storage:
        text = "holds a password, which the cluster would store and show; leave it out here, and"
        text += " give it to the cluster's head as PGPASSWORD or ~/.pgpass"
        raise InputError.one("job", "search.storage", plain, text)
    if storage.startswith("sqlite:") and not storage.startswith("sqlite:////"):
        text = "is a path on the cluster; make it absolute: sqlite:////FOLDER/study.db"
        raise InputError.one("job", "search.storage", plain, text)


def _pack_device(name: str, files: Path, folder: Path) -> str:
    """A device's name; a device file travels, under the short name that the job's hash holds."""
    if not name.endswith(".toml"):
        return name
    return _name(_copy(Path(name), files / "devices", f"{short_name(name)}.toml"), folder)


def _copy_model(source: Path, target: Path) -> Path:
    """What decides a model: its weights, settings and tokenizer."""
    for path in (weights_path(source), *(source / name for name in SETTINGS)):
        if path.is_file():
            _copy(path, target)
    return target


def _copy(source: Path, folder: Path, name: str = "") -> Path:
    """A file in a folder of the luggage; linked where the file system can."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (name or source.name)
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        return target
    except OSError:
        shutil.copyfile(source, target)
    return target


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _check_size(folder: Path, source: str) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        text = f"its files have {size / 2**20:.0f} MiB, Ray carries {MOST_BYTES / 2**20:.0f}; put"
        text += " them where every node sees them and submit with --in-place"
        raise InputError.one(source, "", None, text)
