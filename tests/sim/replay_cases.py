"""Random traces, prices and policies for the tests of replay, and replay in plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from dynsearch.quality.trace import Trace
from dynsearch.sim.layer_cost import LayerCost, StageTable
from search_spaces.candidate import (
    CRITERIA,
    EXIT_BATCHING,
    RUNNABLE_CRITERIA,
    PolicyBatch,
    tokens_per_layer,
)
from search_spaces.exits import exit_score
from search_spaces.workload import Workload, batch_order

PATIENCE = CRITERIA.index("patience")


def make_trace(
    rng: np.random.Generator, n: int, layers: int, classes: int = 3, max_len: int = 20
) -> Trace:
    labels = rng.integers(0, classes, n)
    depth = np.linspace(0.2, 2.0, layers)[None, :, None]
    logits = rng.normal(size=(n, layers, classes)) + depth * np.eye(classes)[labels][:, None]
    lengths = rng.integers(2, max_len + 1, n)
    keep = np.minimum.accumulate(rng.choice([1.0, 0.7, 0.4], layers))
    entering, ffn = tokens_per_layer(lengths, keep)
    return Trace(
        logits=logits.astype(np.float32),
        labels=labels,
        lengths=lengths,
        tokens_layer=entering.astype(np.int32),
        tokens_ffn=ffn.astype(np.int32),
        expert_tokens=np.zeros((n, layers, 1), dtype=np.int32),
    )


def make_cost(
    rng: np.random.Generator,
    layers: int,
    batch: int,
    *,
    devices: int = 2,
    max_len: int = 20,
    free_checks: bool = False,
    ordered: bool = False,
    cached: bool = False,
) -> LayerCost:
    """Random prices.

    `ordered`: not decreasing in batch and length. `cached`: a part of the costs is charged as
    far as weights are not in cache, see `miss_of`.
    """

    def table(*lead: int) -> np.ndarray:
        values = rng.random((*lead, batch, max_len))
        return values.cumsum(axis=-1).cumsum(axis=-2) if ordered else values

    def stages() -> StageTable:
        free = 0.0 if free_checks else 1.0
        return StageTable(
            embed=table(devices),
            layer=table(devices, layers),
            check=table(devices, layers) * free,
            head=table(devices, layers),
            compact=table(devices, layers) * free,
        )

    return LayerCost(
        devices=tuple(f"device{d}" for d in range(devices)),
        lengths=np.arange(1, max_len + 1),
        seconds=stages(),
        joules=stages(),
        log_sd=np.zeros(devices),
        miss_seconds=stages() if cached else None,
        miss_joules=stages() if cached else None,
        layer_bytes=np.arange(1.0, layers + 1) if cached else None,
        miss=partial(miss_of, devices) if cached else None,
    )


def miss_of(devices: int, working_sets: np.ndarray) -> np.ndarray:
    return np.outer(np.arange(1, devices + 1), working_sets / (10 + working_sets))


def make_policies(
    rng: np.random.Generator,
    layers: int,
    count: int,
    *,
    modes: tuple[str, ...] = ("serial", "wait_all", "compact"),
    criteria: tuple[str, ...] = RUNNABLE_CRITERIA,
) -> PolicyBatch:
    depth = rng.integers(1, layers + 1, count)
    on = (rng.random((count, layers)) < 0.6) & (np.arange(1, layers + 1) < depth[:, None])
    criterion = np.array([CRITERIA.index(c) for c in criteria])[
        rng.integers(len(criteria), size=count)
    ]
    low = np.where(criterion == CRITERIA.index("entropy"), -1.1, 0.0)[:, None]
    thresholds = low + rng.random((count, layers)) * 1.1
    return PolicyBatch(
        depth=depth,
        exit_on=on,
        criterion=criterion,
        thresholds=np.where(on & (criterion != PATIENCE)[:, None], thresholds, np.inf),
        patience=np.where(criterion == PATIENCE, rng.integers(1, 4, count), 0),
        temperature=rng.choice([0.5, 1.0, 2.0], count),
        exit_batching=np.array([EXIT_BATCHING.index(m) for m in modes])[
            rng.integers(len(modes), size=count)
        ],
    )


@dataclass
class Plain:
    """One policy on one device and workload, sample by sample."""

    latency: list[float]
    time: float
    energy: float
    exits: list[int]  # 0-based layer by sample
    wrong: list[bool]


def decide(trace: Trace, policies: PolicyBatch, p: int, i: int) -> int:
    """0-based exit layer of sample i, the definition word for word."""
    name = CRITERIA[int(policies.criterion[p])]
    previous, agreed = None, 0
    for layer in range(int(policies.depth[p]) - 1):
        if not policies.exit_on[p, layer]:
            continue
        if name == "patience":
            answer = int(trace.logits[i, layer].argmax())
            agreed = agreed + 1 if answer == previous else 0
            previous = answer
            if agreed >= policies.patience[p]:
                return layer
        else:
            score = exit_score(name, trace.logits[i, layer], float(policies.temperature[p]))
            if score >= policies.thresholds[p, layer]:
                return layer
    return int(policies.depth[p]) - 1


def plain_replay(
    trace: Trace,
    policies: PolicyBatch,
    p: int,
    cost: LayerCost,
    d: int,
    load: Workload,
    where: list[int] | None = None,
) -> Plain:
    """Runs every batch of one policy stage by stage; `where` is the exit of each sample."""
    mode = EXIT_BATCHING[int(policies.exit_batching[p])]
    size = 1 if mode == "serial" else load.batch
    if where is None:
        where = [decide(trace, policies, p, i) for i in range(trace.num_samples)]
    latency = [0.0] * trace.num_samples
    total = {"s": 0.0, "j": 0.0}
    miss = 0.0
    if cost.miss is not None:
        reach = np.array([np.mean([w >= x for w in where]) for x in range(cost.num_layers)])
        entered = 1 - (1 - reach) ** size  # share of batches that enter, were rows independent
        miss = float(cost.miss(np.array([entered @ cost.layer_bytes]))[d, 0])
    order = [int(i) for i in batch_order(trace.lengths, batch=size, sort=load.sort)]
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        clock = {"s": 0.0, "j": 0.0}

        def pay(stage: str, layer: int | None, members: list[int], clock: dict = clock) -> None:
            b, longest = len(members), max(int(trace.lengths[i]) for i in members)
            for unit, share, table in (
                ("s", 1.0, cost.seconds),
                ("j", 1.0, cost.joules),
                ("s", miss, cost.miss_seconds),
                ("j", miss, cost.miss_joules),
            ):
                if table is not None:
                    values = getattr(table, stage)[d]
                    values = values if layer is None else values[layer]
                    clock[unit] += share * float(values[b - 1, longest - 1])

        live = list(batch)
        pay("embed", None, batch)
        for layer in range(int(policies.depth[p])):
            shape = batch if mode == "wait_all" else live
            pay("layer", layer, shape)
            if layer + 1 == policies.depth[p]:
                pay("head", layer, shape)
            elif policies.exit_on[p, layer]:
                pay("check", layer, shape)
            else:
                continue
            for i in live:
                if where[i] == layer:
                    latency[i] = clock["s"]
            stays = [i for i in live if where[i] > layer]
            if mode != "wait_all" and stays and len(stays) < len(live):
                pay("compact", layer, stays)
            live = stays
            if not live:
                break
        if mode == "wait_all":
            for i in batch:
                latency[i] = clock["s"]
        for unit in total:
            total[unit] += clock[unit]
    wrong = [int(trace.logits[i, x].argmax()) != int(trace.labels[i]) for i, x in enumerate(where)]
    return Plain(latency, total["s"], total["j"], where, wrong)
