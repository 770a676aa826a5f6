"""How many torch threads a piece of work gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cost_models.calibrate.host import usable_cores


@contextmanager
def all_cores() -> Iterator[None]:
    """All cores for passes that run while nothing else does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
