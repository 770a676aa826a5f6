"""What an exported configuration costs, read again from its file, in plain loops.

Shared with the search are the operators that a network lowers to and the price of a single one.
Tables over lengths and batches, replay, inner search and the memory model are not used: exits are
decided row by row, and memory is counted matrix by matrix. Batch 1.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cost_models.device import Device
from cost_models.price import call_overhead_s, miss_share, price_ops
from dynsearch.quality.trace import Trace
from search_spaces.candidate import Candidate, apply_policy, policies_of, stack
from search_spaces.codec import candidate_from_dict, candidate_hash
from search_spaces.lowering.encoder import lower

WIDTH = {"fp32": 4, "bf16": 2}


def read(file: Path) -> Candidate:
    """The candidate in a configuration file."""
    return candidate_from_dict(tomllib.loads(file.read_text(encoding="utf-8")), file=str(file))


def experts_of(c: Candidate) -> dict[int, tuple[int, int]]:
    """Experts and how many of them run, by layer."""
    if c.moe is None:
        return {}
    return {
        layer: (count, k)
        for layer, count, k in zip(c.moe.layers, c.moe.num_experts, c.moe.top_k, strict=True)
    }


def alive(c: Candidate, length: int) -> list[int]:
    """Tokens of a text that enter layer 1, 2, ..., and those that leave the last one."""
    rates = {
        layer - (skim.point == "before_layer"): rate
        for skim in c.skim
        for layer, rate in zip(skim.layers, skim.keep_rate, strict=True)
    }
    rate, counts = 1.0, []
    for layer in range(c.depth + 1):
        rate = min(rate, rates.get(layer, 1.0))
        counts.append(min(length, max(2, math.ceil(rate * length - 1e-9))))
    return counts


def layer_bytes(c: Candidate, layer: int) -> float:
    """Weights that a row reads of a layer: idle experts are left alone."""
    h, f = c.backbone.hidden_size, c.backbone.ffn_size
    count, k = experts_of(c).get(layer, (1, 1))
    values = 4 * (h * h + h) + (h * f + f) + (f * h + h) + 2 * 2 * h
    return WIDTH[c.dtype] * (values - (1 - k / count) * 2 * h * f)


def by_layer(
    c: Candidate, device: Device, length: int, classes: int, missed: float
) -> list[float]:
    """Seconds of layers 1, 2, ... with their checks; the embedding is in the first."""
    ops = lower(stack([c]), lengths=length, batch=1, num_classes=classes)
    warm, cold = (price_ops(ops, device, working_set_bytes=w).time_s for w in (0.0, None))
    seconds = [0.0] * c.depth
    for layer, near, far in zip(ops.layer.tolist(), warm, cold, strict=True):
        seconds[layer] += float(near + missed * (far - near))
    return seconds


def worst_s(c: Candidate, device: Device, *, max_len: int, classes: int) -> float:
    """The longest text, every check paid, no exit taken."""
    used = sum(layer_bytes(c, layer) for layer in range(1, c.depth + 1))
    missed = float(miss_share(device, used))
    return call_overhead_s(device, c.dtype) + sum(by_layer(c, device, max_len, classes, missed))


def leaves_at(c: Candidate, logits: np.ndarray) -> int:
    """Layer after which a row [L, C] answers."""
    run, before = 0, None
    for layer in c.exits.layers if c.exits else ():
        row = [float(x) / c.exits.temperature for x in logits[layer - 1]]
        weights = [math.exp(x - max(row)) for x in row]
        answer = row.index(max(row))
        run, before = (run + 1 if answer == before else 0), answer
        if c.exits.criterion == "patience":
            leaves = run >= c.exits.patience
        else:
            assert c.exits.criterion == "max_prob"
            level = c.exits.thresholds[c.exits.layers.index(layer)]
            leaves = max(weights) / sum(weights) >= level
        if leaves:
            return int(layer)
    return c.depth


def mean_s(c: Candidate, device: Device, trace: Trace, *, classes: int) -> float:
    """Mean over the rows of a trace of what each pays until it leaves."""
    last = [leaves_at(c, row) for row in trace.logits]
    share = [sum(x >= layer for x in last) / len(last) for layer in range(1, c.depth + 1)]
    used = sum(s * layer_bytes(c, layer) for layer, s in enumerate(share, 1))
    missed, total = float(miss_share(device, used)), 0.0
    known: dict[int, list[float]] = {}
    for length, layer in zip(trace.lengths.tolist(), last, strict=True):
        if length not in known:
            known[length] = by_layer(c, device, length, classes, missed)
        total += sum(known[length][:layer])
    return call_overhead_s(device, c.dtype) + total / len(last)


def peak_bytes(c: Candidate, *, max_len: int, classes: int) -> float:
    """Weights that stay and the most values alive at one time."""
    b, experts = c.backbone, experts_of(c)
    h, f = b.hidden_size, b.ffn_size
    values = (b.vocab_size + b.max_len + b.type_vocab_size) * h + 2 * h
    values += c.depth * (4 * (h * h + h) + 2 * h * f + f + h + 4 * h)
    values += sum(e * (2 * h + 1) + h for l_, (e, _) in experts.items() if l_ <= c.depth)
    heads = 1 + (len(c.exits.layers) if c.exits else 0)
    values += heads * (h * h + h + h * classes + classes)
    tokens, most = alive(c, max_len), 0.0
    for layer in range(1, c.depth + 1):
        enter, stay = tokens[layer - 1], tokens[layer]
        matrix = 2 * b.num_heads * min(enter, 64) * enter if stay < enter else 0
        count, k = experts.get(layer, (1, 1))
        inner = f / count * (k if c.moe and c.moe.granularity == "token" and count > 1 else 1)
        wide = (4 if count > 1 else 2) * h + 2 * inner
        most = max(most, enter * 5 * h + matrix, stay * wide)
    return WIDTH[c.dtype] * (values + most)


def fits(trace: Trace, c: Candidate, id_: str) -> bool:
    """Whether a trace is of a configuration's outer setting, and deep enough."""
    outer = candidate_from_dict(trace.header["outer"])  # type: ignore[arg-type]
    made = candidate_hash(apply_policy(outer, policies_of([c]), 0))
    return made.startswith(id_) and trace.depth >= c.depth


def broken(
    c: Candidate,
    device: Device,
    limits: Mapping[str, float],
    *,
    trace: Trace,
    max_len: int,
    classes: int,
) -> dict[str, float]:
    """By how much a configuration is beyond its budgets, as shares; empty: it keeps them all."""
    values = {
        "latency_worst_s": lambda: worst_s(c, device, max_len=max_len, classes=classes),
        "peak_bytes": lambda: peak_bytes(c, max_len=max_len, classes=classes),
        "latency_mean_s": lambda: mean_s(c, device, trace, classes=classes),
    }
    over = {name: values[name]() / limit - 1.0 for name, limit in limits.items()}
    return {name: share for name, share in over.items() if share > 1e-9}
