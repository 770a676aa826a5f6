"""Time the operators of a measurement plan on this machine. A standalone script.

Needs torch and numpy only (imported inside functions), so it can be copied to the target:

    python measure.py plan.json out.jsonl --seconds 90 --threads 1

Items are run round after round in shuffled order and every round appends rows to `out.jsonl`, so
an interruption loses at most one item, and no item profits from running in a steady loop beside
itself. With one thread the clock is the CPU time of that thread, which other processes disturb
least; with more it is wall time.

An item is a JSON object with `id`, `op`, `dtype` and the sizes that the op's builder below takes.
`copies` weight sets are cycled: 1 keeps the weights in cache, many stream them from memory.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

Item = dict[str, Any]
Call = Callable[[], object]
Matrix = Callable[[Any], Any]  # input [..., inner] -> [..., outer]

BURST_S = 0.002  # a timed burst of a single operator lasts about this long
MAX_BURST = 200
MAX_QUERIES = 64  # as the encoder does, and so with this:
PACKED_ROWS = 32
WARM_UP_CALLS = 1  # builds kernels; the first round warms the rest


def build(item: Item, cache: dict[Any, Any]) -> Call:
    """The callable that executes `item` once. Weight tensors are shared through `cache`."""
    return BUILDERS[item["op"]](item, cache)


def run_plan(
    items: list[Item],
    out: Path,
    *,
    seconds: float,
    threads: int,
    progress: Callable[[int, float], None] | None = None,
    builder: Callable[[Item, dict[Any, Any]], Call] = build,
    clock: Callable[[], float] | None = None,
) -> int:
    """Measure `items` until `seconds` are over; at least one full round is always finished.

    Args:
        items: The plan.
        out: JSON lines are appended here: id, seconds (median of the round), min_s, calls.
        seconds: Budget of time.
        threads: Torch threads.
        progress: Called with (rounds finished, share of the time used) after every item.
        builder: Makes the callable of an item; of another runtime than torch.
        clock: Seconds; None: the thread's CPU time for one thread, else the wall clock.

    Returns:
        Rounds finished.
    """
    import torch

    torch.set_num_threads(threads)
    if clock is None:
        clock = time.thread_time if threads == 1 else time.perf_counter
    rng, start = random.Random(0), time.monotonic()
    cache: dict[Any, Any] = {}
    calls: dict[int, Call] = {}
    rounds, order = 0, list(items)
    with torch.inference_mode(), out.open("a", encoding="utf-8") as sink:
        while True:
            rng.shuffle(order)
            for item in order:
                if rounds and time.monotonic() - start > seconds:
                    return rounds
                call = calls.get(item["id"])
                if call is None:
                    call = calls[item["id"]] = builder(item, cache)
                    for _ in range(WARM_UP_CALLS):
                        call()
                row = time_call(call, clock, single=item.get("single", False))
                sink.write(json.dumps({"id": item["id"], "round": rounds, **row}) + "\n")
                sink.flush()
                if progress is not None:
                    progress(rounds, (time.monotonic() - start) / max(seconds, 1e-9))
            rounds += 1


def time_call(call: Call, clock: Callable[[], float], *, single: bool) -> dict[str, float]:
    """Seconds of one execution of `call`.

    Args:
        call: What is timed.
        clock: Seconds, monotonic.
        single: Time three calls one by one, the first right after another item, as in real
            use; else short bursts, whose mean hides the cost of reading the clock.
    """
    if single:
        times = [_timed(call, clock, 1) for _ in range(3)]
        burst = 1
    else:
        burst = int(min(MAX_BURST, max(1, BURST_S / max(_timed(call, clock, 1), 1e-7))))
        times = [_timed(call, clock, burst) for _ in range(3)]
    times.sort()
    return {"seconds": times[1], "min_s": times[0], "calls": burst}


def _timed(call: Call, clock: Callable[[], float], burst: int) -> float:
    start = clock()
    for _ in range(burst):
        call()
    return (clock() - start) / burst


def _dtype(item: Item) -> Any:
    """Of activations and plain weights; int8 means the layers' matrices alone."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}[item["dtype"]]


