"""Distinct operator shapes per second of the GPU form. Run: python tests/bench/gpu_form_rate.py.

A million different bf16 matmuls on one device, processor time of one core, imports not counted,
by the form alone and with a profile that learned what the form leaves over.
Beside it: the datasheet roofline, the simplest independent implementation, in one array
expression (what vectorising can reach) and one shape a call. If `genz-llm` can be imported its
prefill of one network is timed in the same run, beside ours; otherwise: pip install genz-llm.
Prints figures, asserts nothing.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable

import numpy as np

from cost_models.adapters.gpu_gemm import matmuls
from cost_models.device import load_device
from cost_models.forms.gpu import operator_time_s
from cost_models.price import operator_time_s as priced_time_s
from search_spaces.backbones import load_backbone
from search_spaces.candidate import DTYPES
from search_spaces.lowering.decoder import lower_prefill
from search_spaces.ops import OpTable

COUNT, REPEATS, CALLS, PROMPTS = 1_000_000, 3, 2_000, 1_000
DEVICE, RUNTIME = "nvidia-h100-80g-sxm", "vllm"


def distinct_matmuls(count: int) -> OpTable:
    """`count` bf16 matmuls, no two of one shape."""
    rng = np.random.default_rng(0)
    k, n = 8 * rng.integers(8, 2048, (2, count))
    m = 1 + np.arange(count) % 16384
    return matmuls(m, n, k, np.full(count, DTYPES.index("bf16")))


def seconds_of(work: Callable[[], object]) -> float:
    """Median processor seconds of a few calls."""
    found = []
    for _ in range(REPEATS):
        start = time.thread_time()
        work()
        found.append(time.thread_time() - start)
    return float(np.median(found))


def main() -> int:
    """Print shapes per second, ours and those beside it."""
    ops, device = distinct_matmuls(COUNT), load_device(DEVICE)
    shapes = np.unique(np.stack([ops.m, ops.k, ops.n]), axis=1).shape[1]
    peak = float(device.peak_flops_per_s[DTYPES.index("bf16")])
    bandwidth = device.bandwidth_bytes_per_s
    ours = COUNT / seconds_of(lambda: operator_time_s(ops, device))
    known = load_device(DEVICE, runtime=RUNTIME)
    learned = COUNT / seconds_of(lambda: priced_time_s(ops, known))
    moved = ops.weight_bytes + ops.activation_bytes
    array = COUNT / seconds_of(lambda: np.maximum(ops.flops / peak, moved / bandwidth))

    def one_by_one() -> list[float]:
        return [max(float(ops.flops[i]) / peak, float(moved[i]) / bandwidth) for i in range(CALLS)]

    scalar = CALLS / seconds_of(one_by_one)
    print(f"GPU form, {shapes:,} distinct matmuls: {ours:,.0f} shapes/s")
    print(f"with the profile {known.origin} and what it learned: {learned:,.0f} shapes/s")
    print(f"roofline in one array expression: {array:,.0f} shapes/s ({ours / array:.3g} of it)")
    print(f"roofline, one shape a call: {scalar:,.0f} shapes/s (ours {ours / scalar:.3g} times)")
    if importlib.util.find_spec("GenZ") is None:
        print("GenZ: skipped, not installed; `pip install genz-llm` and run this again")
        return 0
    from GenZ import prefill_moddeling  # type: ignore[import-not-found]  # its own spelling

    genz = 1 / seconds_of(
        lambda: prefill_moddeling(
            model="llama3_8b", batch_size=1, input_tokens=512, system_name="H100_GPU", bits="bf16"
        )
    )
    backbone, lengths = load_backbone("llama3-8b"), np.arange(1, PROMPTS + 1)

    def prompts() -> None:
        ops = lower_prefill(backbone, batch=1, tokens=lengths, dtype=DTYPES.index("bf16"))
        operator_time_s(ops, device)

    whole = PROMPTS / seconds_of(prompts)
    print(f"GenZ, prefill of Llama 3 8B, 512 tokens: {genz:,.1f} networks/s")
    print(
        f"ours, {PROMPTS} lengths of prompt in one call, lowering included: {whole:,.1f} "
        f"networks/s ({whole / genz:.3g} times)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
