from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynsearch.simulate.batches import Serving, in_closed_form, simulated
from dynsearch.simulate.classify import classify, open_scene
from dynsearch.simulate.leaving import confidence_thresholds
from search_spaces.candidate import Exits, Skim
from search_spaces.routers.base import capacity

from .cases import BOARD, PHONE, encoder, experts, setting, skims


@pytest.mark.parametrize("skimmed", [False, True])
@pytest.mark.parametrize(
    ("mode", "batch", "period"),
    [
        ("serial", 1, 1),
        ("wait_all", 5, 1),
        ("compact", 5, 1),
        ("compact", 3, 2),
        ("regroup", 4, 1),
    ],
)
def test_means_in_closed_form_are_those_of_simulated_batches(
    mode: str, batch: int, period: int, skimmed: bool
) -> None:
    candidate = encoder(
        exit_batching=mode,
        compact_every=period,
        skim=skims(mechanism="gate", score="learned") if skimmed else (),
    )
    asked = setting(candidate, batch=batch)
    scene = open_scene(asked)
    t, on, texts = scene.cost.table, scene.leaving.on, scene.texts
    want = in_closed_form(t, scene.law, on, asked.serving)
    found = simulated(t, scene.leaving.where, texts.index, texts.lengths, on, asked.serving)
    assert want.mean_s == pytest.approx(found.mean_s, rel=0.03)
    assert want.flops_executed == pytest.approx(found.flops_executed, rel=0.03)
    assert want.energy_j == pytest.approx(found.energy_j, rel=0.03)
    assert want.flops_ideal == pytest.approx(found.flops_ideal, rel=0.03)
    assert found.latencies.max() <= want.worst_s * 1.02 or mode == "regroup"  # copies


@pytest.mark.parametrize("mode", ["wait_all", "compact"])
def test_what_runs_is_at_least_what_is_asked_for(mode: str) -> None:
    found = classify(setting(encoder(exit_batching=mode), batch=8))
    assert found.flops_executed > found.flops_ideal


def test_alone_and_unpadded_nothing_runs_that_is_not_asked_for() -> None:
    found = classify(setting(encoder(skim=skims())))
    assert found.flops_executed == pytest.approx(found.flops_ideal, rel=1e-9)


def test_a_confidence_that_a_threshold_stands_for_is_read_off_its_criterion() -> None:
    sure = 0.9
    entropy = sure * np.log(sure) + (1 - sure) * np.log((1 - sure) / 2)
    for criterion, threshold in (
        ("max_prob", sure),
        ("margin", sure - (1 - sure) / 2),
        ("entropy", entropy),
        ("entropy_normalized", 1 + entropy / np.log(3)),
    ):
        exits = Exits(layers=(2,), criterion=criterion, thresholds=(threshold,))
        least = confidence_thresholds(exits, 4, 3)
        assert least is not None
        assert least[1] == pytest.approx(sure, abs=1e-4)
        assert np.isinf(least[[0, 2, 3]]).all()


def test_alike_thresholds_of_two_criteria_cost_the_same() -> None:
    one = classify(setting(encoder()))
    margin = Exits(layers=(2, 4), criterion="margin", thresholds=(0.6, 0.6))
    other = classify(setting(encoder(exits=margin)))
    assert other.mean_s == pytest.approx(one.mean_s, rel=1e-3)


def test_padded_experts_run_all_slots_and_masked_ones_every_token() -> None:
    moe = experts(8, 2, origin="upcycled", capacity_factor=1.25)
    plain = classify(setting(encoder(exits=None), lengths=(48,)))
    tokens, ffn = 48, 4.0 * 384 * 1536  # FLOPs of a token in one whole network
    slots = int(capacity(tokens, 8, 2, 1.25))
    for kernel, rows in (
        ("padded", 8 * slots),
        ("dense_mask", 8 * tokens),
        ("grouped", 2 * tokens),
    ):
        candidate = encoder(exits=None, moe=replace(moe, kernel=kernel))
        found = classify(setting(candidate, lengths=(48,)))
        extra = found.flops_executed - plain.flops_executed
        assert extra == pytest.approx((rows - tokens) * ffn, rel=0.1)


def test_experts_that_overflow_do_less_than_is_asked_for_without_a_limit() -> None:
    tight = experts(8, 1, origin="upcycled", capacity_factor=0.5, kernel="padded")
    free = replace(tight, capacity_factor=None, kernel="grouped")
    found, whole = (classify(setting(encoder(exits=None, moe=m), batch=4)) for m in (tight, free))
    assert 0.4 < found.experts[2].dropped < 0.7
    assert whole.experts[2].dropped == 0.0
    assert found.flops_ideal < whole.flops_ideal


