from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_models.candidates import cost_candidates
from cost_models.device import load_device
from cost_models.price import has_miss_share, price_ops
from dynsearch.sim.layer_cost import build_layer_cost
from dynsearch.sim.stages import GRID_POINTS
from search_spaces.candidate import Backbone, Candidate, Exits, Experts, Skim, stack
from search_spaces.errors import InputError
from search_spaces.lowering.encoder import lower_compaction, lower_exit_check
from search_spaces.tokens import SCORER_WIDTH
from search_spaces.workload import Workload

NET = Backbone(
    name="small",
    num_layers=4,
    hidden_size=96,
    num_heads=4,
    ffn_size=384,
    vocab_size=500,
    max_len=128,
)
OUTER = Candidate(
    backbone=NET,
    depth=4,
    skim=(Skim(layers=(1, 3), keep_rate=(0.6, 0.3)),),
    moe=Experts(layers=(2, 4), num_experts=(8, 4), top_k=(2, 1)),
)
DEVICES = [load_device(name) for name in ("generic-x86-avx2", "nvidia-a100-80g-sxm")]
PLAIN = Candidate(backbone=NET, depth=4)
LEARNED = {"score": "learned", "point": "before_layer", "gate_width": SCORER_WIDTH}
BEFORE = Candidate(
    backbone=NET, depth=4, skim=(Skim(layers=(1,), keep_rate=(0.5,), **LEARNED), *OUTER.skim)
)


@pytest.mark.parametrize("mode", ["serial", "compact"])
@pytest.mark.parametrize("outer", [PLAIN, OUTER, BEFORE])
@pytest.mark.parametrize("layers", [(), (1, 3)])
def test_stages_add_up_to_the_worst_case_of_the_whole_candidate(
    outer: Candidate, layers: tuple[int, ...], mode: str
) -> None:
    load = Workload(batch=4, max_len=48)
    exits = Exits(layers=layers, thresholds=(0.9,) * len(layers)) if layers else None
    batch = stack([replace(outer, exits=exits, exit_batching=mode)])
    want = cost_candidates(batch, devices=DEVICES, workload=load, num_classes=3)
    cost = build_layer_cost(outer, DEVICES, workload=load, num_classes=3)
    got = cost.worst_s(batch.policies(), batch=4, max_len=48)
    np.testing.assert_allclose(got, want.latency_worst_s, rtol=1e-9)


def test_every_stage_is_the_price_of_its_own_operators() -> None:
    load = Workload(batch=3, max_len=20)
    cost = build_layer_cost(OUTER, DEVICES, workload=load, num_classes=3)
    assert cost.seconds.layer.shape == (2, 4, 3, 20)
    b, n, kept = 2, 17, 11  # 60 % of 17 tokens, rounded up
    copies = lower_compaction(NET, layer=0, remaining=b, n=kept, dtype=0)
    heads = [
        lower_exit_check(NET, layer=0, batch=b, n=kept, dtype=0, num_classes=3, check=check)
        for check in (True, False)
    ]
    tables = (cost.seconds.compact, cost.seconds.check, cost.seconds.head)
    for ops, table in zip([copies, *heads], tables, strict=True):
        for d, device in enumerate(DEVICES):
            near = 0.0 if has_miss_share(device) else None
            want = price_ops(ops, device, working_set_bytes=near).time_s.sum()
            assert table[d, 0, b - 1, n - 1] == pytest.approx(want, rel=1e-12)


def test_layers_that_drop_tokens_or_follow_a_drop_cost_other_than_the_rest() -> None:
    load = Workload(batch=1, max_len=40)
    plain = build_layer_cost(PLAIN, DEVICES, workload=load, num_classes=2).seconds.layer
    skim = replace(OUTER, moe=None)
    dropped = build_layer_cost(skim, DEVICES, workload=load, num_classes=2).seconds.layer
    np.testing.assert_array_equal(plain[:, 1:], plain[:, :-1])
    assert (dropped[0, 3, 0, -1] < plain[0, 3, 0, -1]).all()
    assert dropped[0, 1, 0, -1] < plain[0, 1, 0, -1]


def test_only_devices_with_a_cache_model_depend_on_the_working_set() -> None:
    cost = build_layer_cost(PLAIN, DEVICES, workload=Workload(batch=2, max_len=16), num_classes=2)
    assert list(cost.cached) == [0]
    assert cost.miss_seconds is not None
    assert (cost.miss_seconds.layer[0] > 0).all()
    shares = cost.miss_shares(np.array([[1.0, 0, 0, 0], [1, 1, 1, 1]]))
    assert 0 < shares[0, 0] < shares[0, 1] <= 1
    cold = cost.with_misses(np.array([1.0, 1.0])).layer
    np.testing.assert_allclose(cold, cost.seconds.layer + cost.miss_seconds.layer)


def test_long_inputs_are_priced_on_a_grid_with_straight_lines_between() -> None:
    load = Workload(batch=1, max_len=128)
    cost = build_layer_cost(PLAIN, DEVICES, workload=load, num_classes=2)
    assert cost.lengths.size == GRID_POINTS
    assert cost.lengths[0] == 1
    assert cost.lengths[-1] == 128
    left, right = int(cost.lengths[5]), int(cost.lengths[6])
    share = 1 / (right - left)
    got = cost.at_lengths([left, left + 1, right]).seconds.layer
    np.testing.assert_allclose(got[..., [0, 2]], cost.seconds.layer[..., [5, 6]], rtol=1e-12)
    want = (1 - share) * got[..., 0] + share * got[..., 2]
    np.testing.assert_allclose(got[..., 1], want, rtol=1e-12)


def test_a_length_that_was_not_priced_is_refused() -> None:
    cost = build_layer_cost(PLAIN, DEVICES, workload=Workload(batch=1, max_len=16), num_classes=2)
    with pytest.raises(InputError, match="max_len"):
        cost.at_lengths([17])
    assert cost.at_lengths([16, 3]).lengths.tolist() == [16, 3]


def test_a_single_priced_length_stands_for_itself() -> None:
    cost = build_layer_cost(PLAIN, DEVICES, workload=Workload(batch=1, max_len=1), num_classes=2)
    np.testing.assert_array_equal(cost.at_lengths([1]).seconds.layer, cost.seconds.layer)


def test_the_interval_holds_the_shared_error_and_more() -> None:
    cost = build_layer_cost(PLAIN, DEVICES, workload=Workload(batch=1, max_len=8), num_classes=2)
    assert cost.log_sd.shape == (2,)
    assert (cost.log_sd > 0).all()
