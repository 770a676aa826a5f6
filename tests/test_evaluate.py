"""How deep a setting is worth running agrees with what its depths cost by the other route."""

from __future__ import annotations

import numpy as np
import pytest

from cost_models.device import load_device
from dynsearch.evaluate import Scene, build_depth, inner_spec, static_costs
from search_spaces.backbones import load_backbone
from search_spaces.candidate import Candidate, Experts, Skim
from search_spaces.inner import InnerSpace
from search_spaces.workload import Workload

DEVICES = tuple(load_device(name) for name in ("generic-x86-avx2", "raspberry-pi-5"))
BACKBONE = load_backbone("minilm-l6")
SCENE = Scene(devices=DEVICES, workload=Workload(batch=1, max_len=64), num_classes=2)
SPACE = InnerSpace(exit_layers=(1, 2, 3, 4, 5), min_depth=2, max_depth=6)
COSTS = ("latency_worst_s", "peak_bytes")
LENGTHS = np.array([64])
SETTINGS = [
    Candidate(backbone=BACKBONE, depth=6),
    Candidate(backbone=BACKBONE, depth=6, dtype="bf16"),
    Candidate(backbone=BACKBONE, depth=6, skim=(Skim(layers=(1,), keep_rate=(0.5,)),)),
    Candidate(
        backbone=BACKBONE,
        depth=6,
        moe=Experts(layers=(3, 4), num_experts=(4, 4), top_k=(1, 1), granularity="token"),
    ),
]


@pytest.mark.parametrize("share", [0.2, 0.4, 0.55, 0.7, 0.9, 1.001])
@pytest.mark.parametrize("name", COSTS)
def test_the_deepest_layer_is_the_last_that_fits_on_some_device(name: str, share: float) -> None:
    def price(outer: Candidate, depth: int) -> dict[str, dict[str, float]]:
        return static_costs(SCENE, outer, depth, LENGTHS, costs=COSTS, exit_batching="serial")

    limits = {d: {name: share * c[name]} for d, c in price(SETTINGS[0], 6).items()}
    spec = inner_spec(
        SCENE,
        inner_space=SPACE,
        objectives=("error", "latency_mean_s"),
        budgets=limits,
        anchors={d.name: () for d in DEVICES},
    )
    wanted = []
    for outer in SETTINGS:
        fits = [
            depth
            for depth in range(2, 7)
            if any(c[name] <= limits[d][name] for d, c in price(outer, depth).items())
        ]
        wanted.append(max(fits, default=2))
    assert build_depth(spec)(SETTINGS).tolist() == wanted


def test_without_budgets_all_layers_are_worth_running() -> None:
    spec = inner_spec(
        SCENE,
        inner_space=SPACE,
        objectives=("error", "latency_mean_s"),
        budgets={},
        anchors={d.name: () for d in DEVICES},
    )
    assert build_depth(spec)(SETTINGS).tolist() == [6] * len(SETTINGS)
