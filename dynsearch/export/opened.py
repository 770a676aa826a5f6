"""An export folder, read with suspicion: every file checked before any of it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from dynsearch.errors import InputError
from dynsearch.export.manifest import AGAIN, CONFIG_FILE, WEIGHTS, read_manifest
from dynsearch.export.promise import ROWS_FILE
from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig
from dynsearch.models.packed import encoder_of
from dynsearch.models.tokens import load_tokenizer
from dynsearch.risk.certificate import Certificate, checked
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict, candidate_hash
from search_spaces.workload import Workload

PROMISED = ("workload", "metric", "reach", "devices")


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

    @property
    def runtime(self) -> str:
        """What its files run on."""
        return "onnxruntime" if self.config["format"] == "onnx" else "torch"

    def encoder(self) -> DynamicEncoder:
        """The runnable network with the exported weights, where they are torch's."""
        from safetensors.torch import load_file

        from dynsearch.models.dynamic import plan_of

        mapped = load_file(str(self.folder / WEIGHTS))
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
    config = read_manifest(folder)
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
