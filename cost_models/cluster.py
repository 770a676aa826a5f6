"""Many devices as one: tensor, expert, pipeline and data parallel degrees -> step time, memory.

Functions over arrays [C] of configurations; a form of a device prices what one device computes
(on shapes already divided by the tensor degree), this module adds what the others make it wait.

    step = bubble-filled pipeline of (compute + 2 all_reduce per layer + dispatch + combine)
           + all_reduce of gradients (training)
    pipeline of p stages, u micro-batches: (u + p - 1) x the slowest stage + hops between stages

Formulas: Shoeybi et al., Megatron-LM, arXiv 1909.08053 (two all_reduce per layer and pass); Huang
et al., GPipe, arXiv 1811.06965 (bubble (p - 1) / (u + p - 1)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models.collectives import all_levels_s
from cost_models.exchange import exchange_s
from cost_models.links import Link
from search_spaces.errors import InputError
from search_spaces.ops import COLLECTIVE

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """C ways to spread a model over devices of one kind.

    Attributes:
        link: What joins the devices of a node.
        network: What joins nodes; None: there is one node.
        tensor: Devices that share each matrix [C].
        expert: Devices that share the experts of a layer [C].
        pipeline: Stages of layers [C].
        data: Copies of all that [C].
    """

    link: Link
    network: Link | None
    tensor: I64
    expert: I64
    pipeline: I64
    data: I64

    def __post_init__(self) -> None:
        """Degrees are whole and positive; more devices than a node holds need a network."""
        for name in ("tensor", "expert", "pipeline", "data"):
            if bool((np.asarray(getattr(self, name)) < 1).any()):
                raise InputError.one("cluster", name, None, "a degree is a whole number from 1")
        if self.network is None and bool((self.devices > self.link.domain).any()):
            text = f"{self.link.name} joins {self.link.domain} devices; name a network"
            raise InputError.one("cluster", "network", int(self.devices.max()), text)

    @property
    def devices(self) -> I64:
        """Devices in all [C]: experts lie within the data and tensor groups where they fit."""
        flat = np.maximum(self.tensor * self.data, self.expert)
        found: I64 = np.asarray(flat * self.pipeline)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one micro-batch asks of C configurations; arrays [C].

    Attributes:
        layers: Layers of the model.
        layer_s: Seconds of one dense layer on one device, shapes divided by `tensor`.
        expert_layers: Layers whose feed-forward network is experts, among `layers`.
        expert_s: Seconds of the experts of one layer on the slowest rank (`slowest_rank`).
        tokens: Tokens of the micro-batch on one data-parallel copy.
        hidden_bytes: Bytes of one token's state.
        top_k: Experts chosen per token.
        experts: Experts of a layer.
        micro_batches: Micro-batches of a step.
        gradient_bytes: Gradients of one device to sum over `data`; 0 in inference.
    """

    layers: I64
    layer_s: F64
    expert_layers: I64
    expert_s: F64
    tokens: F64
    hidden_bytes: F64
    top_k: I64
    experts: I64
    micro_batches: I64
    gradient_bytes: F64


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Seconds of one step [C]; the parts add up to `time_s`."""

    compute_s: F64
    tensor_s: F64
    expert_s: F64
    hops_s: F64
    bubble_s: F64
    data_s: F64

    @property
    def time_s(self) -> F64:
        """The step [C]."""
        parts = self.compute_s + self.tensor_s + self.expert_s + self.hops_s
        total: F64 = parts + self.bubble_s + self.data_s
        return total


def step_cost(cluster: Cluster, work: Work, *, low_latency: bool = False) -> StepCost:
    """Seconds of a step: all micro-batches through all stages, gradients summed.

    Args:
        cluster: C ways to spread the model.
        work: What they compute.
        low_latency: Whether experts are reached by the low-latency mode (few tokens).
    """
    p, u = cluster.pipeline, work.micro_batches
    own = np.ceil(work.layers / p)  # of the slowest stage
    expert_own = np.ceil(work.expert_layers / p)
    state = work.tokens * work.hidden_bytes
    summed = 2 * own * _over(cluster, "all_reduce", state, cluster.tensor)
    routed = expert_own * _routed_s(cluster, work, low_latency)
    compute = own * work.layer_s + expert_own * work.expert_s
    hop: F64 = np.where(p > 1, _over(cluster, "point_to_point", state, cluster.tensor * p), 0.0)
    stage = compute + summed + routed
    return StepCost(
        compute_s=u * compute,
        tensor_s=u * summed,
        expert_s=u * routed,
        hops_s=np.asarray((u + p - 2) * hop, dtype=np.float64),
        bubble_s=(p - 1) * stage,
        data_s=_over(cluster, "all_reduce", work.gradient_bytes, cluster.data),
    )


def bubble_share(stages: I64, micro_batches: I64) -> F64:
    """Share of a pipeline's time in which a stage waits: (p - 1) / (u + p - 1) [C]."""
    found: F64 = (stages - 1) / (micro_batches + stages - 1)
    return found


