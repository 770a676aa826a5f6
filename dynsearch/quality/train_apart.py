"""Trains a supernet in a process of its own, so that its memory is free again for the search."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynsearch.models.weights import encoder_config, norm_eps, read_pretrained
from dynsearch.quality.distil import distil_texts, train_supernet
from dynsearch.quality.supernet import save_supernet
from search_spaces.errors import DynsearchError

if TYPE_CHECKING:
    from dynsearch.models.tokens import Tokens
    from dynsearch.quality.opening import Material

Progress = Callable[[float, str], None]
Work = Callable[..., None]  # called with a Progress and what it works on


def train_apart(folder: Path, material: Material, progress: Progress | None = None) -> None:
    """Fine-tune `material` into the supernet `folder`, which appears only when it is complete.

    Raises:
        InputError: what the training process found wrong with its input.
        DynsearchError: the training process died.
    """
    run_apart(_train_into, folder, material, progress=progress)


def run_apart(work: Work, *args: Any, progress: Progress | None = None) -> None:
    """Call `work(progress, *args)` in a process of its own, whose memory goes with it.

    Args:
        work: A function of a module, so that the other process can import it.
        *args: What it works on; sent to the other process.
        progress: Called with what it reports.

    Raises:
        DynsearchError: what `work` raised, or the process died.
    """
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, work, args), daemon=True)
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


def _work(theirs: Connection, work: Work, args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    try:
        work(lambda share, text: theirs.send((share, text)), *args)
        theirs.send(None)
    except DynsearchError as error:
        theirs.send(error)


def _train_into(progress: Progress, folder: Path, material: Material) -> None:
    config = encoder_config(
        material.backbone, num_classes=len(material.labels), norm_eps=norm_eps(material.folder)
    )
    config, weights = train_supernet(
        config,
        read_pretrained(material.folder),
        material.splits["train"],
        material.training,
        progress,
        early_stop=material.splits["early_stop"],
        unlabelled=unlabelled_tokens(material),
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
