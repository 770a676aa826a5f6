"""The front that leaves: frozen by bound, flagged by format, FLOPs as a closed form gives them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynsearch.export.records import Confirmed, FrontPoint, Predicted, Selected
from dynsearch.front_points import (
    FullNetwork,
    choose,
    flag_dominated,
    mean_flops,
)
from dynsearch.quality.trace import Trace
from dynsearch.search.fronts import MergedFront
from search_spaces.backbones import load_backbone
from search_spaces.candidate import Candidate, Exits, Skim, stack, static_policies
from search_spaces.codec import candidate_hash
from search_spaces.lowering.encoder import lower

BACKBONE = load_backbone("minilm-l6")
FULL = Candidate(backbone=BACKBONE, depth=6)


def point(name: str, latency: float, error: float, **changes: object) -> FrontPoint:
    made = FrontPoint(
        id=name,
        device="a",
        family="exit",
        objectives={"error": error, "latency_mean_s": latency},
        selected=Selected(error=error, loss=0.0, se=0.0, n=10),
        confirmed=None,
        error_bound=error,
        dominated=False,
        named=(),
        predicted=Predicted(
            latency_mean_s=latency,
            low_s=latency,
            high_s=latency,
            latency_worst_s=latency,
            peak_bytes=1.0,
            flops_ideal=1.0,
            flops_executed=1.0,
        ),
        fidelity="replay",
        candidate={"dtype": "fp32"},
    )
    return replace(made, **changes)


def test_a_point_is_dominated_only_by_its_own_device_and_format():
    points = (
        point("slow and wrong", 2.0, 0.2),
        point("fast and right", 1.0, 0.1),
        point("other device", 3.0, 0.3, device="b"),
        point("other format", 3.0, 0.3, candidate={"dtype": "bf16"}),
        point("slow and best", 4.0, 0.05),
    )
    flagged = [p.id for p in flag_dominated(points) if p.dominated]
    assert flagged == ["slow and wrong"]


def test_equal_points_do_not_dominate_each_other():
    flagged = flag_dominated((point("a", 1.0, 0.1), point("b", 1.0, 0.1)))
    assert not any(p.dominated for p in flagged)


def test_confirmed_errors_decide_where_they_are_known():
    sure = Confirmed(error=0.4, loss=0.3, low=0.2, high=0.4, n=10)
    points = (point("lucky", 1.0, 0.1, confirmed=sure), point("slow", 2.0, 0.2))
    calm = replace(points[1], confirmed=replace(sure, error=0.2))
    assert not any(p.dominated for p in flag_dominated((points[0], calm)))
    worse = replace(points[1], confirmed=replace(sure, error=0.5))
    assert [p.id for p in flag_dominated((points[0], worse)) if p.dominated] == ["slow"]


def trace(error: float, rows: int = 100) -> Trace:
    logits = np.zeros((rows, 6, 2), dtype=np.float32)
    logits[:, :, 0] = 1.0
    labels = np.zeros(rows, dtype=np.int64)
    labels[: round(error * rows)] = 1
    return Trace(
        logits=logits,
        labels=labels,
        lengths=np.full(rows, 9),
        tokens_layer=np.full((rows, 6), 9, dtype=np.int32),
        tokens_ffn=np.full((rows, 6), 9, dtype=np.int32),
        expert_tokens=np.zeros((rows, 6, 1), dtype=np.int32),
    )


def merged(trial: int, bounds: list[float], costs: list[float]) -> MergedFront:
    depths = [1 + i for i in range(len(bounds))]
    policies = static_policies(depths, num_layers=6, exit_batching="serial")
    return MergedFront(
        device="a",
        trial=np.full(len(bounds), trial),
        policies=policies,
        error=np.array(bounds),
        error_bound=np.array(bounds),
        costs={"latency_mean_s": np.array(costs)},
        heuristic=np.zeros(len(bounds), dtype=bool),
    )


def test_every_format_keeps_its_own_front_and_the_truncations():
    half = replace(FULL, dtype="bf16")
    parts = [merged(0, [0.30, 0.20], [1.0, 2.0]), merged(1, [0.40, 0.25], [3.0, 4.0])]
    full = FullNetwork(
        trial=0, outer={"fp32": FULL, "bf16": half}, trace=trace(0.2), exit_batching="serial"
    )
    chosen = choose(parts, {0: FULL, 1: half}, full, ("error", "latency_mean_s"))
    found = {(c.outer.dtype, c.candidate.depth) for c in chosen}
    assert {("fp32", 1), ("fp32", 2), ("bf16", 1), ("bf16", 2)} <= found
    for dtype in ("fp32", "bf16"):
        assert {(dtype, k) for k in (2, 3, 4, 6)} <= found
    assert all(c.devices == ("a",) for c in chosen)
    ids = [candidate_hash(c.candidate) for c in chosen]
    assert len(set(ids)) == len(ids)  # a truncation that a search found, too, is there once


def test_mean_flops_of_the_full_network_are_those_of_its_operators():
    lengths = np.array([5, 5, 12])
    ideal, executed = mean_flops(FULL, np.ones(6), lengths, 2)
    want = 0.0
    for n in lengths:
        ops = lower(stack([FULL]), lengths=np.array([n]), batch=1, num_classes=2)
        want += float((ops.flops * ops.count).sum()) / 3
    assert ideal == pytest.approx(want)
    assert executed == pytest.approx(want)


def test_exits_and_skims_save_flops_in_proportion_to_what_they_cut():
    lengths = np.full(4, 32)
    full = mean_flops(FULL, np.ones(6), lengths, 2)[0]
    half = mean_flops(FULL, np.array([1, 1, 1, 0, 0, 0.0]), lengths, 2)[0]
    assert half / full == pytest.approx(0.5, rel=0.01)  # the last head stands at layer 6
    early = replace(FULL, exits=Exits(layers=(3,), thresholds=(0.9,)))
    checked = mean_flops(early, np.array([1, 1, 1, 0, 0, 0.0]), lengths, 2)[0]
    assert half < checked < 1.01 * half
    skimmed = replace(FULL, skim=(Skim(layers=(1,), keep_rate=(0.5,)),))
    assert 0.5 < mean_flops(skimmed, np.ones(6), lengths, 2)[0] / full < 0.65
