"""Trains a supernet in a process of its own, so that its memory is free again for the search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dynsearch.heap import keep_freed_memory
from dynsearch.models.weights import encoder_config, norm_eps
from dynsearch.quality.apart import Progress, run_apart
from dynsearch.quality.distil import distil, distil_texts, fine_tuning_share
from dynsearch.quality.references import tuned_network
from dynsearch.quality.supernet import save_supernet
from dynsearch.quality.training import part_of, training_threads

if TYPE_CHECKING:
    from dynsearch.models.tokens import Tokens
    from dynsearch.quality.opening import Material


def train_apart(folder: Path, material: Material, progress: Progress | None = None) -> None:
    """Train `material` into the supernet `folder`, which appears only when it is complete.

    The network that was fine-tuned first is kept in the cache: it is the conventional reference,
    and another way of distilling it does not fine-tune again.

    Raises:
        InputError: what the training process found wrong with its input.
        DynsearchError: the training process died.
    """
    run_apart(_train_into, folder, material, progress=progress)


def _train_into(progress: Progress, folder: Path, material: Material) -> None:
    keep_freed_memory()
    training = material.training
    config = encoder_config(
        material.backbone, num_classes=len(material.labels), norm_eps=norm_eps(material.folder)
    )
    begun = fine_tuning_share(training)
    tuned = tuned_network(
        material, material.backbone.num_layers, progress=part_of(progress, 0.0, begun)
    )
    with training_threads(training):
        config, weights = distil(
            replace(config, pooling=training.pooling),
            tuned,
            material.splits["train"].tokens,
            training,
            part_of(progress, begun, 1.0),
            unlabelled_tokens(material),
        )
    vocabulary = material.folder / "tokenizer.json"
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not vocabulary.is_file():
        vocabulary = folder.parent / f"{folder.name}.tokenizer.json"
        material.tokenizer.save(str(vocabulary))
    info = {
        "labels": list(material.labels),
        "text_columns": list(material.text_columns),
        "max_len": material.training.max_len,
        "key": material.key,
        "backbone": material.backbone.name,
    }
    save_supernet(folder, config, weights, info=info, tokenizer=vocabulary)
    if vocabulary.parent == folder.parent:
        vocabulary.unlink()


def unlabelled_tokens(material: Material) -> Tokens | None:
    """As many texts without labels as training looks at, once each."""
    if material.unlabelled is None:
        return None
    train, training = material.splits["train"].tokens, material.training
    return material.unlabelled.tokens(
        material.tokenizer,
        like=train.lengths,
        max_len=training.max_len,
        rows=distil_texts(len(train), training),
    )
