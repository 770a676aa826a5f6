"""Every value of the vocabulary is simulated by its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dynsearch.conformance import sample_exits
from dynsearch.simulate.classify import classify
from dynsearch.simulate.outcome import Outcome
from search_spaces.candidate import Exits, Skim
from search_spaces.exits import exit_criteria
from search_spaces.routers import routers
from search_spaces.vocabulary import AGGREGATORS, KERNELS, LAYOUTS, OVERFLOWS

from .cases import encoder, experts, setting

SMALL: dict[str, Any] = {"samples": 400, "lengths": (8, 24)}


def simulated(batch: int = 1, **changes: Any) -> Outcome:
    found = classify(setting(encoder(**changes), batch=batch, **SMALL))
    assert found.exits.sum() == pytest.approx(1.0)
    assert 0 < found.mean_s <= found.worst_s * (1 + 1e-9)
    assert 0 < found.flops_ideal <= found.flops_executed * (1 + 1e-9)
    return found


@pytest.mark.parametrize("kind", sorted(exit_criteria()))
def test_inputs_leave_later_where_a_criterion_asks_for_more(kind: str) -> None:
    rule = exit_criteria()[kind]
    exits = sample_exits(rule, 3)
    found = simulated(exits=exits, exit_batching="serial")
    mean = found.exits @ np.arange(6)
    if rule.has_thresholds:
        lowest, highest = (replace(exits, thresholds=(t,) * 3) for t in (-1e9, 1e9))
        early, late = (
            simulated(exits=e, exit_batching="serial").exits @ np.arange(6)
            for e in (lowest, highest)
        )
        assert early <= mean <= late
        assert early < late
    else:
        assert 0 <= mean <= 5


@pytest.mark.parametrize("kind", AGGREGATORS)
def test_exits_that_answer_together_are_no_less_right_than_one_alone(kind: str) -> None:
    exits = Exits(layers=(2, 4), thresholds=(0.8, 0.8), aggregator=kind)
    found = simulated(exits=exits, exit_batching="compact", batch=4)
    assert found.accuracy is not None
    assert 0.5 < found.accuracy < 1.0


@pytest.mark.parametrize("kind", sorted(routers()))
@pytest.mark.parametrize("factor", [None, 1.0])
def test_loads_of_every_router_are_shares(kind: str, factor: float | None) -> None:
    tasks = 4 if kind == "task" else None
    moe = experts(4, 1, origin="upcycled", router=kind, capacity_factor=factor, num_tasks=tasks)
    loads = simulated(exits=None, moe=moe, batch=4).experts[2]
    assert loads.share.sum() == pytest.approx(1.0)
    assert loads.busiest >= 1.0 - 1e-9
    even = kind in ("expert_choice", "balanced_assignment")
    assert loads.dropped == 0.0 if factor is None or even else 0.0 < loads.dropped < 0.6


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_kernels_run_at_least_what_is_asked_for(kernel: str, overflow: str) -> None:
    moe = experts(4, 2, origin="upcycled", kernel=kernel, overflow=overflow, capacity_factor=1.25)
    found = simulated(exits=None, moe=moe, batch=4)
    plain = simulated(exits=None, batch=4)
    assert found.flops_executed > plain.flops_executed  # two whole experts in place of one


SKIMS = {
    "fixed_schedule": {"keep_rate": (0.5, 0.5)},
    "counts": {"mechanism": "fixed_schedule", "keep_count": (6, 4)},
    "threshold": {"thresholds": (0.1, 0.1)},
    "gate": {"score": "learned", "point": "before_layer", "gate_width": 16},
    "blocks": {"mechanism": "gate", "score": "learned", "block": 4, "restore": "last_layer"},
    "attention alone": {
        "mechanism": "gate",
        "score": "learned",
        "point": "before_layer",
        "skipped": "alt_path",
        "module": "attn",
    },
    "topk_router": {
        "score": "router",
        "point": "before_layer",
        "skipped": "pass_through",
        "keep_rate": (0.5, 0.5),
    },
    "lookup": {"skipped": "alt_path", "lookup_order": 3},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SKIMS)
def test_every_way_of_skimming_saves_flops_in_every_layout(name: str, layout: str) -> None:
    more: dict[str, Any] = {"mechanism": name, **SKIMS[name]}
    skim = Skim(layers=(1, 2), layout=layout, **more)
    found = simulated(exits=None, skim=(skim,), batch=4)
    share = found.flops_ideal / simulated(exits=None, batch=4).flops_ideal
    # two layers of six without attention, half of two, or about half of all behind the first
    most = {"attention alone": 0.98, "topk_router": 0.86}.get(name, 0.75)
    assert 0.2 < share < most
