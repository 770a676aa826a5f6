"""Conventionally fine-tuned networks that a dynamic one must beat: all layers, or the first k.

No exits, no sub-networks, no distillation: cross-entropy at the last layer, the epoch with the
lowest error on the early-stop rows kept. Trained once each, cached by content as supernets are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dynsearch.checksums import file_sha256
from dynsearch.heap import keep_freed_memory
from dynsearch.models.dynamic import Weights
from dynsearch.models.weights import encoder_config, norm_eps, read_pretrained
from dynsearch.quality.apart import run_apart
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.supernet import cache_folder, load_supernet, save_supernet
from dynsearch.quality.training import Progress, fine_tune, training_threads
from search_spaces.candidate import Candidate

if TYPE_CHECKING:
    from dynsearch.quality.opening import Material

RECIPE = 3  # raise when training changes what it yields


def open_reference(
    material: Material, layers: int, *, progress: Callable[[float, str], None] | None = None
) -> SupernetQuality:
    """The first `layers` layers of the pretrained network, fine-tuned; cached by content."""
    folder = _folder(material, layers)
    if not folder.is_dir():
        run_apart(_train_apart, folder, material, layers, progress=progress)
    config, weights, _ = load_supernet(folder)
    return SupernetQuality(
        config=config,
        weights=weights,
        splits={k: v for k, v in material.splits.items() if k in ("search", "report")},
        weights_hash=file_sha256(folder / "model.safetensors"),
    )


def tuned_network(
    material: Material, layers: int, *, progress: Callable[[float, str], None] | None = None
) -> Weights:
    """Weights of that network, trained in this process unless the cache has them."""
    folder = _folder(material, layers)
    if not folder.is_dir():
        _train_into(progress or (lambda share, text: None), folder, material, layers)
    return load_supernet(folder)[1]


def reference_candidate(material: Material, layers: int, dtype: str) -> Candidate:
    """The candidate that such a network is: `layers` layers, nothing dynamic."""
    backbone = replace(material.backbone, num_layers=layers)
    return Candidate(backbone=backbone, depth=layers, dtype=dtype)


def _folder(material: Material, layers: int) -> Path:
    return cache_folder() / "references" / _key(material, layers)


def _key(material: Material, layers: int) -> str:
    training = material.training
    text = json.dumps(
        {
            "recipe": RECIPE,
            "layers": layers,
            "weights": material.model_sha256,
            "data": material.labelled_sha256,
            "epochs": training.epochs,
            "batch": training.batch,
            "rates": [training.learning_rate, training.head_learning_rate],
            "seed": training.seed,
            "max_len": training.max_len,
            "pooling": training.pooling,
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _train_apart(progress: Progress, folder: Path, material: Material, layers: int) -> None:
    keep_freed_memory()
    _train_into(progress, folder, material, layers)


def _train_into(progress: Progress, folder: Path, material: Material, layers: int) -> None:
    whole = encoder_config(
        material.backbone, num_classes=len(material.labels), norm_eps=norm_eps(material.folder)
    )
    training = material.training
    config = replace(whole, num_layers=layers, pooling=training.pooling)
    with training_threads(training):
        weights = fine_tune(
            config,
            _first_layers(read_pretrained(material.folder), layers),
            material.splits["train"],
            training,
            early_stop=material.splits["early_stop"],
            progress=progress,
        )
    vocabulary = folder.parent / f"{folder.name}.tokenizer.json"
    vocabulary.parent.mkdir(parents=True, exist_ok=True)
    material.tokenizer.save(str(vocabulary))
    info = {"labels": list(material.labels), "max_len": material.training.max_len}
    save_supernet(folder, config, weights, info=info, tokenizer=vocabulary)
    vocabulary.unlink()


def _first_layers(weights: Weights, layers: int) -> Weights:
    return {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith("layers.") or int(name.split(".")[1]) < layers
    }
