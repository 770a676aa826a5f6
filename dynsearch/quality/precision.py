"""Which number format trains faster here: bf16 needs matrix units that not every processor has."""

from __future__ import annotations

import functools
import math
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional

ROWS, HIDDEN, FFN = 2048, 384, 1536  # a training batch through the FFN of a small encoder
REPEATS = 9
HOPELESS = 3.0  # so many times as slow in the second repeat: no more of them
CLEARLY = 1.15


@functools.cache
def training_dtype(device: str = "cpu") -> str:
    """`bf16` where a linear layer trains clearly faster under autocast than in fp32, else `fp32`.

    Clearly, so that two runs on one machine agree; within a process they always do.

    Args:
        device: "cpu" or "cuda".
    """
    fp32 = _step_seconds(autocast("fp32", device), device)
    bf16 = _step_seconds(autocast("bf16", device), device, hopeless_s=HOPELESS * fp32)
    return "bf16" if bf16 * CLEARLY < fp32 else "fp32"


def autocast(dtype: str, device: str) -> AbstractContextManager[Any]:
    """Where forward passes of training on `device` run in `dtype`; weights stay float32."""
    return torch.autocast(device, torch.bfloat16) if dtype == "bf16" else nullcontext()


def _step_seconds(
    context: AbstractContextManager[Any], device: str, *, hopeless_s: float = math.inf
) -> float:
    """Fastest of some forward and backward passes, seconds; of two if both take `hopeless_s`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, HIDDEN, generator=generator).to(device).requires_grad_()
    weight = torch.randn(FFN, HIDDEN, generator=generator).to(device).requires_grad_()
    best = math.inf
    for repeat in range(REPEATS):
        if repeat == 2 and best > hopeless_s:
            break
        start = time.perf_counter()
        with context:
            loss = functional.linear(x, weight).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
