"""Which number format trains faster here: bf16 needs matrix units that not every processor has."""

from __future__ import annotations

import functools
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional

ROWS, HIDDEN, FFN = 2048, 384, 1536  # a training batch through the FFN of a small encoder
REPEATS = 9
CLEARLY = 1.15


@functools.cache
def training_dtype() -> str:
    """`bf16` where a linear layer trains clearly faster under autocast than in fp32, else `fp32`.

    Clearly, so that two runs on one machine agree; within a process they always do.
    """
    fp32, bf16 = _step_seconds(nullcontext), _step_seconds(_bf16)
    return "bf16" if bf16 * CLEARLY < fp32 else "fp32"


def autocast(dtype: str) -> AbstractContextManager[Any]:
    """Where forward passes of training run in `dtype`; weights stay float32."""
    return _bf16() if dtype == "bf16" else nullcontext()


def _bf16() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


def _step_seconds(context: Any) -> float:
    """Fastest of some forward and backward passes, seconds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, HIDDEN, generator=generator, requires_grad=True)
    weight = torch.randn(FFN, HIDDEN, generator=generator, requires_grad=True)
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        with context():
            loss = functional.linear(x, weight).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        best = min(best, time.perf_counter() - start)
    return best
