"""What two choices of the runnable network buy. Run: python tests/bench/network_choices.py.

Freed memory: a process keeps what it frees (`dynsearch/heap.py`) or gives it back to the system,
whose pages then fault in anew; processes of both kinds in turns. Whole rows: tokens that stay are
copied row by row (`dynamic._take`) or by `torch.gather`, which reads value by value. Random
weights of a 6 x 384 encoder, one thread, its processor time; asserts nothing.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from torch import Tensor

from cost_models.calibrate.plan import GENERIC
from dynsearch.heap import keep_freed_memory
from dynsearch.measure_onnx import random_weights
from dynsearch.models.dynamic import DynamicEncoder, Plan, _take, full_plan
from dynsearch.models.weights import encoder_config

CONFIG = encoder_config(GENERIC, num_classes=2, norm_eps=1e-12)
TOKENS, BATCHES = 230, (1, 8)
RUNS, ROUNDS, COPIES = 7, 3, 200
KINDS = ("kept", "given back")


def main() -> int:
    """Print the two tables; as a child, one JSON object."""
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        print(json.dumps(timed(keep=sys.argv[1] == KINDS[0])))
        return 0
    found: dict[str, list[dict[str, list[float]]]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind in KINDS:
            done = subprocess.run(
                [sys.executable, __file__, kind], capture_output=True, text=True, check=True
            )
            found[kind].append(json.loads(done.stdout))
    print("freed memory, fp32 | ms kept | faults | ms given back | faults | ratio")
    for name in found[KINDS[0]][0]:
        ms, faults = (
            [median(one[name][i] for one in found[kind]) for kind in KINDS] for i in (0, 1)
        )
        print(
            f"{name} | {ms[0]:.1f} | {faults[0]:.0f} | {ms[1]:.1f} | {faults[1]:.0f} | "
            f"{ms[1] / ms[0]:.2f}"
        )
    print("half of 8 x 230 rows of 384 | us whole rows | us gather | ratio")
    for dtype in (torch.float32, torch.bfloat16):
        rows, gather = copies(dtype)
        print(f"{str(dtype)[6:]} | {rows:.0f} | {gather:.0f} | {gather / rows:.1f}")
    return 0


def timed(*, keep: bool) -> dict[str, list[float]]:
    """Median milliseconds and page faults of a run, by plan and batch size."""
    if keep:
        keep_freed_memory()
    encoder = DynamicEncoder(CONFIG, random_weights(CONFIG, 0)).to("fp32")
    full = full_plan(CONFIG)
    halved = replace(full, depth=2, keep_rate=(0.5,) * CONFIG.num_layers)
    out = {}
    for batch in BATCHES:
        for name, plan in (("6 layers", full), ("2 layers, half of the tokens", halved)):
            out[f"{batch} x {TOKENS} tokens, {name}"] = one(encoder, plan, batch)
    return out


def one(encoder: DynamicEncoder, plan: Plan, batch: int) -> list[float]:
    """Median milliseconds and page faults of a run, the first two not counted."""
    rng = np.random.default_rng(0)
    lengths = np.full(batch, TOKENS)
    spent, faults = [], []
    for _ in range(RUNS + 2):
        ids = torch.from_numpy(rng.integers(1_000, 30_000, (batch, TOKENS)))
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.thread_time()
        encoder.run(plan, ids, lengths)
        spent.append(1e3 * (time.thread_time() - start))
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return [median(spent[2:]), median(faults[2:])]


def copies(dtype: torch.dtype) -> list[float]:
    """Microseconds of whole rows and of `torch.gather`, in turns."""
    size, kept = BATCHES[-1], TOKENS // 2
    x = torch.randn(size, TOKENS, CONFIG.hidden_size).to(dtype)
    positions = torch.stack([torch.randperm(TOKENS)[:kept].sort().values for _ in range(size)])

    def gather(x: Tensor, positions: Tensor) -> Tensor:
        return torch.gather(x, 1, positions[:, :, None].expand(-1, -1, x.shape[2]))

    ways: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_take, gather)
    spent: list[list[float]] = [[], []]
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for way, mine in zip(ways, spent, strict=True):
                start = time.thread_time()
                for _ in range(COPIES):
                    way(x, positions)
                mine.append(1e6 * (time.thread_time() - start) / COPIES)
    return [median(mine) for mine in spent]


if __name__ == "__main__":
    sys.exit(main())
