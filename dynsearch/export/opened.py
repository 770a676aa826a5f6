"""An export folder, read with suspicion: every file checked before any of it is used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from dynsearch.errors import InputError, Problem
from dynsearch.export.promise import CONFIG_FILE, ROWS_FILE
from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig
from dynsearch.models.packed import encoder_of
from dynsearch.models.tokens import load_tokenizer
from dynsearch.models.weights import file_sha256
from dynsearch.risk.certificate import Certificate, checked
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict, candidate_hash
from search_spaces.workload import Workload

SCHEMA_VERSION = 1
AGAIN = "`dynsearch export RUN --format torch` writes it anew"
NEEDED = ("model.safetensors", "tokenizer.json")
KEYS = ("id", "candidate", "encoder", "labels", "text_columns", "max_len", "sha256", "expected")
PROMISED = ("workload", "metric", "reach", "devices")
WHAT = {
    "model.safetensors": "the weights were changed after the export",
    "tokenizer.json": "is another tokenizer than the one that was exported",
    ROWS_FILE: "the rows were changed after the export",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedExport:
    """An export that is what it was when it was written."""

    folder: Path
    config: dict[str, Any]
    candidate: Candidate
    network: EncoderConfig
    workload: Workload
    tokenizer: Tokenizer
    certificate: Certificate | None
    void: tuple[str, ...]  # why a certificate that is there does not apply
    changed: bool  # the configuration is not the one that the predictions are of

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.config["labels"])

    @property
    def rows_file(self) -> Path | None:
        """Texts that were exported with it."""
        return self.folder / ROWS_FILE if ROWS_FILE in self.config["files"] else None

    def encoder(self) -> DynamicEncoder:
        """The runnable network with the exported weights."""
        from safetensors.torch import load_file

        from dynsearch.models.dynamic import plan_of

        mapped = load_file(str(self.folder / "model.safetensors"))
        weights = {name: value.clone() for name, value in mapped.items()}  # lets the file go
        plan = plan_of(self.candidate)
        return encoder_of(self.network, weights, self.candidate.dtype, plan)


def open_export(folder: Path) -> OpenedExport:
    """Read an export; nothing in it is run.

    Raises:
        InputError: no export, written by an older or newer dynsearch, a missing or changed file,
            a name that leads out of the folder; all problems of the files at once.
    """
    if not folder.is_dir():
        text = "no such export folder; `dynsearch export RUN --format torch --out DIR` makes one"
        raise InputError.one(folder, "", None, text)
    path = folder / CONFIG_FILE
    config = _read_config(path)
    _check_files(folder, config)
    try:
        candidate = candidate_from_dict(config["candidate"], file=path)
        geometry = dict(config["encoder"])
        geometry["expert_counts"] = tuple(geometry["expert_counts"])
        network = EncoderConfig(**geometry)
        promised = {key: config["expected"][key] for key in PROMISED}
        workload, devices = Workload(**promised["workload"]), promised["devices"]
        complete = all({"predicted", "budgets"} <= set(entry) for entry in devices.values())
        certificate, reasons = checked(
            config.get("certificate"),
            candidate=candidate,
            max_len=config["max_len"],
            export_sha256=config["sha256"],
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        text = f"does not fit the schema ({type(error).__name__}: {error}); {AGAIN}"
        raise InputError.one(path, "", None, text) from None
    if not devices or not complete:
        text = f"holds no device with its prediction; {AGAIN}"
        raise InputError.one(path, "expected.devices", None, text)
    return OpenedExport(
        folder=folder,
        config=config,
        candidate=candidate,
        network=network,
        workload=workload,
        tokenizer=load_tokenizer(folder),
        certificate=certificate,
        void=tuple(reasons),
        changed=candidate_hash(candidate)[:8] != config["id"],
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError.one(path, "", None, f"is missing: no export; {AGAIN}") from None
    except ValueError as error:  # UnicodeDecodeError is one, too
        raise InputError.one(path, "", None, f"is damaged ({error}); {AGAIN}") from None
    if not isinstance(config, dict):
        raise InputError.one(path, "", type(config).__name__, "must hold one JSON object")
    version = config.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        text = f"this dynsearch reads exports up to {SCHEMA_VERSION}; upgrade it"
        raise InputError.one(path, "schema_version", version, text)
    if not isinstance(config.get("files"), dict):
        text = f"has no checksums: an earlier dynsearch wrote it; {AGAIN}"
        raise InputError.one(path, "files", None, text)
    missing = [key for key in KEYS if key not in config]
    if missing:
        raise InputError(Problem(str(path), key, "", f"is missing; {AGAIN}") for key in missing)
    return config


def _check_files(folder: Path, config: dict[str, Any]) -> None:
    files, path = config["files"], str(folder / CONFIG_FILE)
    problems = [
        Problem(path, "files", name, f"has no checksum; {AGAIN}")
        for name in NEEDED
        if name not in files
    ]
    for name, digest in files.items():
        place = folder / name
        if not is_inside(folder, name):
            text = "leads out of the export folder; do not use this export"
            problems.append(Problem(path, "files", name, text))
        elif not place.is_file():
            problems.append(Problem(str(place), "", "", f"the file is missing; {AGAIN}"))
        elif file_sha256(place) != digest:
            text = WHAT.get(name, "the file was changed after the export")
            problems.append(Problem(str(place), "sha256", "", f"{text}; {AGAIN}"))
    if not problems and files["model.safetensors"] != config["sha256"]:
        text = f"is not the checksum of model.safetensors; {AGAIN}"
        problems.append(Problem(path, "sha256", str(config["sha256"])[:8], text))
    if problems:
        raise InputError(problems)


def is_inside(folder: Path, name: str) -> bool:
    """Whether a name stays in the folder, links and ".." followed."""
    inside = (folder / name).resolve().is_relative_to(folder.resolve())
    return inside and name != "" and "\\" not in name
