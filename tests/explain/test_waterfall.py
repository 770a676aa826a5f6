"""Waterfalls add up to the replayed time, and their steps are what they are called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import small_run
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.device import Quantity
from cost_models.forms import parameters_of
from dynsearch.explain.waterfall import LABELS, Step, waterfall
from dynsearch.explain.whatif import Case, open_case, what_helps
from dynsearch.front_points import mean_flops
from dynsearch.sim.layer_cost import build_layer_cost
from dynsearch.sim.replay import replay
from search_spaces.candidate import PolicyBatch, apply_policy, static_policies

SEEDS = st.integers(0, 2**32 - 1)
DYNAMIC = ("checks", "drop", "router", "dispatch", "compaction")


def replayed_s(case: Case, policy: PolicyBatch | None = None) -> float:
    """Time per input as the search's own replay gives it."""
    setting = case.setting
    cost = build_layer_cost(
        setting.outer,
        [setting.device],
        workload=setting.workload,
        num_classes=setting.num_classes,
    )
    right = np.ones(case.trace.num_samples, dtype=bool)
    done = replay(
        case.trace,
        case.policy if policy is None else policy,
        cost,
        workload=setting.workload,
        correct_full=right,
    )
    return float(done.cost("time_per_sample_s")[0, 0])


def steps_of(case: Case) -> dict[str, Step]:
    found = waterfall(case.account, small_run.full_of(case).account)
    return {step.name: step for step in found.steps}


def static(case: Case, depth: int) -> Case:
    """The first layers of the full network on the case's device."""
    full = small_run.full_of(case)
    layers = full.trace.num_layers
    mode = case.setting.outer.exit_batching
    policy = static_policies([depth], num_layers=layers, exit_batching=mode)
    return open_case(full.setting, full.trace, policy)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_start_and_steps_add_up_to_the_time_that_replay_predicts(seed: int) -> None:
    case = small_run.draw(seed)
    full = small_run.full_of(case)
    found = waterfall(case.account, full.account)
    assert found.total_s == pytest.approx(replayed_s(case), rel=1e-9)
    assert found.full_s == pytest.approx(replayed_s(full), rel=1e-9)
    total = found.start_s + sum(step.seconds for step in found.steps)
    assert total == pytest.approx(found.total_s, rel=1e-9)
    assert [step.name for step in found.steps] == list(LABELS)
    own = sum(step.own_s for step in found.steps)
    assert own == pytest.approx(found.total_s, rel=1e-9)
    assert sum(s.full_s for s in found.steps) == pytest.approx(found.full_s, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_lengths_between_priced_ones_add_up_too(seed: int) -> None:
    case = small_run.draw(seed, max_len=90, batch=2)
    assert case.account.total_s == pytest.approx(replayed_s(case), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_the_full_network_is_its_own_ideal(seed: int) -> None:
    full = small_run.full_of(small_run.draw(seed))
    found = waterfall(full.account, full.account)
    assert found.start_s == pytest.approx(found.total_s, rel=1e-12)
    assert all(abs(step.seconds) <= 1e-12 * found.total_s for step in found.steps)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_a_static_truncation_pays_for_nothing_that_is_dynamic(seed: int) -> None:
    case = small_run.draw(seed)
    steps = steps_of(static(case, 1))
    for name in DYNAMIC:
        assert steps[name].seconds == steps[name].own_s == 0
    assert abs(steps["batching"].seconds) < 1e-12
    assert {h.name for h in what_helps(static(case, 1))}.isdisjoint(
        {"checks_free", "drop_free", "dispatch_free", "compaction_free", "one_exit_fewer"}
    )


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_where_time_is_proportional_to_flops_it_follows_them(seed: int) -> None:
    """Without constants and memory, batch 1: no step at all, whatever the candidate does.

    Experts of single tokens alone are left out: rows per expert are rounded, other FLOPs run.
    """
    case = small_run.draw(seed, device=small_run.proportional(), batch=1)
    moe = case.setting.outer.moe
    if moe is not None and moe.granularity == "token":
        return
    full = small_run.full_of(case)
    found = waterfall(case.account, full.account)
    assert found.total_s == pytest.approx(case.account.flops / 1e9, rel=1e-12)
    assert found.start_s == pytest.approx(found.total_s, rel=1e-12)
    for step in found.steps:
        assert abs(step.seconds) <= 1e-12 * found.full_s
        if step.name not in ("rest", "checks", "drop", "router", "dispatch"):
            assert abs(step.own_s) <= 1e-12 * found.full_s


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, mode=st.sampled_from(["compact", "wait_all"]))
def test_there_batches_add_padding_and_waiting_alone(seed: int, mode: str) -> None:
    """Rows waiting for the slowest are paid for at its length; a compact batch wastes none."""
    case = small_run.draw(seed, device=small_run.proportional(), mode=mode, batch=4)
    if case.setting.outer.moe is not None:  # rows per expert are rounded, another FLOP count
        return
    found = steps_of(case)
    scale = small_run.full_of(case).account.total_s
    for name in ("weights", "floor", "call", "fill", "activations", "rest"):
        assert abs(found[name].seconds) <= 1e-12 * scale
    if mode == "compact":
        assert abs(found["batching"].seconds) <= 1e-12 * scale
    else:
        assert (found["batching"].own_s > 1e-12 * scale) == bool(
            (rows_run(case, "unpadded") > rows_run(case, "alone") + 1e-9).any()
        )
    same = replace(case.trace, lengths=np.full_like(case.trace.lengths, 7))
    assert abs(steps_of(open_case(case.setting, same, case.policy))["padding"].own_s) < 1e-18


def rows_run(case: Case, view: str) -> np.ndarray:
    """Rows that each layer computes per input [L]."""
    counts = case.visits.counts[view]["layer"]
    return np.einsum("lbg,b->l", counts, np.arange(1, counts.shape[1] + 1))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, length=st.integers(3, small_run.MAX_LEN))  # 2 tokens are never dropped
