"""Costs of many candidates against one candidate at a time, lowered and priced in full."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_models.candidates import cost_candidates, working_set_bytes
from cost_models.device import Device, load_device
from cost_models.price import call_overhead_s, miss_share, price_ops
from search_spaces.backbones import load_backbone
from search_spaces.candidate import Candidate, CandidateBatch, Exits, Experts, Skim, stack
from search_spaces.errors import InputError
from search_spaces.lowering.encoder import lower
from search_spaces.space import SearchSpace
from search_spaces.workload import Workload

BACKBONE = load_backbone("minilm-l6")
DEVICES = [load_device(n) for n in ("generic-x86-avx2", "nvidia-a100-80g-sxm", "google-tpu-v5e")]
SPACE = SearchSpace.from_dict(
    {
        "dtype": ["fp32", "bf16"],
        "skim": {"layers": [1, 3], "keep": [1.0, 0.5, 0.25]},
        "experts": {
            "groups": [[1, 3], [4, 6]],
            "counts": [1, 4],
            "active": [0.25, 0.5],
            "granularity": ["sequence", "token"],
        },
        "exits": {
            "layers": [1, 2, 3, 4, 5],
            "criteria": ["max_prob"],
            "batching": ["serial", "compact", "wait_all"],
        },
    },
    backbone=BACKBONE,
)


def sample(count: int) -> CandidateBatch:
    return SPACE.sample(np.random.default_rng(0), count)


def by_hand(
    batch: CandidateBatch, i: int, device: Device, *, length: int, size: int
) -> tuple[float, float, float]:
    """Seconds, ideal and executed FLOPs of candidate i with every check and no exit.

    Weights in cache and weights from memory, mixed by the share that is missed.
    """
    one = batch.take(np.array([i]))
    ops = lower(one, lengths=length, batch=size, num_classes=2)
    warm, cold = (
        float(price_ops(ops, device, working_set_bytes=w).time_s.sum()) for w in (0.0, None)
    )
    missed = float(miss_share(device, working_set_bytes(one))[0])
    seconds = warm + missed * (cold - warm) + call_overhead_s(device, one.row(0).dtype)
    weights = ops.count
    return seconds, float((weights * ops.flops).sum()), float((weights * ops.executed_flops).sum())


def test_the_worst_case_equals_lowering_and_pricing_each_candidate_alone() -> None:
    batch = sample(25)
    workload = Workload(batch=8, max_len=40)
    costs = cost_candidates(batch, devices=DEVICES, workload=workload, num_classes=2)
    for i in range(len(batch)):
        size = 1 if batch.row(i).exit_batching == "serial" else 8
        for d, device in enumerate(DEVICES):
            seconds, ideal, executed = by_hand(batch, i, device, length=40, size=size)
            assert costs.latency_worst_s[d, i] == pytest.approx(seconds, rel=1e-9)
        assert costs.flops_ideal[i] == pytest.approx(ideal)
        assert costs.flops_executed[i] == pytest.approx(executed)
    assert costs.origin == ("datasheet",) * 3


def test_the_best_case_leaves_at_the_first_exit() -> None:
    exits = Exits(layers=(2, 4), thresholds=(0.5, 0.5))
    early = Candidate(backbone=BACKBONE, depth=6, exits=exits)
    none = replace(early, exits=None)
    workload = Workload(max_len=32)
    costs = cost_candidates(
        stack([early, none]), devices=DEVICES, workload=workload, num_classes=2
    )
    shallow = cost_candidates(
        stack([replace(none, depth=2)]), devices=DEVICES, workload=workload, num_classes=2
    )
    worst = shallow.latency_worst_s[:, 0]  # two layers and a head that decides nothing
    assert (costs.latency_best_s[:, 0] > worst).all()
    assert (costs.latency_best_s[:, 0] < 0.7 * costs.latency_worst_s[:, 0]).all()
    assert costs.latency_best_s[:, 1] == pytest.approx(costs.latency_worst_s[:, 1])


def test_the_mean_at_batch_1_is_the_reach_weighted_sum_over_lengths() -> None:
    device = DEVICES[0]
    skim = Skim(layers=(1,), keep_rate=(0.5,))
    exits = Exits(layers=(2,), thresholds=(0.8,))
    c = stack([Candidate(backbone=BACKBONE, depth=3, skim=(skim,), exits=exits)])
    reach = np.array([[1.0, 1.0, 0.25, 0.0, 0.0, 0.0]])
    costs = cost_candidates(
        c,
        devices=[device],
        workload=Workload(max_len=64),
        num_classes=2,
        lengths=np.array([10, 30]),
        reach=reach,
    )
    working_set = float(working_set_bytes(c, reach)[0])
    expected = call_overhead_s(device)
    for length in (10, 30):
        ops = lower(c, lengths=length, batch=1, num_classes=2)
        time = price_ops(ops, device, working_set_bytes=working_set).time_s
        expected += 0.5 * float((time * reach[0, ops.layer]).sum())
    assert costs.latency_mean_s is not None
    assert costs.latency_mean_s[0, 0] == pytest.approx(expected, rel=1e-9)


def test_when_all_inputs_go_all_the_way_the_mean_is_the_worst_case() -> None:
    batch = sample(20)
    reach = (np.arange(6) < batch.depth[:, None]).astype(float)
    costs = cost_candidates(
        batch,
        devices=DEVICES,
        workload=Workload(batch=8, max_len=40),
        num_classes=2,
        lengths=np.full(32, 40),
        reach=reach,
    )
    assert costs.latency_mean_s == pytest.approx(costs.latency_worst_s, rel=1e-9)
    assert costs.mean_low_s is not None
    assert costs.mean_high_s is not None
    assert (costs.mean_low_s < costs.latency_worst_s).all()
    assert (costs.mean_high_s > costs.latency_worst_s).all()


def test_more_exits_taken_never_cost_more_at_batch_1() -> None:
    exits = Exits(layers=(1, 2, 3, 4, 5), thresholds=(0.5,) * 5)
    c = stack([Candidate(backbone=BACKBONE, depth=6, exits=exits)])
    means = []
    for stay in (1.0, 0.8, 0.5, 0.1):
        costs = cost_candidates(
            c,
            devices=DEVICES,
            workload=Workload(max_len=32),
            num_classes=2,
            lengths=np.array([12, 20, 32]),
            reach=stay ** np.arange(6)[None, :],
        )
        assert costs.latency_mean_s is not None
        means.append(costs.latency_mean_s[:, 0])
    assert (np.diff(means, axis=0) < 0).all()


def test_waiting_for_all_is_never_faster_than_compacting() -> None:
    exits = Exits(layers=(1, 3), thresholds=(0.5, 0.5))
    base = Candidate(backbone=BACKBONE, depth=6, exits=exits)
    both = stack([replace(base, exit_batching=mode) for mode in ("wait_all", "compact")])
    costs = cost_candidates(
        both,
        devices=DEVICES,
        workload=Workload(batch=8, max_len=32),
        num_classes=2,
        lengths=np.array([12, 20, 32, 8, 9, 16, 18, 25]),
        reach=np.tile([1.0, 0.6, 0.6, 0.2, 0.2, 0.2], (2, 1)),
    )
    assert costs.latency_mean_s is not None
    assert (costs.latency_mean_s[:, 0] > costs.latency_mean_s[:, 1]).all()


def test_with_compaction_a_sample_waits_only_for_the_mates_that_stay() -> None:
    exits = Exits(layers=(1,), thresholds=(0.5,))
    base = Candidate(backbone=BACKBONE, depth=2, exits=exits, exit_batching="compact")
    reach = np.array([[1.0, 0.02, 0, 0, 0, 0]])  # of 7 mates, 0.14 stay: none after rounding
    device = DEVICES[1]
    costs = cost_candidates(
        stack([base]),
        devices=[device],
        workload=Workload(batch=8, max_len=20),
        num_classes=2,
        lengths=np.full(8, 20),
        reach=reach,
    )
    full, alone = (lower(stack([base]), lengths=20, batch=b, num_classes=2) for b in (8, 1))
    expected = float(price_ops(full.take(full.layer == 0), device).time_s.sum())
    expected += 0.02 * float(price_ops(alone.take(alone.layer == 1), device).time_s.sum())
    assert costs.latency_mean_s is not None
    assert costs.latency_mean_s[0, 0] == pytest.approx(expected, rel=1e-9)


def test_a_candidate_costs_the_same_whoever_stands_beside_it() -> None:
    batch = sample(30)
    workload = Workload(batch=8, max_len=48)
    together = cost_candidates(batch, devices=DEVICES, workload=workload, num_classes=2)
    rows = np.array([17, 3])
    some = cost_candidates(batch.take(rows), devices=DEVICES, workload=workload, num_classes=2)
    for name in ("latency_worst_s", "worst_low_s", "worst_high_s", "latency_best_s"):
        assert getattr(some, name) == pytest.approx(getattr(together, name)[:, rows], rel=1e-12)
    assert (some.peak_bytes == together.peak_bytes[rows]).all()


def test_the_working_set_counts_routed_experts_and_reached_layers_only() -> None:
    dense = Candidate(backbone=BACKBONE, depth=2)
    moe = Experts(layers=(1,), num_experts=(4,), top_k=(1,))
    batch = stack([dense, replace(dense, moe=moe), replace(dense, dtype="bf16")])
    full, split, narrow = working_set_bytes(batch)
    layer = 1_774_464 * 4
    assert full == 2 * layer
    assert full - split == 0.75 * 2 * 384 * 1536 * 4
    assert narrow == full / 2
    half = working_set_bytes(batch, np.tile([1.0, 0.5, 1, 1, 1, 1], (3, 1)))
    assert half[0] == 1.5 * layer


def test_bad_arguments_are_listed_together() -> None:
    with pytest.raises(InputError) as caught:
        cost_candidates(
            sample(3),
            devices=DEVICES,
            workload=Workload(batch=1 << 12, max_len=1 << 14),
            num_classes=2,
            reach=np.ones((3, 2)),
        )
    assert {p.key for p in caught.value.problems} == {"batch", "max_len", "lengths", "reach"}
