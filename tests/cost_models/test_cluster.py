"""Clusters: bubbles, the slowest rank, shares of memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_models.cluster import (
    Cluster,
    Work,
    bubble_share,
    expected_imbalance,
    memory_per_device,
    slowest_rank,
    step_cost,
)
from cost_models.collectives import all_levels_s, collective_time_s
from cost_models.links import load_link
from search_spaces.errors import InputError
from search_spaces.ops import COLLECTIVE

LINK, NETWORK = load_link("nvlink-4"), load_link("infiniband-ndr")


def cluster(tensor: int = 1, expert: int = 1, pipeline: int = 1, data: int = 1) -> Cluster:
    degrees = {"tensor": tensor, "expert": expert, "pipeline": pipeline, "data": data}
    arrays = {k: np.array([v]) for k, v in degrees.items()}
    return Cluster(link=LINK, network=NETWORK, **arrays)


def work(**changed: float) -> Work:
    plain = {"layers": 24, "layer_s": 1e-3, "expert_layers": 0, "expert_s": 0.0, "tokens": 2048.0}
    plain |= {"hidden_bytes": 8192.0, "top_k": 2, "experts": 8, "micro_batches": 4}
    plain |= {"gradient_bytes": 0.0} | changed
    return Work(**{k: np.array([v]) for k, v in plain.items()})  # type: ignore[arg-type]


def test_one_device_only_computes() -> None:
    cost = step_cost(cluster(), work())
    assert cost.time_s[0] == pytest.approx(4 * 24 * 1e-3)
    assert cost.compute_s[0] == cost.time_s[0]


def test_the_bubble_of_a_pipeline_is_the_known_share() -> None:
    for stages, micro in ((2, 1), (4, 8), (8, 3)):
        cost = step_cost(cluster(pipeline=stages), work(micro_batches=micro))
        share = cost.bubble_s / (cost.time_s - cost.hops_s)
        assert share[0] == pytest.approx(bubble_share(np.array(stages), np.array(micro)))
        assert cost.hops_s[0] > 0


def test_tensor_parallelism_adds_two_all_reduces_a_layer() -> None:
    cost = step_cost(cluster(tensor=8), work(micro_batches=1))
    once = all_levels_s(
        LINK,
        NETWORK,
        np.array([COLLECTIVE["all_reduce"]]),
        np.array([2048 * 8192.0]),
        np.array([8]),
    )
    assert cost.tensor_s[0] == pytest.approx(48 * once[0])


def test_experts_elsewhere_cost_a_dispatch_and_a_combine_in_each_expert_layer() -> None:
    near = step_cost(cluster(expert=1), work(expert_layers=12))
    few, many = (step_cost(cluster(expert=8), work(expert_layers=n)) for n in (6, 12))
    assert near.expert_s[0] == 0
    assert many.expert_s[0] == pytest.approx(2 * few.expert_s[0])
    assert few.expert_s[0] > 0


def test_gradients_cost_once_a_step() -> None:
    ones = [step_cost(cluster(data=8), work(gradient_bytes=1e9, micro_batches=u)) for u in (1, 9)]
    assert ones[0].data_s[0] == ones[1].data_s[0] > 0


def test_an_all_reduce_over_nodes_is_between_its_levels() -> None:
    code, size = np.array([COLLECTIVE["all_reduce"]]), np.array([1e9])
    inside = all_levels_s(LINK, NETWORK, code, size, np.array([8]))
    across = all_levels_s(LINK, NETWORK, code, size, np.array([16]))
    flat = 2 * 1e9 * 15 / 16 / NETWORK.bandwidth.value  # a ring over one adapter
    assert inside[0] < across[0] < flat
    assert np.isnan(all_levels_s(LINK, None, code, size, np.array([16])))[0]


def test_the_slowest_rank_is_the_largest_sum_of_its_experts() -> None:
    seconds = np.random.default_rng(0).random((5, 12))
    for ranks in (1, 2, 3, 4, 6, 12):
        width = 12 // ranks
        slow = [
            max(row[i * width : (i + 1) * width].sum() for i in range(ranks)) for row in seconds
        ]
        np.testing.assert_allclose(slowest_rank(seconds, ranks), slow)
    with pytest.raises(InputError, match="evenly"):
        slowest_rank(seconds, 5)


@pytest.mark.parametrize(("tokens", "experts"), [(64, 8), (512, 8), (4096, 64)])
def test_the_expected_imbalance_agrees_with_draws(tokens: int, experts: int) -> None:
    rng = np.random.default_rng(0)
    loads = rng.multinomial(tokens, np.full(experts, 1 / experts), size=400)
    drawn = (loads.max(axis=1) / loads.mean(axis=1)).mean()
    found = expected_imbalance(np.array(float(tokens)), np.array(experts))
    assert found == pytest.approx(drawn, rel=0.15)


def test_memory_of_all_devices_holds_the_model_once() -> None:
    shared = cluster(tensor=2, pipeline=4)
    found = memory_per_device(
        shared,
        dense_bytes=np.array([80.0]),
        expert_bytes=np.array([0.0]),
        kv_bytes=np.array([8.0]),
        activation_bytes=np.array([6.0]),
    )
    assert found[0] == pytest.approx(80 / 8 + 8 / 8 + 6 / 2)
    spread = replace(shared, expert=np.array([8]))
    with_experts = memory_per_device(
        spread,
        dense_bytes=np.array([0.0]),
        expert_bytes=np.array([64.0]),
        kv_bytes=np.array([0.0]),
        activation_bytes=np.array([0.0]),
    )
    assert with_experts[0] == pytest.approx(64 / 8 / 4)


def test_degrees_that_make_no_cluster_are_refused() -> None:
    with pytest.raises(InputError, match="tensor"):
        cluster(tensor=0)
    with pytest.raises(InputError, match="network"):
        replace(cluster(tensor=16), network=None)


def test_a_device_without_a_known_link_has_no_time_rather_than_none(make_ops: object) -> None:
    ops = make_ops(kind="collective", m=1000, k=0, n=8)  # type: ignore[operator]
    assert np.isnan(collective_time_s(ops, "raspberry-pi-5")).all()
    assert (collective_time_s(ops, "nvidia-a100-80g-sxm") > 0).all()
