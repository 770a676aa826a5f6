"""Trains a supernet in a process of its own, so that its memory is free again for the search."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from dynsearch.models.weights import encoder_config, read_config, read_pretrained
from dynsearch.quality.supernet import save_supernet, train_supernet
from search_spaces.errors import DynsearchError

if TYPE_CHECKING:
    from dynsearch.quality.opening import Material

Progress = Callable[[float, str], None]


def train_apart(folder: Path, material: Material, progress: Progress | None = None) -> None:
    """Fine-tune `material` into `folder`; the folder appears only when it is complete.

    Raises:
        InputError: what the training process found wrong with its input.
        DynsearchError: the training process died.
    """
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, folder, material), daemon=True)
    process.start()
    theirs.close()
    try:
        error = _listen(mine, progress)
        process.join()
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
        mine.close()
    if error is not None:
        raise error


def _listen(mine: Connection, progress: Progress | None) -> Exception | None:
    """Pass on progress until the process says that it is done (None) or why it is not."""
    while True:
        try:
            message = mine.recv()
        except EOFError:
            return DynsearchError(
                "the training process died, perhaps for want of memory; run the job again, "
                "with a smaller training.batch if it dies again"
            )
        if message is None or isinstance(message, Exception):
            return message
        if progress is not None:
            progress(*message)


def _work(theirs: Connection, folder: Path, material: Material) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    try:
        _train_into(folder, material, lambda share, text: theirs.send((share, text)))
        theirs.send(None)
    except DynsearchError as error:
        theirs.send(error)


def _train_into(folder: Path, material: Material, progress: Progress) -> None:
    norm_eps = float(read_config(material.folder).get("layer_norm_eps", 1e-12))
    config = encoder_config(material.backbone, num_classes=len(material.labels), norm_eps=norm_eps)
    config, weights = train_supernet(
        config,
        read_pretrained(material.folder),
        material.splits["train"],
        material.training,
        progress,
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