def _packs(dtype: str) -> bool:
    import torch

    if not (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return False
    if dtype == "bf16":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.cpu.get_capabilities().get("architecture") in ("x86_64", "AMD64")


def _linear(weight: Any, bias: Any, item: Item) -> Matrix:
    """One of the layers' matrices [outer, inner] as a function of its input, packed once."""
    import torch
    import torch.nn.functional as F

    if item["dtype"] != "int8" and _packs(item["dtype"]):
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")
    if item["dtype"] != "int8":
        return partial(F.linear, weight=weight, bias=bias)
    scale = weight.abs().amax(dim=1) / 127
    values = (weight / scale[:, None]).round().to(torch.int8)
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
        matrix = torch._make_per_channel_quantized_tensor(values, scale.double(), zeros, 0)
    packed = torch.ops.quantized.linear_prepack(matrix, bias)
    seen = torch.cpu.get_capabilities()
    x86 = str(seen.get("architecture", "")) in ("x86_64", "AMD64", "i386")
    seven_bits = x86 and not (seen.get("avx512_vnni") or seen.get("avx_vnni"))
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed, seven_bits)


def _cycled(calls: list[Call]) -> Call:
    """Calls `calls` in turn."""
    if len(calls) == 1:
        return calls[0]
    position = 0

    def call() -> object:
        nonlocal position
        position = (position + 1) % len(calls)
        return calls[position]()

    return call


def _matrices(item: Item, cache: dict[Any, Any], outer: int, inner: int) -> list[Matrix]:
    """The item's `copies` matrices [outer, inner]; later calls get the same ones."""
    import torch

    dtype = _dtype(item)
    have: list[Matrix] = cache.setdefault(("w", outer, inner, item["dtype"]), [])
    while len(have) < item["copies"]:
        weight = torch.randn(outer, inner, dtype=dtype) * 0.02
        have.append(_linear(weight, torch.zeros(outer, dtype=dtype), item))
    return have[: item["copies"]]


def _matmul(item: Item, cache: dict[Any, Any]) -> Call:
    import torch

    x = torch.randn(item["m"], item["k"], dtype=_dtype(item))
    return _cycled([partial(m, x) for m in _matrices(item, cache, item["n"], item["k"])])


def _qkv(item: Item) -> tuple[Any, Any, Any, Any]:
    """Views of one fused projection, as the encoder makes them, and the unpadded lengths."""
    import torch

    B, T, H, d = item["batch"], item["tokens"], item["heads"], item["head_size"]
    x = torch.randn(B, T, 3 * H * d, dtype=_dtype(item))
    q, k, v = x.view(B, T, 3, H, d).permute(2, 0, 3, 1, 4)
    return q, k, v, _lengths(B, T)


def _lengths(B: int, T: int) -> Any:
    """Unpadded lengths of a batch whose longest has T tokens."""
    import numpy as np

    return np.linspace(T, max(1, int(0.85 * T)), B).astype(np.int64)  # one alone has them all


def _mask(n: Any, T: int) -> Any:
    """Valid positions [B, T], or None where nothing is padding."""
    import torch

    if int(n.min()) == T:
        return None
    return torch.arange(T)[None] < torch.from_numpy(n)[:, None]


def _keep(n: Any, rate: float) -> Any:
    """Tokens that survive a skim, the rule of the candidate."""
    import numpy as np

    wanted = np.ceil(np.asarray(rate, dtype=np.float64) * n - 1e-9)
    return np.minimum(n, np.maximum(2, wanted)).astype(np.int64)


def _attend(q: Any, k: Any, v: Any, mask: Any) -> Any:
    import torch.nn.functional as F

    B, H, T, d = q.shape
    attended = F.scaled_dot_product_attention(
        q, k, v, attn_mask=None if mask is None else mask[:, None, None]
    )
    return attended.transpose(1, 2).reshape(B, T, H * d)


