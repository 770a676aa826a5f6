"""config.json of an exported folder: which files belong to it, and whether they are those.

Copied into every exported folder, so it needs nothing but the standard library. Checksums tell
what was changed by accident or mixed up; they are no signature.
"""

from __future__ import annotations

import hashlib
import json
import os.path
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynsearch.checksums import file_sha256
from search_spaces.errors import InputError, Problem

SCHEMA_VERSION = 1
CONFIG_FILE = "config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
FORMATS = ("torch", "onnx")
UNCHECKED = (CONFIG_FILE, "README.md")  # the one that holds the checksums, and words
KEYS = ("id", "candidate", "encoder", "labels", "text_columns", "max_len", "sha256", "expected")
AGAIN = "`dynsearch export RUN --out DIR` writes it anew"


def file_hashes(folder: Path) -> dict[str, str]:
    """Sha256 of every file of an export but those that may change, by path inside it."""
    names = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: file_sha256(names[name]) for name in sorted(names) if name not in UNCHECKED}


def model_sha256(config: Mapping[str, Any]) -> str:
    """Checksum of what answers: the weights, or all graphs with the rule that stands between.

    Args:
        config: What config.json holds, `format` and `files` among it.
    """
    files = config["files"]
    if config["format"] == "torch":
        return str(files[WEIGHTS])
    graphs = {name: files[name] for name in model_files(config)}
    text = json.dumps([config["onnx"], graphs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def model_files(config: Mapping[str, Any]) -> list[str]:
    """Names of the files that hold the network."""
    if config["format"] == "torch":
        return [WEIGHTS]
    return [str(part["file"]) for part in config["onnx"]["segments"]]


def read_manifest(folder: Path) -> dict[str, Any]:
    """config.json of an export whose files are all there and unchanged; nothing of it is run.

    Raises:
        InputError: no export, one of an older or newer dynsearch, a missing or changed file, a
            name that leads out of the folder; all problems of the files at once.
    """
    path = folder / CONFIG_FILE
    config = _read(path)
    try:
        needed = [*model_files(config), TOKENIZER]
    except (KeyError, TypeError) as error:
        text = f"does not fit the schema ({type(error).__name__}: {error}); {AGAIN}"
        raise InputError.one(path, "onnx", None, text) from None
    files = config["files"]
    problems = [
        Problem(str(path), "files", name, f"has no checksum; {AGAIN}")
        for name in dict.fromkeys(needed)
        if name not in files
    ]
    problems += _wrong_files(folder, files)
    if not problems and model_sha256(config) != config["sha256"]:
        text = f"is not the checksum of the model that is described here; {AGAIN}"
        problems.append(Problem(str(path), "sha256", str(config["sha256"])[:8], text))
    if problems:
        raise InputError(problems)
    return config


def is_inside(folder: Path, name: str) -> bool:
    """Whether a name stays in the folder, links and ".." followed."""
    if not name or not name.isprintable() or "\\" in name:
        return False
    return (folder / name).resolve().is_relative_to(folder.resolve())


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        text = f"missing; is this a folder that dynsearch export wrote? {AGAIN}"
        raise InputError.one(path, "", None, text) from None
    except ValueError as error:  # UnicodeDecodeError is one, too
        text = f"no config.json of an export ({error}); {AGAIN}"
        raise InputError.one(path, "", None, text) from None
    if not isinstance(config, dict):
        text = f"no config.json of an export (holds a {type(config).__name__}); {AGAIN}"
        raise InputError.one(path, "", None, text)
    version, kind = config.get("schema_version"), config.get("format")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        text = f"of a newer dynsearch; this one reads up to {SCHEMA_VERSION}, upgrade it"
        raise InputError.one(path, "schema_version", version, text)
    if not isinstance(config.get("files"), dict):
        text = f"has no checksums: an earlier dynsearch wrote it; {AGAIN}"
        raise InputError.one(path, "files", None, text)
    if kind not in FORMATS:
        raise InputError.one(path, "format", kind, f"must be {' or '.join(FORMATS)}; {AGAIN}")
    missing = [key for key in KEYS if key not in config]
    if missing:
        raise InputError(Problem(str(path), key, "", f"is missing; {AGAIN}") for key in missing)
    return config


def _wrong_files(folder: Path, files: Mapping[str, Any]) -> Iterator[Problem]:
    for name, digest in files.items():
        place = folder / name if is_inside(folder, name) else None
        if place is None:
            text = "leads out of the export folder; do not use this export"
            yield Problem(str(folder / CONFIG_FILE), "files", name, text)
        elif not os.path.isfile(place):  # noqa: PTH113  False where Path's raises: long names
            yield Problem(str(place), "", "", f"missing; copy the whole folder, or {AGAIN}")
        elif file_sha256(place) != digest:
            text = "not the file that config.json describes: changed, or of another export"
            yield Problem(str(place), "", "", f"{text}; {AGAIN}")