def test_ideal_flops_are_those_of_the_front(seed: int, length: int) -> None:
    case = small_run.draw(seed, batch=1)
    trace = replace(case.trace, lengths=np.full_like(case.trace.lengths, length))
    case = open_case(case.setting, trace, case.policy)
    candidate = apply_policy(case.setting.outer, case.policy, 0)
    want = mean_flops(candidate, case.visits.reach, trace.lengths, small_run.CLASSES)[0]
    assert case.account.flops == pytest.approx(want, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_what_helps_is_ranked_and_priced_anew(seed: int) -> None:
    case = small_run.draw(seed)
    found = what_helps(case)
    saved = [h.saved_s for h in found]
    assert saved == sorted(saved, reverse=True)
    now = case.account.total_s
    assert all(h.seconds + h.saved_s == pytest.approx(now, rel=1e-12) for h in found)
    by_name = {h.name: h for h in found}
    load = replace(case.setting.workload, sort=True)
    sorted_s = replayed_s(open_case(replace(case.setting, workload=load), case.trace, case.policy))
    if abs(sorted_s - now) > 1e-6 * now:
        assert by_name["sorted"].seconds == pytest.approx(sorted_s, rel=1e-9)
    if case.policy.exit_on.any():
        best = np.inf
        for layer in np.flatnonzero(case.policy.exit_on[0]):
            on, levels = case.policy.exit_on.copy(), case.policy.thresholds.copy()
            on[0, layer], levels[0, layer] = False, np.inf
            best = min(best, replayed_s(case, replace(case.policy, exit_on=on, thresholds=levels)))
        if "one_exit_fewer" in by_name:
            assert by_name["one_exit_fewer"].seconds == pytest.approx(best, rel=1e-9)
        else:
            assert best == pytest.approx(now, rel=1e-8)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_half_the_bytes_of_weights_are_twice_the_rates_and_twice_the_cache(seed: int) -> None:
    cpu = small_run.DEVICES[0]
    case = small_run.draw(seed, device=cpu)
    twice = {
        key: Quantity(
            value=2 * (cpu.parameter(key[6:]) if key.startswith("model.") else cpu.get(key)),
            dimension="number",
            source="test",
            grade="estimate",
        )
        for key in (
            "memory.bandwidth",
            "model.resident_share",
            *(f"model.{n}" for n in parameters_of("cpu") if n.startswith("pack")),
        )
    }
    fast = replace(cpu, quantities={**cpu.quantities, **twice})
    want = open_case(replace(case.setting, device=fast), case.trace, case.policy).account.total_s
    (half,) = (h for h in what_helps(case) if h.name == "half_weights")
    assert half.seconds == pytest.approx(want, rel=1e-9)


def test_packing_ahead_of_time_is_offered_where_weights_are_packed() -> None:
    offered = {}
    for device in small_run.DEVICES:
        case = small_run.draw(4, device=device, batch=1)
        offered[device.kind] = "prepacked" in {h.name for h in what_helps(case)}
    assert offered == {"cpu": True, "gpu": False, "tpu": False, "edge": False}
