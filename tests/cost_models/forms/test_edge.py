"""The edge form against closed answers: fetch beside work, softmax, nodes that fall back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cost_models.device import Device
from cost_models.forms import edge
from cost_models.price import call_overhead_s
from search_spaces.ops import OpTable

MakeOps = Callable[..., OpTable]
MakeDevice = Callable[..., Device]


def seconds(ops: OpTable, device: Device, **more: float) -> np.ndarray:
    return edge.operator_time_s(ops, device, **more)


def plain(make_device: MakeDevice, **more: float) -> Device:
    """One FLOP and one byte take a nanosecond each; nothing else costs anything."""
    facts = {
        "peak__fp32": 1e9,
        "memory__bandwidth": 1e9,
        "cache__on_chip": 1e12,
        "model__efficiency": 1.0,
        "model__bandwidth_share": 1.0,
        "model__move_share": 1.0,
        "model__copy_share": 1.0,
        "model__attention_share": 1.0,
        "model__rows_half": 1e-9,
        "model__node": 0.0,
        "model__score_flops": 1e-9,
    }
    return make_device("edge", **(facts | more))


def test_weights_are_fetched_while_the_matrix_unit_works(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    ops = make_ops(m=[1, 2, 3], k=100, n=100)  # 2 m 10^4 FLOPs beside 4 10^4 bytes
    assert seconds(ops, plain(make_device)) == pytest.approx([4e-5, 4e-5, 6e-5])


def test_weights_that_stay_on_chip_are_not_fetched(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = plain(make_device, cache__on_chip=1e6)
    ops = make_ops(m=1, k=100, n=100)
    times = [seconds(ops, device, working_set_bytes=w)[0] for w in (1e6, 1.1e6)]
    assert times == pytest.approx([2e-5, 4e-5])


def test_every_softmax_value_costs_its_operations(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    ops = make_ops("attention_prefill", m=10, k=64, n=20, batch=3)
    without, with_ = plain(make_device), plain(make_device, model__score_flops=500.0)
    assert (seconds(ops, with_) - seconds(ops, without))[0] == pytest.approx(3 * 10 * 20 * 500e-9)


def test_attention_runs_at_its_share_of_the_matmul_rate(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    ops = make_ops("attention_prefill", m=10, k=64, n=20)
    full, half = plain(make_device), plain(make_device, model__attention_share=0.5)
    assert seconds(ops, half)[0] == pytest.approx(2 * seconds(ops, full)[0])


def test_a_node_that_falls_back_costs_start_copy_and_processor(
    make_ops: MakeOps, make_device: MakeDevice
) -> None:
    device = plain(
        make_device,
        model__fallback=1e-3,
        model__host_flops=1e8,
        model__copy_share=0.5,
        model__sync=7e-6,
    )
    answer = make_ops("host_sync")
    assert seconds(answer, device)[0] == pytest.approx(
        7e-6 if answer.activation_bytes[0] == 0 else 0
    )
    away = replace(answer, activation_bytes=np.array([1e6]), executed_flops=np.array([2e6]))
    assert seconds(away, device)[0] == pytest.approx(1e-3 + 1e6 / 0.5e9 + 2e6 / 1e8)


def test_the_start_of_a_run_is_paid_once(make_device: MakeDevice) -> None:
    assert call_overhead_s(make_device("edge", model__call=3e-4)) == 3e-4