def test_a_dead_weight_router_is_told_by_its_popularity() -> None:
    hashed = experts(8, 1, router="hash", origin="upcycled")
    loads = classify(setting(encoder(exits=None, moe=hashed), batch=4)).experts[2]
    assert loads.share.sum() == pytest.approx(1.0)
    assert loads.busiest > 1.2


def test_tokens_fall_as_the_schedule_says() -> None:
    found = classify(setting(encoder(exits=None, skim=skims(rate=0.8)), lengths=(40,)))
    kept = np.ceil(0.8 ** np.arange(6) * 40 - 1e-9)
    assert found.tokens[:, 0] == pytest.approx(kept)


def test_gates_leave_the_share_that_they_state_on_average() -> None:
    gates = skims(rate=0.85, mechanism="gate", score="learned")
    found = classify(setting(encoder(exits=None, skim=gates), lengths=(48,)))
    kept = 1 + 0.85 ** np.arange(6) * 47  # the first token is protected
    assert found.tokens[:, 0] == pytest.approx(kept, rel=0.02)
    assert found.tokens[-1, 1] > found.tokens[-1, 0] ** 2


def test_tokens_that_pass_by_a_layer_are_there_again_behind_it() -> None:
    depths = Skim(
        layers=(2, 4),
        keep_rate=(0.25, 0.25),
        mechanism="topk_router",
        score="router",
        point="before_layer",
        skipped="pass_through",
    )
    found = classify(setting(encoder(exits=None, skim=(depths,)), lengths=(40,)))
    assert found.tokens[:, 0] == pytest.approx([40, 10, 40, 10, 40, 40])


def test_packed_rows_cost_less_than_padded_ones_and_single_ones_more_calls() -> None:
    gates = skims(rate=0.7, mechanism="gate", score="learned")
    cost = {
        layout: classify(
            setting(
                encoder(exits=None, skim=(replace(gates[0], layout=layout),)),
                batch=8,
                device=BOARD,
            )
        )
        for layout in ("pad_to_max", "packed", "per_sequence")
    }
    assert cost["packed"].flops_executed < cost["pad_to_max"].flops_executed
    assert cost["per_sequence"].mean_s > cost["packed"].mean_s


def test_exits_that_no_input_decides_need_no_parameters() -> None:
    static = Exits(layers=(3,), criterion="static")
    found = classify(setting(encoder(exits=static)))
    assert found.activity == "counted"
    assert found.exits[2] == 1.0
    halved = classify(setting(encoder(exits=None, depth=3)))
    assert found.mean_s == pytest.approx(halved.mean_s, rel=0.02)


def test_stated_rates_are_the_exits() -> None:
    asked = setting(encoder())
    asked = replace(asked, assumptions=replace(asked.assumptions, rates=(0.5, 0.25)))
    found = classify(asked)
    assert found.exits[[1, 3, 5]] == pytest.approx([0.5, 0.25, 0.25])


def test_more_than_fits_is_warned_of() -> None:
    wide = experts(64, 1, origin="upcycled", expert_ffn_size=400_000)
    found = classify(setting(encoder(exits=None, moe=wide), device=PHONE))
    assert any("GB" in text for text in found.warnings)


def test_serving_is_serial_only_where_something_leaves() -> None:
    plain = setting(encoder(exits=None), batch=4).serving
    assert (plain.mode, plain.batch) == ("wait_all", 4)
    alone = setting(encoder(), batch=1).serving
    assert alone == Serving(mode="serial", batch=1)


def test_tokens_that_left_one_by_one_enter_no_later_layer() -> None:
    exits = Exits(layers=(2, 4), criterion="hash", granularity="token")
    found = classify(setting(encoder(exits=exits), lengths=(30,), samples=2000))
    assert found.tokens[:2, 0].tolist() == [30.0, 30.0]
    left = found.tokens[[2, 4], 0] / 30  # a third of the tokens has each of three depths
    assert left[0] == pytest.approx(2 / 3, abs=0.02)
    assert left[1] == pytest.approx(1 / 3, abs=0.02)


def test_experts_do_exactly_the_flops_that_their_tokens_ask_for() -> None:
    """Two of eight experts of the whole width, whatever rows a kernel rounds to."""
    moe = experts(8, 2, origin="upcycled")
    for batch in (1, 3):
        plain, routed = (
            classify(setting(encoder(exits=None, **more), batch=batch, lengths=(5,)))
            for more in ({}, {"moe": moe})
        )
        extra = routed.flops_ideal - plain.flops_ideal
        network, router = 5 * 4.0 * 384 * 1536, 5 * 2.0 * 384 * 8
        assert network + router < extra < 1.02 * (network + router)
        assert routed.flops_executed >= routed.flops_ideal * (1 - 1e-12)
