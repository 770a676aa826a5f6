"""The terms that a form tells apart are its time, and each is what its name says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.device import Device, load_device
from cost_models.price import price_ops, price_terms
from search_spaces.candidate import DTYPES
from search_spaces.ops import KINDS, OpTable

DEVICES = [
    load_device(name)
    for name in (
        "generic-x86-avx2",
        "nvidia-a100-80g-sxm",
        "google-tpu-v5e",
        "nvidia-jetson-agx-orin-64g",
    )
]


@st.composite
def tables(draw: st.DrawFn) -> OpTable:
    """Operators of any kind and size, fitting together or not; collectives are a link's."""
    size = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def ints(low: int, high: int) -> np.ndarray:
        return np.floor(np.exp(rng.uniform(np.log(low), np.log(high), size))).astype(np.int64)

    flops = rng.choice([0.0, 1.0], size) * np.exp(rng.uniform(0, 25, size))
    return OpTable(
        candidate=np.zeros(size, dtype=np.int64),
        layer=np.zeros(size, dtype=np.int64),
        kind=rng.choice([i for i, kind in enumerate(KINDS) if kind != "collective"], size),
        count=rng.uniform(0.1, 5, size),
        m=ints(1, 4000),
        k=ints(1, 4000),
        n=ints(1, 4000),
        batch=ints(1, 100),
        dtype=rng.integers(0, len(DTYPES), size),
        weight_bytes=rng.choice([0.0, 1.0], size) * np.exp(rng.uniform(0, 18, size)),
        activation_bytes=rng.choice([0.0, 1.0], size) * np.exp(rng.uniform(0, 18, size)),
        flops=flops,
        executed_flops=flops,
    )


@given(
    ops=tables(),
    device=st.sampled_from(DEVICES),
    threads=st.integers(1, 4),
    working_set=st.sampled_from([None, 0.0, 1e6, 1e9]),
)
def test_the_terms_add_up_to_the_time(
    ops: OpTable, device: Device, threads: int, working_set: float | None
) -> None:
    more = {"threads": threads, "working_set_bytes": working_set}
    terms = price_terms(ops, device, **more)
    np.testing.assert_allclose(
        terms.total, price_ops(ops, device, **more).time_s, rtol=1e-9, atol=1e-18
    )
    for name in ("fixed", "weights", "activations", "arithmetic"):
        assert (getattr(terms, name) >= 0).all()


def bound_by_memory(ops: OpTable) -> OpTable:
    """The same operators with more traffic than any arithmetic could hide."""
    more = np.full(len(ops), 1e12)
    return replace(ops, weight_bytes=more, activation_bytes=more)


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.kind)
def test_a_term_without_its_cause_is_nothing(make_ops, device: Device) -> None:
    ops = make_ops(m=[1, 64, 3000], k=512, n=512)
    still = replace(ops, weight_bytes=np.zeros(3), activation_bytes=np.zeros(3))
    terms = price_terms(still, device)
    assert (terms.weights == 0).all()
    assert (terms.activations == 0).all()
    for name in ("weights", "activations"):
        one = replace(bound_by_memory(ops), **{f"{name[:-1]}_bytes": np.zeros(3)})
        terms = price_terms(one, device)
        assert (getattr(terms, name) == 0).all()
        assert (terms.weights + terms.activations > 0).all() or device.kind == "cpu"
    idle = replace(ops, flops=np.zeros(3), executed_flops=np.zeros(3))
    assert (price_terms(idle, device).arithmetic == 0).all()
    waits = make_ops("host_sync", m=4)
    nothing = price_terms(waits, device)
    assert nothing.fixed[0] == pytest.approx(nothing.total[0])


def test_memory_traffic_counts_as_far_as_arithmetic_does_not_hide_it(make_ops) -> None:
    edge = load_device("nvidia-jetson-agx-orin-64g")
    hidden = make_ops(m=4096, k=64, n=64)
    busy = replace(hidden, executed_flops=hidden.executed_flops * 1e6)
    assert price_terms(busy, edge).weights[0] == 0
    bare = replace(hidden, executed_flops=np.zeros(1))
    seen = price_terms(bare, edge)
    share = bare.weight_bytes / (bare.weight_bytes + bare.activation_bytes)
    assert seen.weights[0] == pytest.approx((seen.weights + seen.activations)[0] * share[0])


def test_few_rows_of_a_matmul_cost_more_than_their_share_of_many(make_ops, make_device) -> None:
    for kind in ("gpu", "tpu", "edge"):
        device = make_device(kind)
        few, many = (price_terms(make_ops(m=m, k=2048, n=2048), device) for m in (1, 4096))
        assert few.fill[0] > few.arithmetic[0]
        assert many.fill[0] < many.arithmetic[0]
