"""Timing that is fair between configurations: blocks of rows, taken in turns, in random order.

The loop knows runners and batches, not models, so that it can be tested with a clock of its own.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynsearch.bench_select import for_batch
from dynsearch.heap import keep_freed_memory
from dynsearch.models.dynamic import DynamicEncoder, plan_of
from dynsearch.models.tokens import Tokens
from search_spaces.candidate import Candidate
from search_spaces.workload import batch_order

# oneDNN compiles a bf16 matmul for each number of rows and keeps 1,024 kernels unless told
# otherwise; batches that shrink sample by sample need more and pay 0.3 ms for each that was lost.
# Set where a network is timed or deployed, not for searches: the kernels take up to 0.6 GB.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

F64 = NDArray[np.float64]
Batch = tuple[Tensor, NDArray[np.int64], Tensor | None]  # ids [B, T], lengths [B], types [B, T]
Clock = Callable[[], float]
Runner = Callable[[Any], F64]  # batch -> clock reading when each of its samples had its answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """R repeats of C runners over the same rows."""

    latency_s: F64  # [R, C] mean over samples of (own answer - start of its batch)
    per_sample_s: F64  # [R, C] time of all batches over samples

    @property
    def latency_median_s(self) -> F64:
        """Median over repeats [C]."""
        return np.asarray(np.median(self.latency_s, axis=0), dtype=np.float64)

    @property
    def per_sample_median_s(self) -> F64:
        """Median over repeats [C]."""
        return np.asarray(np.median(self.per_sample_s, axis=0), dtype=np.float64)


def time_interleaved(
    runners: Sequence[Runner],
    blocks: Sequence[Sequence[Any]],
    *,
    repeats: int,
    seed: int,
    clock: Clock = time.perf_counter,
    on_block: Callable[[], None] | None = None,
) -> Timings:
    """Time every runner on every block, the runners in a fresh random order for each block.

    Everything runs once before: the first use of each shape builds kernels, which a network that
    serves pays once; until then texts of up to 256 tokens in bf16 took up to 1.3 times as long.

    Args:
        runners: C callables; each takes a batch and returns when its samples had answers.
        blocks: Lists of batches; a runner does one whole block before the next one's turn.
        repeats: How often everything is done.
        seed: Of the orders.
        clock: Seconds, the one that the runners read too.
        on_block: Called after each block of each repeat.
    """
    latency, busy = np.zeros((repeats, len(runners))), np.zeros((repeats, len(runners)))
    samples = 0
    rng = np.random.default_rng(seed)
    for runner in runners:
        for block in blocks:
            for batch in block:
                runner(batch)
    for repeat in range(repeats):
        samples = 0
        for block in blocks:
            for c in rng.permutation(len(runners)):
                size = 0
                for batch in block:
                    start = clock()
                    answered = runners[c](batch)
                    busy[repeat, c] += clock() - start
                    latency[repeat, c] += float((answered - start).sum())
                    size += answered.shape[0]
            samples += size
            if on_block is not None:
                on_block()
    return Timings(latency_s=latency / samples, per_sample_s=busy / samples)


def make_blocks(
    tokens: Tokens, rows: int, *, batch: int, block_rows: int = 40, sort: bool | None = None
) -> list[list[Batch]]:
    """The first `rows` texts as padded batches (sorted when batch > 1 or `sort`), in blocks."""
    by_length = batch > 1 if sort is None else sort
    order = batch_order(tokens.lengths[:rows], batch=batch, sort=by_length)
    parts = [order[i : i + batch] for i in range(0, rows, batch)]
    batches = [(*tokens.batch(part), tokens.batch_types(part)) for part in parts]
    size = max(1, block_rows // batch)
    return [batches[i : i + size] for i in range(0, len(batches), size)]


def encoder_runner(encoder: DynamicEncoder, candidate: Candidate, batch: int) -> Runner:
    """A runner that executes `candidate` for real.

    A sample has its answer when the layer after its exit begins, at the latest when the run
    ends; where exited samples wait for their batch, when the run ends.
    """
    plan = plan_of(for_batch(candidate, batch))

    def run(one: Batch) -> F64:
        starts: list[float] = []
        result = encoder.run(plan, *one, on_layer=lambda: starts.append(time.perf_counter()))
        end = time.perf_counter()
        if plan.wait:
            return np.full(result.exit_layer.shape, end)
        # entry l = start of 0-based layer l = end of 1-based layer l; a last layer ends the run
        stamps = np.array([*starts, end])
        return stamps[result.exit_layer]

    return run


@contextmanager
def quiet_machine(threads: int) -> Iterator[None]:
    """Torch on `threads` threads and no garbage collection inside; both put back after.

    From now on this process keeps memory that it frees, as one does that serves.
    """
    keep_freed_memory()
    before, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(threads)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()
