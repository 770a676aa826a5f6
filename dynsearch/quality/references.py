"""Conventionally fine-tuned networks that a dynamic one must beat: all layers, or the first k.

No exits, no sub-networks, no distillation: cross-entropy at the last layer, the epoch with the
lowest error on the early-stop rows kept. Trained once each, cached by content as supernets are.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig, Weights, full_plan
from dynsearch.models.weights import encoder_config, file_sha256, norm_eps, read_pretrained
from dynsearch.quality.batches import batch_parts, endless, piece_tokens, pieces, take
from dynsearch.quality.precision import autocast, training_dtype
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.supernet import (
    LABEL_SMOOTHING,
    WORDS,
    Labelled,
    Optimizers,
    Progress,
    Training,
    add_heads,
    cache_folder,
    is_trained,
    load_supernet,
    save_supernet,
)
from dynsearch.quality.train_apart import run_apart
from search_spaces.candidate import Candidate

if TYPE_CHECKING:
    from dynsearch.quality.opening import Material

RECIPE = 2  # raise when training changes what it yields


def open_reference(
    material: Material, layers: int, *, progress: Callable[[float, str], None] | None = None
) -> SupernetQuality:
    """The first `layers` layers of the pretrained network, fine-tuned; cached by content."""
    key = _key(material, layers)
    folder = cache_folder() / "references" / key
    if not folder.is_dir():
        run_apart(_train_into, folder, material, layers, progress=progress)
    config, weights, _ = load_supernet(folder)
    return SupernetQuality(
        config=config,
        weights=weights,
        splits={k: v for k, v in material.splits.items() if k in ("search", "report")},
        weights_hash=file_sha256(folder / "model.safetensors"),
    )


def reference_candidate(material: Material, layers: int, dtype: str) -> Candidate:
    """The candidate that such a network is: `layers` layers, nothing dynamic."""
    backbone = replace(material.backbone, num_layers=layers)
    return Candidate(backbone=backbone, depth=layers, dtype=dtype)


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


def _train_into(progress: Progress, folder: Path, material: Material, layers: int) -> None:
    whole = encoder_config(
        material.backbone, num_classes=len(material.labels), norm_eps=norm_eps(material.folder)
    )
    config, weights = train_reference(
        replace(whole, num_layers=layers),
        _first_layers(read_pretrained(material.folder), layers),
        material.splits["train"],
        material.splits["early_stop"],
        material.training,
        progress,
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


def train_reference(
    config: EncoderConfig,
    weights: Weights,
    train: Labelled,
    early_stop: Labelled,
    training: Training,
    progress: Progress | None = None,
) -> tuple[EncoderConfig, Weights]:
    """Fine-tune `weights` on labels alone; the best epoch on `early_stop` is returned.

    Args:
        config: Geometry of the network as it is trained.
        weights: Its backbone weights; not changed.
        train: Labelled texts.
        early_stop: Labelled texts that choose the epoch.
        training: The settings that the supernet has, too.
        progress: Called now and then.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(training.threads or os.cpu_count() or 1)
    try:
        return _train(
            replace(config, pooling=training.pooling),
            weights,
            train,
            early_stop,
            training,
            progress,
        )
    finally:
        torch.set_num_threads(threads)


def _train(
    config: EncoderConfig,
    weights: Weights,
    train: Labelled,
    early_stop: Labelled,
    training: Training,
    progress: Progress | None,
) -> tuple[EncoderConfig, Weights]:
    rng = np.random.default_rng(training.seed)
    dtype = training_dtype()
    state = {k: v.clone() for k, v in add_heads(config, weights, training.seed).items()}
    last = f"heads.{config.num_layers - 1}."
    for name, tensor in state.items():
        tensor.requires_grad_(is_trained(name) and name.startswith((WORDS, "layers.", last)))
    model = DynamicEncoder(config, state)
    optimizers = Optimizers(state, training)
    per_epoch = math.ceil(len(train.tokens) / training.batch)
    whole, width = training.epochs * per_epoch, piece_tokens(train.tokens)
    begun = whole if width else 0  # steps on pieces, as the supernet has them
    steps = begun + whole
    best, kept = math.inf, state
    for step, rows in zip(range(steps), endless(train.tokens, training.batch, rng), strict=False):
        texts, labels = take(train.tokens, rows), torch.from_numpy(train.labels[rows])
        if step < begun:
            texts = pieces(texts, width, rng)
        optimizers.zero_grad()
        for part, share in batch_parts(texts, np.arange(len(texts))):
            ids, n = texts.batch(part)
            with autocast(dtype):
                types = texts.batch_types(part)
                pooled = model.pooled(full_plan(config), ids, n, types)[-1]
            logits = model.head(config.num_layers - 1, pooled.float())
            loss = functional.cross_entropy(
                logits, labels[torch.from_numpy(part)], label_smoothing=LABEL_SMOOTHING
            )
            (loss * share).backward()  # type: ignore[no-untyped-call]
        optimizers.step(step / steps)
        if step >= begun and (step + 1) % per_epoch == 0:
            error = _error(model, early_stop)
            if error <= best:
                best, kept = error, {k: v.detach().clone() for k, v in state.items()}
        if progress is not None and step % 20 == 0:
            progress(step / steps, f"step {step} of {steps}")
    return config, kept


def _error(model: DynamicEncoder, rows: Labelled) -> float:
    """Share of rows that the last exit gets wrong."""
    wrong, last = 0, model.config.num_layers - 1
    with torch.no_grad():
        for part in rows.tokens.batches(batch=32, sort=True):
            ids, n = rows.tokens.batch(part)
            types = rows.tokens.batch_types(part)
            pooled = model.pooled(full_plan(model.config), ids, n, types)[-1]
            answers = model.head(last, pooled).argmax(dim=1).numpy()
            wrong += int((answers != rows.labels[part]).sum())
    return wrong / len(rows.tokens)
