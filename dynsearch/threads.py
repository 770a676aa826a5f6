"""How many torch threads a piece of work gets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from cost_models.calibrate.host import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def all_cores() -> Iterator[None]:
    """All cores for passes that run while nothing else does."""
    with _torch_threads(usable_cores()):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for passes that may run beside others; nothing happens where torch is unused."""
    if "torch" not in sys.modules:
        yield
        return
    with _torch_threads(1):
        yield


def one_core_each(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results of `work` in the order of `items`; as many run at once as there are cores.

    Forward passes in small batches gain more from a core each than from sharing all of them.
    """
    with _torch_threads(1), ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(work, items)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
