"""Trained supernets on disk: found by content, whole or not at all.

A supernet is one fine-tuned network of which every outer candidate is a view: an exit head after
every layer, tokens skimmed anywhere, FFNs cut into nested experts. `distil.py` trains it. A
sub-network is a pure function of (weights, candidate); nothing here is switched in place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from dynsearch.models.dynamic import EncoderConfig, Weights
from dynsearch.quality.training import Training
from search_spaces.errors import InputError

RECIPE = 6  # raise when training changes what it yields: cached supernets are then not found
SCHEMA_VERSION = 1


def supernet_key(*, weights_sha256: str, data_sha256: str, training: Training) -> str:
    """Content hash of all that decides the trained weights."""
    settings = asdict(replace(training, threads=0))
    del settings["device"]  # like threads, it changes no more than how sums round
    text = json.dumps(
        {"recipe": RECIPE, "weights": weights_sha256, "data": data_sha256, "training": settings},
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def cache_folder() -> Path:
    """Where trained supernets are kept: $DYNSEARCH_CACHE, else the user's cache folder."""
    root = os.environ.get("DYNSEARCH_CACHE")
    if root:
        return Path(root)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dynsearch"


def save_supernet(
    folder: Path, config: EncoderConfig, weights: Weights, *, info: dict[str, Any], tokenizer: Path
) -> None:
    """Write weights, config and tokenizer as one folder, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=folder.name + ".part-", dir=folder.parent))
    try:
        save_file({k: v.contiguous() for k, v in weights.items()}, part / "model.safetensors")
        head = {"schema_version": SCHEMA_VERSION, "encoder": asdict(config), **info}
        (part / "config.json").write_text(json.dumps(head, indent=1), encoding="utf-8")
        shutil.copyfile(tokenizer, part / "tokenizer.json")
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_supernet(folder: Path) -> tuple[EncoderConfig, Weights, dict[str, Any]]:
    """Config, weights and the rest of `config.json` of a saved supernet.

    Raises:
        InputError: missing or unreadable files, or a newer schema.
    """
    path = folder / "config.json"
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        version = head.pop("schema_version")
        if version > SCHEMA_VERSION:
            raise InputError.one(path, "schema_version", version, "newer; upgrade dynsearch")
        raw = head.pop("encoder")
        raw["expert_counts"] = tuple(raw["expert_counts"])
        return EncoderConfig(**raw), load_file(str(folder / "model.safetensors")), head
    except InputError:
        raise
    except Exception as error:  # JSON, safetensors and missing keys alike
        raise InputError.one(
            folder, "", None, f"no readable supernet ({error}); delete the folder and train again"
        ) from error
