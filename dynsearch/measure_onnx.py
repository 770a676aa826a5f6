"""Times matrices and whole networks on onnxruntime or OpenVINO: what calibration is fitted to.

Run by `dynsearch calibrate --runtime onnxruntime` as a module in a process of its own:

    python -m dynsearch.measure_onnx --runtime onnxruntime plan.json rows.jsonl --seconds 90

The matrices are graphs of one operator, less what a call of a graph that does nothing takes,
because inside a network nobody pays for the call. The networks are graphs as they are exported,
with random weights, from token ids to the answer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cost_models.calibrate import measure
from cost_models.calibrate.fit import Runtime
from cost_models.calibrate.plan import Item, make_plan
from dynsearch.export.onnx_engine import OPENERS, OnnxEncoder, Opener, open_session
from dynsearch.export.onnx_graph import matrix_graph
from dynsearch.export.onnx_plan import DTYPES, graphs
from dynsearch.models.dynamic import EncoderConfig, Weights
from dynsearch.models.int8 import quantised
from search_spaces.candidate import Backbone, Candidate, Exits, Experts, Skim
from search_spaces.errors import InputError

EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}  # that bring a runtime
VOCABULARY = 8192  # words of the random networks: a look-up reads so few that more change nothing
OPS = ("matmul", "chain", "copy")
NEVER = 2.0  # a threshold that no share of a class reaches
IDLE_CALLS = 300
# Texts differ in length from call to call, and a runtime plans for a shape that it did not just
# see: what is timed with one shape again and again is too fast. On average nothing is added.
# What it builds when it sees a shape for the first time it keeps: every length runs once before.
OTHER_LENGTHS = (0, 2, -3, 1, -1, 3, -2)
SHORT, LONG = 64, 512  # longest inputs of the networks: where tokens are dropped, graphs differ
NETWORK_KEYS = (
    *("hidden", "ffn", "heads", "dtype", "depth", "copies", "checks"),
    *("drop_after", "keep_rate", "experts", "top_k", "by_token"),
)


def runtime_of(name: str) -> Runtime:
    """The runtime of this name, for `calibrate_host`.

    Raises:
        InputError: an unknown one, or it is not installed.
    """
    if name not in OPENERS:
        text = f"must be one of torch, {', '.join(OPENERS)}"
        raise InputError.one("command line", "--runtime", name, text)
    try:
        driver = f"{name} {version(name)}"
    except ModuleNotFoundError:
        text = f"not installed; run: pip install 'dynsearch[{EXTRAS[name]}]'"
        raise InputError.one("command line", "--runtime", name, text) from None
    program = ("-m", "dynsearch.measure_onnx", "--runtime", name)
    return Runtime(name=name, driver=driver, program=program, plan=onnx_plan)


def onnx_plan(backbone: Backbone) -> list[Item]:
    """The items of the torch plan that are graphs here, networks from ids to the answer."""
    items = [i for i in make_plan(backbone) if i["op"] in OPS and i["dtype"] in DTYPES]
    whole = {"ends": True, "vocab": VOCABULARY}
    items = [item | whole if item["op"] == "chain" else item for item in items]
    return [item | {"id": number} for number, item in enumerate(items)]


def builder(
    threads: int, opener: Opener = open_session
) -> Callable[[Item, dict[Any, Any]], measure.Call]:
    """Makes the callable of an item on so many threads of a runtime."""

    def build(item: Item, cache: dict[Any, Any]) -> measure.Call:
        if item["op"] == "copy":
            return measure.build(item, cache)
        calls = {"matmul": _matmul, "chain": _chain}[item["op"]](item, cache, threads, opener)
        turns = cycle(calls)
        return lambda: next(turns)()

    return build


def _matmul(item: Item, cache: dict[Any, Any], threads: int, opener: Opener) -> list[measure.Call]:
    """One matrix with its bias, `copies` of them in turn."""
    outer, inner, dtype = item["n"], item["k"], item["dtype"]
    have = cache.setdefault(("matrix", outer, inner, dtype), [])
    rng = np.random.default_rng(0)
    while len(have) < item["copies"]:
        weight = torch.from_numpy(rng.standard_normal((outer, inner), dtype=np.float32) * 0.02)
        parts: Weights = {"layers.0.out.weight": weight, "layers.0.out.bias": torch.zeros(outer)}
        if dtype == "int8":
            parts = quantised(parts)
        short = {name.rpartition(".")[2]: value.numpy() for name, value in parts.items()}
        have.append(opener(matrix_graph(short), threads))
    x = rng.standard_normal((item["m"], inner), dtype=np.float32)
    return [partial(session.run, None, {"x": x}) for session in have[: item["copies"]]]


def _chain(item: Item, cache: dict[Any, Any], threads: int, opener: Opener) -> list[measure.Call]:
    """Whole networks of `depth` layers, as many of them as the `copies` layers make."""
    key = ("networks", item["tokens"] > SHORT, *(item.get(name) for name in NETWORK_KEYS))
    if key not in cache:
        count = max(1, item["copies"] // item["depth"])
        cache[key] = [_network(item, seed, threads, opener) for seed in range(count)]
    rng = np.random.default_rng(0)
    longest = SHORT if item["tokens"] <= SHORT else LONG
    calls: list[measure.Call] = []
    for encoder in cache[key]:
        for more in OTHER_LENGTHS:
            tokens = min(item["tokens"] + more, longest)
            ids = rng.integers(VOCABULARY, size=(item["batch"], tokens))
            calls.append(partial(encoder.run, ids, measure._lengths(item["batch"], tokens)))
    for call in calls:
        call()
    return calls


def _network(item: Item, seed: int, threads: int, opener: Opener = open_session) -> OnnxEncoder:
    """Graphs of a random network."""
    depth, experts = item["depth"], item.get("experts", 1)
    max_len = SHORT if item["tokens"] <= SHORT else LONG
    config = EncoderConfig(
        num_layers=depth,
        hidden_size=item["hidden"],
        num_heads=item["heads"],
        ffn_size=item["ffn"],
        vocab_size=VOCABULARY,
        max_len=max_len,
        num_classes=2,
        expert_counts=(experts,) if experts > 1 else (),
    )
    candidate = _candidate(item, config)
    weights = random_weights(config, seed)
    manifest, files = graphs(config, weights, candidate, max_len=max_len, pairs=False)
    return OnnxEncoder(manifest, files.__getitem__, threads=threads, opener=opener)


def _candidate(item: Item, config: EncoderConfig) -> Candidate:
    """What the item asks of its network."""
    depth, checks, drop = item["depth"], item.get("checks", 0), item.get("drop_after", 0)
    layers = tuple(range(1, depth + 1))
    return Candidate(
        backbone=Backbone(
            name="random",
            num_layers=depth,
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            ffn_size=config.ffn_size,
            vocab_size=config.vocab_size,
            max_len=config.max_len,
        ),
        depth=depth,
        exits=Exits(layers=layers[:checks], thresholds=(NEVER,) * checks) if checks else None,
        skim=(Skim(layers=(drop,), keep_rate=(item["keep_rate"],)),) if drop else (),
        moe=Experts(
            layers=layers,
            num_experts=(item["experts"],) * depth,
            top_k=(item["top_k"],) * depth,
            granularity="token" if item["by_token"] else "sequence",
        )
        if item.get("experts", 1) > 1
        else None,
        dtype=item["dtype"],
        exit_batching="compact",
    )


def random_weights(config: EncoderConfig, seed: int) -> Weights:
    """Weights of a network that was never trained, with a router for each number of experts."""
    g = torch.Generator().manual_seed(seed)
    h, f = config.hidden_size, config.ffn_size

    def linear(name: str, outer: int, inner: int) -> Weights:
        weight = torch.randn(outer, inner, generator=g) * 0.02
        return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outer)}

    def norm(name: str) -> Weights:
        return {f"{name}.weight": torch.ones(h), f"{name}.bias": torch.zeros(h)}

    out: Weights = {
        "embeddings.word": torch.randn(config.vocab_size, h, generator=g),
        "embeddings.position": torch.randn(config.max_len, h, generator=g),
        "embeddings.token_type": torch.zeros(1, h),
        **norm("embeddings.norm"),
    }
    for layer in range(config.num_layers):
        name = f"layers.{layer}."
        out |= linear(name + "qkv", 3 * h, h) | linear(name + "out", h, h)
        out |= linear(name + "ffn_in", f, h) | linear(name + "ffn_out", h, f)
        out |= norm(name + "norm1") | norm(name + "norm2")
        out |= linear(f"heads.{layer}.dense", h, h)
        out |= linear(f"heads.{layer}.out", config.num_classes, h)
        for experts in config.expert_counts:
            out |= linear(f"{name}router{experts}", experts, h)
            out[f"{name}experts{experts}.base"] = torch.zeros(h)
            out[f"{name}experts{experts}.minus_mean"] = torch.zeros(experts, h)
    return out


def clock_of(threads: int) -> Callable[[], float]:
    """Seconds of work: of one thread's runtime the time of the process, wherever it does it."""
    return time.process_time if threads == 1 else time.perf_counter


