"""Which number formats pay on this machine: a matmul of each against fp32."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

FORMATS: tuple[str, ...] = ("fp32", "bf16", "int8")  # that networks run in on a CPU
SLOWER = 1.1  # a format this much slower than fp32 is worth a word
MATMUL_ROWS = (16, 64, 256)
HIDDEN, FFN = 384, 1536


def time_formats() -> dict[str, dict[int, float]]:
    """Time of a matmul in bf16 and in int8 over that in fp32, one thread, by rows."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found: dict[str, dict[int, float]] = {"bf16": {}, "int8": {}}
        with torch.inference_mode():
            for rows in MATMUL_ROWS:
                spent = {name: _best_time(call) for name, call in _matmuls(rows).items()}
                for name in found:
                    found[name][rows] = spent[name] / spent["fp32"]
        return found
    finally:
        torch.set_num_threads(before)


def _matmuls(rows: int) -> dict[str, Callable[[], Any]]:
    """One feed-forward matmul in each number format, packed as networks have it."""
    import torch

    from dynsearch.models.packed import matrix_of

    x = torch.ones(rows, HIDDEN)
    weights = {"layers.0.ffn_in.weight": torch.ones(FFN, HIDDEN)}
    weights["layers.0.ffn_in.bias"] = torch.zeros(FFN)
    calls: dict[str, Callable[[], Any]] = {}
    for dtype in FORMATS:
        given = x.bfloat16() if dtype == "bf16" else x
        calls[dtype] = partial(matrix_of(weights, "layers.0.ffn_in", dtype), given)
    return calls


def _best_time(call: Callable[[], Any], calls: int = 12) -> float:
    best = float("inf")
    for _ in range(calls):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def formats_that_pay(ratios: Mapping[str, Mapping[int, float]]) -> list[str]:
    """fp32, and every format that is not clearly slower at all numbers of rows."""
    return ["fp32", *(name for name, of in ratios.items() if min(of.values()) <= SLOWER)]
