"""Runs work in a process of its own, so that its memory is free again when it is done."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from search_spaces.errors import DynsearchError

Progress = Callable[[float, str], None]
Work = Callable[..., None]  # called with a Progress and what it works on


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