@lru_cache
def idle_seconds(threads: int, opener: Opener = open_session) -> float:
    """Median time of a call of a graph that adds a bias to one number."""
    parts = {"weight": np.ones((1, 1), dtype=np.float32), "bias": np.zeros(1, dtype=np.float32)}
    session = opener(matrix_graph(parts), threads)
    feed = {"x": np.ones((1, 1), dtype=np.float32)}
    clock = clock_of(threads)
    times = []
    for _ in range(IDLE_CALLS):
        start = clock()
        session.run(None, feed)
        times.append(clock() - start)
    return sorted(times)[IDLE_CALLS // 2]


def net_of_calls(
    items: list[Item], rows: Path, threads: int, opener: Opener = open_session
) -> None:
    """Take the time of an idle call off the rows of single matrices; at most half of a row."""
    single = {item["id"] for item in items if item["op"] == "matmul"}
    idle = idle_seconds(threads, opener)
    lines = []
    for line in rows.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["id"] in single:
            row["seconds"] = max(row["seconds"] - idle, row["seconds"] / 2)
        lines.append(json.dumps(row))
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description="Time a plan on a runtime of ONNX graphs.")
    parser.add_argument("plan", type=Path, help="JSON file with a list `items`")
    parser.add_argument("out", type=Path, help="JSON lines file")
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runtime", choices=sorted(OPENERS), default="onnxruntime")
    args = parser.parse_args(arguments)
    items = json.loads(args.plan.read_text(encoding="utf-8"))["items"]
    opener = OPENERS[args.runtime]
    measure.run_plan(
        items,
        args.out,
        seconds=args.seconds,
        threads=args.threads,
        builder=builder(args.threads, opener),
        clock=clock_of(args.threads),
    )
    net_of_calls(items, args.out, args.threads, opener)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