def _routed_s(cluster: Cluster, work: Work, low_latency: bool) -> F64:
    """Dispatch and combine of one expert layer; nothing where one rank holds all experts."""
    ranks = cluster.expert
    tokens = work.tokens / cluster.tensor  # a tensor-parallel group shares its tokens out
    total = np.zeros(np.asarray(tokens).shape)
    for name in ("dispatch", "combine"):
        code = np.full(total.shape, COLLECTIVE[name + ("_low_latency" if low_latency else "")])
        total = total + exchange_s(
            code,
            tokens * work.hidden_bytes,
            work.hidden_bytes,
            ranks,
            work.top_k,
            link=cluster.link,
            network=cluster.network,
            experts=np.asarray(work.experts, dtype=np.float64),
        )
    return np.where((ranks > 1) & (work.expert_layers > 0), total, 0.0)


def _over(cluster: Cluster, name: str, message_bytes: F64, participants: I64) -> F64:
    code = np.full(np.asarray(participants).shape, COLLECTIVE[name])
    found = all_levels_s(cluster.link, cluster.network, code, message_bytes, participants)
    return np.where(np.asarray(message_bytes) > 0, found, 0.0)


def slowest_rank(seconds_by_expert: F64, ranks: int) -> F64:
    """Seconds of the rank that takes longest, experts in contiguous blocks [C, E] -> [C].

    Raises:
        InputError: the experts cannot be shared out evenly.
    """
    *lead, experts = seconds_by_expert.shape
    if experts % ranks:
        text = f"{experts} experts cannot be shared out evenly; use a divisor"
        raise InputError.one("cluster", "expert", ranks, text)
    blocks = seconds_by_expert.reshape(*lead, ranks, experts // ranks)
    found: F64 = blocks.sum(axis=-1).max(axis=-1)
    return found


def expected_imbalance(assignments: F64, ranks: I64) -> F64:
    """Expected load of the fullest rank over the mean, routing without preference [C].

    The fullest of r Poisson counts of mean a / r: 1 + sqrt(2 ln r / mean), a rule of thumb that
    overestimates slightly where the mean is large.
    """
    mean = np.maximum(assignments / ranks, 1e-9)
    found: F64 = np.minimum(1 + np.sqrt(2 * np.log(ranks) / mean), ranks)
    return found


def memory_per_device(
    cluster: Cluster,
    *,
    dense_bytes: F64,
    expert_bytes: F64,
    kv_bytes: F64,
    activation_bytes: F64,
    in_flight: I64 | None = None,
) -> F64:
    """Bytes on the fullest device [C].

    Args:
        cluster: C ways to spread the model.
        dense_bytes: Weights that every token uses, whole model [C].
        expert_bytes: Weights of all experts [C].
        kv_bytes: Cached keys and values of one data-parallel copy [C].
        activation_bytes: Of one micro-batch, undivided [C].
        in_flight: Micro-batches a stage holds at one time (training: its stages) [C]; None: 1.
    """
    held = np.ones(cluster.tensor.shape) if in_flight is None else in_flight
    share = cluster.tensor * cluster.pipeline
    # Experts: each expert rank holds 1 / expert of them, whatever the tensor degree.
    experts = expert_bytes / (np.maximum(cluster.expert, cluster.tensor) * cluster.pipeline)
    resident = dense_bytes / share + experts + kv_bytes / share
    total: F64 = resident + held * activation_bytes / cluster.tensor
    return total