def _explicit(q: Any, k: Any, v: Any, mask: Any) -> tuple[Any, Any]:
    """Attention [B, H, T, d] and what each token received [B, T]."""
    import torch

    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if mask is not None:
        scores.masked_fill_(~mask[:, None, None], float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    if mask is None:
        received = weights.sum(dim=(1, 2), dtype=torch.float32)
    else:
        queries = mask.to(torch.float32)[:, None]
        received = torch.bmm(queries, weights.sum(dim=1, dtype=torch.float32))[:, 0]
    return torch.matmul(weights, v), received


def _attend_and_drop(x: Any, q: Any, k: Any, v: Any, n: Any, counts: Any) -> tuple[Any, Any]:
    """Attention received, the best positions, the states and the attention of those that stay."""
    import torch

    B, H, T, d = q.shape
    if T > MAX_QUERIES:
        return _long_attend_and_drop(x, q, k, v, n, counts)
    mask = _mask(n, T)
    context, received = _explicit(q, k, v, mask)
    context = context.transpose(1, 2).reshape(B, T, H * d)
    received[:, 0] = float("inf")
    most = int(counts.max())
    if B == 1:
        kept = torch.topk(received[0], most).indices.sort().values
        return x.index_select(1, kept), context.index_select(1, kept)
    valid = torch.arange(T)[None] < torch.from_numpy(n)[:, None]
    order = received.masked_fill(~valid, -1.0)
    ranked = torch.argsort(order, dim=1, descending=True, stable=True)
    alive = torch.arange(T)[None] < torch.from_numpy(counts)[:, None]
    positions = ranked.masked_fill(~alive, T).sort(dim=1).values[:, :most].clamp_max(T - 1)
    return _rows_at(x, positions), _rows_at(context, positions)


def _long_attend_and_drop(x: Any, q: Any, k: Any, v: Any, n: Any, counts: Any) -> tuple[Any, Any]:
    """The same for long texts, one by one: few queries rank, those that stay attend."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    B, H, T, d = q.shape
    most = int(counts.max())
    positions = torch.full((B, most), T - 1)
    context = torch.zeros(B, most, H * d, dtype=q.dtype)
    for i in range(B):
        own, keys, count = int(n[i]), k[i : i + 1, :, : int(n[i])], int(counts[i])
        asked = min(own, MAX_QUERIES)
        few = q[i : i + 1].index_select(2, torch.from_numpy(np.arange(asked) * own // asked))
        weights = torch.softmax(torch.matmul(few * d**-0.5, keys.transpose(-1, -2)), dim=-1)
        received = weights.sum(dim=(1, 2), dtype=torch.float32)
        received[:, 0] = float("inf")
        kept = torch.topk(received[0], count).indices.sort().values
        attended = F.scaled_dot_product_attention(
            q[i : i + 1].index_select(2, kept), keys, v[i : i + 1, :, :own]
        )
        context[i, :count] = attended.transpose(1, 2).reshape(count, H * d)
        positions[i, :count] = kept
    return _rows_at(x, positions), context


def _rows_at(x: Any, positions: Any) -> Any:
    """Rows `positions` [B, K] of x [B, T, h]."""
    import torch

    size, width, hidden = x.shape
    if size == 1:
        return x.index_select(1, positions[0])
    at = (width * torch.arange(size)[:, None] + positions).reshape(-1)
    return x.reshape(size * width, hidden).index_select(0, at).view(*positions.shape, hidden)


def _attention(item: Item, cache: dict[Any, Any]) -> Call:
    q, k, v, n = _qkv(item)
    return lambda: _attend(q, k, v, _mask(n, q.shape[2]))


def _attention_importance(item: Item, cache: dict[Any, Any]) -> Call:
    import torch

    q, k, v, n = _qkv(item)
    B, H, T, d = q.shape
    x = torch.randn(B, T, H * d, dtype=_dtype(item))
    return lambda: _attend_and_drop(x, q, k, v, n, _keep(n, item["keep_rate"]))


def _gelu(item: Item, cache: dict[Any, Any]) -> Call:
    import torch
    import torch.nn.functional as F

    x = torch.randn(item["m"], item["n"], dtype=_dtype(item))
    return lambda: F.gelu(x)


def _residual_norm(item: Item, cache: dict[Any, Any]) -> Call:
    import torch
    import torch.nn.functional as F

    n = item["n"]
    x, y = (torch.randn(item["m"], n, dtype=_dtype(item)) for _ in range(2))
    w, b = torch.ones(n, dtype=x.dtype), torch.zeros(n, dtype=x.dtype)
    return lambda: F.layer_norm(x + y, (n,), w, b, 1e-12)


def _mean(item: Item, cache: dict[Any, Any]) -> Call:
    """Mean over the tokens of each sequence: m = batch x hidden rows of n tokens."""
    import torch

    x = torch.randn(item["batch"], item["n"], item["hidden"], dtype=_dtype(item))
    n = _lengths(item["batch"], item["n"])
    return lambda: _pool(x, n)


def _pool(x: Any, n: Any) -> Any:
    import torch

    mask = _mask(n, x.shape[1])
    if mask is None:
        return x.mean(dim=1)
    weight = mask.to(x.dtype) / torch.from_numpy(n).to(x.dtype)[:, None]
    return torch.bmm(weight[:, None], x)[:, 0]


def _copy(item: Item, cache: dict[Any, Any]) -> Call:
    """A copy of a large array: shows the bandwidth of the main memory."""
    import torch

    source = torch.ones(item["bytes"] // 2, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def _gather(item: Item, cache: dict[Any, Any]) -> Call:
    import torch

    x = torch.randn(2 * item["m"], item["n"], dtype=_dtype(item))
    index = torch.randperm(2 * item["m"])[: item["m"]].sort().values
    return lambda: x.index_select(0, index)


def _host_sync(item: Item, cache: dict[Any, Any]) -> Call:
    import torch

    logits = torch.randn(item["m"], 2, dtype=_dtype(item))
    return lambda: _decide(logits)


class _Layer:
    """Random weights of one encoder layer, of a head, and a router for each number of experts.

    Experts are slices of the layer's own feed-forward network, as in a split network.
    """

    def __init__(self, item: Item) -> None:
        import torch

        h, f, dtype = item["hidden"], item["ffn"], _dtype(item)

        def linear(outer: int, inner: int) -> tuple[Any, Any]:
            weight = torch.randn(outer, inner, dtype=dtype) * 0.02
            return weight, torch.zeros(outer, dtype=dtype)

        up, down = linear(f, h), linear(h, f)
        self.qkv, self.out = _linear(*linear(3 * h, h), item), _linear(*linear(h, h), item)
        self.up, self.down = _linear(*up, item), _linear(*down, item)
        self.experts: dict[
            int, list[tuple[Matrix, Matrix]]
        ] = {}  # (in, out) of each, by their number
        for experts in (4, 8):
            parts = [slice(e * f // experts, (e + 1) * f // experts) for e in range(experts)]
            self.experts[experts] = [
                (_linear(up[0][p], up[1][p], item), _linear(down[0][:, p], down[1], item))
                for p in parts
            ]
        self.base = torch.zeros(h, dtype=dtype)
        self.norm = (torch.ones(h, dtype=dtype), torch.zeros(h, dtype=dtype))
        self.dense, self.classes = linear(h, h), linear(2, h)
        self.routers = {experts: linear(experts, h) for experts in self.experts}

    def expert(self, x: Any, experts: int, e: int) -> Any:
        """Output of expert e."""
        import torch.nn.functional as F

        up, down = self.experts[experts][e]
        return down(F.gelu(up(x)))


def _chain_layers(item: Item, cache: dict[Any, Any]) -> list[_Layer]:
    have = cache.setdefault(("layers", item["hidden"], item["ffn"], item["dtype"]), [])
    while len(have) < item["copies"]:
        have.append(_Layer(item))
    layers: list[_Layer] = have[: item["copies"]]
    return layers


def _dispatched(layer: _Layer, items: Any, chosen: Any, experts: int) -> Any:
    """Sum over the chosen experts of every item: sorted by expert, computed, put back."""
    import numpy as np
    import torch

    asked = chosen.reshape(-1)
    order = np.argsort(asked, kind="stable")
    stretches = items.index_select(0, torch.from_numpy(order // chosen.shape[1])).split(
        np.bincount(asked, minlength=experts).tolist()
    )
    answers = torch.cat([layer.expert(x, experts, e) for e, x in enumerate(stretches) if len(x)])
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    back = answers.index_select(0, torch.from_numpy(place))
    if chosen.shape[1] == 1:
        return back
    return back.view(*chosen.shape, *items.shape[1:]).sum(dim=1)


def _experts_by_sequence(layer: _Layer, x: Any, n: Any, experts: int, top_k: int) -> Any:
    import torch.nn.functional as F

    scores = F.linear(_pool(x, n), *layer.routers[experts])
    chosen = scores.topk(top_k, dim=-1).indices.numpy()
    base = layer.base
    if x.shape[0] == 1:
        return base + sum(layer.expert(x, experts, int(e)) for e in chosen[0])
    return base + _dispatched(layer, x, chosen, experts)


def _experts_by_token(layer: _Layer, x: Any, n: Any, experts: int, top_k: int) -> Any:
    """Padding is never routed."""
    import torch
    import torch.nn.functional as F

    B, T, h = x.shape
    mask = _mask(n, T)
    flat = x.reshape(B * T, h)
    where = None if mask is None else torch.nonzero(mask.reshape(-1))[:, 0]
    tokens = flat if where is None else flat.index_select(0, where)
    scores = F.linear(tokens, *layer.routers[experts])
    chosen = scores.topk(top_k, dim=-1).indices.numpy()
    out = layer.base + _dispatched(layer, tokens, chosen, experts)
    if where is None:
        return out.view(B, T, h)
    return torch.zeros_like(flat).index_copy(0, where, out).view(B, T, h)


def _ffn(layer: _Layer, x: Any, n: Any, item: Item) -> Any:
    import torch.nn.functional as F

    if item.get("experts", 1) > 1:
        dispatch = _experts_by_token if item["by_token"] else _experts_by_sequence
        return dispatch(layer, x, n, item["experts"], item["top_k"])
    return layer.down(F.gelu(layer.up(x)))


def _experts(item: Item, cache: dict[Any, Any]) -> Call:
    """The expert feed-forward network alone: router, dispatch, experts, combine."""
    import torch

    x = torch.randn(item["batch"], item["tokens"], item["hidden"], dtype=_dtype(item))
    n = _lengths(item["batch"], item["tokens"])
    return _cycled([partial(_ffn, layer, x, n, item) for layer in _chain_layers(item, cache)])


def _exit_check(item: Item, cache: dict[Any, Any]) -> Call:
    """Pooling, pooler, classifier, score on the host."""
    import torch

    x = torch.randn(item["batch"], item["tokens"], item["hidden"], dtype=_dtype(item))
    n = _lengths(item["batch"], item["tokens"])
    return _cycled([partial(_check, layer, x, n) for layer in _chain_layers(item, cache)])


def _check(layer: _Layer, x: Any, n: Any, *, last: bool = False) -> Any:
    import torch
    import torch.nn.functional as F

    hidden = torch.tanh(F.linear(_pool(x, n), *layer.dense))
    logits = F.linear(hidden, *layer.classes)
    return logits.float().numpy().argmax(axis=1) if last else _decide(logits)


def _decide(logits: Any) -> Any:
    """What the host does with logits: a score, a comparison, the rows that stay."""
    import numpy as np

    z = logits.float().numpy().astype(np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    sure = (p / p.sum(axis=1, keepdims=True)).max(axis=1)
    done = sure >= 2.0
    answer, exit_layer = np.zeros(z.shape), np.zeros(len(z), dtype=np.int64)
    answer[done] = z[done]
    exit_layer[done] = 1
    return np.flatnonzero(exit_layer == 0)


def _chain(item: Item, cache: dict[Any, Any]) -> Call:
    """Encoder layers one after another over `copies` weight sets.

    The first `checks` layers are followed by an exit check; in layer `drop_after` (1-based, 0 =
    none) only `keep_rate` of the tokens survive. With `ends` the call starts from token ids and
    ends with the answer of the last head on the host.
    """
    import torch

    x0 = torch.randn(item["batch"], item["tokens"], item["hidden"], dtype=_dtype(item))
    n0 = _lengths(item["batch"], item["tokens"])
    layers = _chain_layers(item, cache)
    embed = _embedding(item, cache) if item.get("ends", False) else None

    def call() -> object:
        x, n, answer = x0 if embed is None else embed(), n0, None
        for i in range(item["depth"]):
            rate = item["keep_rate"] if 0 < item.get("drop_after", 0) <= i + 1 else 1.0
            x, n = _layer(layers[i % len(layers)], x, n, rate, item)
            if i < item.get("checks", 0):
                answer = _check(layers[i % len(layers)], x, n)
        if embed is not None:
            return _check(layers[(item["depth"] - 1) % len(layers)], x, n, last=True)
        return x if answer is None else answer

    return call


def _embedding(item: Item, cache: dict[Any, Any]) -> Callable[[], Any]:
    """Token ids -> states: word, position and type vectors, a norm. New ids at every call."""
    import torch
    import torch.nn.functional as F

    h, T, dtype = item["hidden"], item["tokens"], _dtype(item)
    key = ("embedding", item["vocab"], h, item["dtype"])
    if key not in cache:
        cache[key] = (torch.randn(item["vocab"], h, dtype=dtype), torch.randn(512, h, dtype=dtype))
    words, positions = cache[key]
    kind, norm = torch.randn(h, dtype=dtype), (torch.ones(h, dtype=dtype),) * 2
    batches = [torch.randint(item["vocab"], (item["batch"], T)) for _ in range(16)]

    def embed(ids: Any) -> Any:
        x = F.embedding(ids, words) + positions[:T]
        return F.layer_norm(x + kind, (h,), *norm, 1e-12)

    return _cycled([partial(embed, ids) for ids in batches])


def _layer(layer: _Layer, x: Any, n: Any, rate: float, item: Item) -> tuple[Any, Any]:
    import numpy as np
    import torch.nn.functional as F

    size, width, h = x.shape
    H, mask = item["heads"], _mask(n, width)
    qkv = layer.qkv(x)
    q, k, v = qkv.view(size, width, 3, H, h // H).permute(2, 0, 3, 1, 4)
    counts = np.minimum(_keep(_lengths(item["batch"], item["tokens"]), rate), n)
    if (counts < n).any():
        x, context = _attend_and_drop(x, q, k, v, n, counts)
        n = counts
    else:
        context = _attend(q, k, v, mask)
    x = F.layer_norm(x + layer.out(context), (h,), *layer.norm, 1e-12)
    return F.layer_norm(x + _ffn(layer, x, n, item), (h,), *layer.norm, 1e-12), n


BUILDERS: dict[str, Callable[[Item, dict[Any, Any]], Call]] = {
    "matmul": _matmul,
    "attention_prefill": _attention,
    "attention_importance": _attention_importance,
    "gelu": _gelu,
    "residual_norm": _residual_norm,
    "mean": _mean,
    "copy": _copy,
    "gather": _gather,
    "host_sync": _host_sync,
    "experts": _experts,
    "exit_check": _exit_check,
    "chain": _chain,
}


def _keep_freed_memory() -> None:
    """As a process does that runs networks (dynsearch/heap.py says why, and what is heard)."""
    own = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")
    if any(name in os.environ for name in (*own, "GLIBC_TUNABLES")):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, -1)  # M_TRIM_THRESHOLD
        mallopt(-4, 0)  # M_MMAP_MAX


def main(arguments: list[str]) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description="Time the operators of a measurement plan.")
    parser.add_argument("plan", type=Path, help="JSON file with a list `items`")
    parser.add_argument("out", type=Path, help="JSON lines file, appended to")
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    items = json.loads(args.plan.read_text(encoding="utf-8"))["items"]
    _keep_freed_memory()
    rounds = run_plan(items, args.out, seconds=args.seconds, threads=args.threads)
    print(f"{len(items)} operators, {rounds} rounds, rows in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
