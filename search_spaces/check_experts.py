"""Which experts mean something; called by `validity.check`."""

from __future__ import annotations

import math

from search_spaces.candidate import GRANULARITY, Candidate, Experts, stacks_of
from search_spaces.check_layers import check_layers, check_stack
from search_spaces.findings import Findings, fitted, nearest_divisor
from search_spaces.vocabulary import (
    GATE_NORMS,
    HASHES,
    KERNELS,
    NOISES,
    ORIGINS,
    OVERFLOWS,
    ROUTERS,
    SECOND_EXPERTS,
    STACKS,
)

_OWNERS: dict[str, tuple[str, ...]] = {  # field -> the only routers that read it
    "hash_kind": ("hash",),
    "hash_salt": ("hash",),
    "num_tasks": ("task",),
    "causal_predictor": ("expert_choice",),
    "second_expert": ("token_choice",),
}


def check_experts(found: Findings, candidate: Candidate, moe: Experts) -> None:
    """Note what is wrong with the experts of a candidate."""
    for name, known in (
        ("granularity", GRANULARITY),
        ("origin", ORIGINS),
        ("router", ROUTERS),
        ("overflow", OVERFLOWS),
        ("gate_norm", GATE_NORMS),
        ("noise", NOISES),
        ("second_expert", SECOND_EXPERTS),
        ("kernel", KERNELS),
        ("hash_kind", HASHES),
    ):
        found.one_of(f"moe.{name}", getattr(moe, name), known)
    check_stack(found, "moe.stack", candidate.backbone, moe.stack, (*STACKS, "both"))
    stacks = stacks_of(candidate.backbone, moe.stack, default="both")
    check_layers(found, "moe.layers", moe.layers, candidate.backbone, stacks)
    for name in ("num_experts", "top_k"):
        found.one_per_layer(f"moe.{name}", getattr(moe, name), moe.layers, "value", 1)
    _check_counts(found, candidate, moe)
    _check_router(found, moe, stacks)
    _check_capacity(found, moe)
    _check_placement(found, moe)


def _check_counts(found: Findings, candidate: Candidate, moe: Experts) -> None:
    width = candidate.backbone.ffn_size
    cuts = moe.origin == "split" and moe.expert_ffn_size is None
    found.at_least("moe.num_shared_experts", moe.num_shared_experts, 0)
    found.at_least("moe.expert_ffn_size", moe.expert_ffn_size, 1)
    found.at_least("moe.shared_expert_ffn_size", moe.shared_expert_ffn_size, 1)
    if moe.num_shared_experts == 0:
        size = moe.shared_expert_ffn_size
        found.belongs("moe.shared_expert_ffn_size", size, None, ("shared experts",))
    for i, experts in enumerate(moe.num_experts):
        key = f"moe.num_experts[{i}]"
        if experts < 1:
            found.reject(1, key, experts, "must be at least 1", 1)
        elif cuts and width % experts:
            near = nearest_divisor(width, experts)
            found.reject(1, key, experts, f"does not divide ffn_size {width}", near)
    for i, (experts, k) in enumerate(zip(moe.num_experts, moe.top_k, strict=False)):
        key = f"moe.top_k[{i}]"
        if not 1 <= k <= experts:
            near = min(max(k, 1), max(experts, 1))
            found.reject(1, key, k, f"must lie in 1..{experts} (num_experts)", near)
        elif moe.router == "balanced_assignment" and k > 1:
            found.reject(1, key, k, "an assignment gives each token one expert", 1)
        elif moe.expert_groups < 1 or experts % moe.expert_groups or k % moe.expert_groups:
            reason = f"must divide experts and top_k ({experts}, {k}): each group takes its share"
            near = nearest_divisor(math.gcd(*moe.num_experts, *moe.top_k), moe.expert_groups)
            found.reject(1, "moe.expert_groups", moe.expert_groups, reason, near)


def _check_router(found: Findings, moe: Experts, stacks: tuple[str, ...]) -> None:
    ahead = moe.router == "expert_choice" and "decoder" in stacks
    if ahead and not moe.causal_predictor:
        reason = "looks at later tokens: not possible in an autoregressive decoder"
        found.reject(3, "moe.router", moe.router, reason, "token_choice")
    for name, owners in _OWNERS.items():
        if moe.router not in owners:
            default = getattr(Experts(layers=(), num_experts=(), top_k=()), name)
            routers = tuple(f"router {owner}" for owner in owners)
            found.belongs(f"moe.{name}", getattr(moe, name), default, routers)
    if moe.second_expert == "random" and any(k != 2 for k in moe.top_k):
        reason = "is about the second of two experts: top_k must be 2"
        found.reject(1, "moe.second_expert", moe.second_expert, reason, "top")
    if moe.router == "task" and (moe.num_tasks is None or moe.num_tasks < 1):
        reason = "router task needs the number of tasks"
        found.reject(1, "moe.num_tasks", moe.num_tasks, reason, 1)
    if moe.router == "hash" and moe.hash_kind == "random":
        reason = "loads follow the frequencies of tokens, which are far from even"
        found.warn(11, "moe.hash_kind", moe.hash_kind, reason)


def _check_capacity(found: Findings, moe: Experts) -> None:
    for name in ("capacity_factor", "capacity_factor_train"):
        value = getattr(moe, name)
        if value is not None and not value > 0.0:
            found.reject(1, f"moe.{name}", value, "must be above 0", 1.0)
    factor = 1.0 if moe.capacity_factor is None else moe.capacity_factor
    pairs = zip(moe.num_experts, moe.top_k, strict=False)
    most = min((experts / k for experts, k in pairs if k >= 1), default=factor)
    if moe.router == "expert_choice" and factor > most:
        reason = "an expert would take more tokens than there are"
        found.reject(1, "moe.capacity_factor", moe.capacity_factor, reason, most)
    if moe.kernel == "padded" and moe.capacity_factor is None and moe.router != "expert_choice":
        reason = "a padded kernel computes as many slots as the capacity: dropless has none"
        found.reject(1, "moe.capacity_factor", None, reason, 1.0)
    train = moe.capacity_factor_train
    if train is not None and train != moe.capacity_factor:
        reason = "differs from the one that answers: other tokens are dropped than in training"
        found.warn(11, "moe.capacity_factor_train", train, reason)
    found.at_least("moe.routing_group_size", moe.routing_group_size, 1)
    found.at_least("moe.tile", moe.tile, 1)


def _check_placement(found: Findings, moe: Experts) -> None:
    devices = moe.expert_parallel
    found.at_least("moe.expert_parallel", devices, 1)
    if devices < 1:
        return
    counts = sorted({e for e in moe.num_experts if e >= 1})
    if not moe.placement and any(e % devices for e in counts):
        near = nearest_divisor(math.gcd(*counts), devices)
        reason = f"does not divide the experts {counts}: give a placement"
        found.reject(1, "moe.expert_parallel", devices, reason, near)
    elif moe.placement and counts != [len(moe.placement)]:
        reason = f"needs one device per expert, the same in each layer: {counts} experts"
        way = fitted(moe.placement, counts[0], 0) if len(counts) == 1 else None
        found.reject(1, "moe.placement", moe.placement, reason, way)
    if any(not 0 <= d < devices for d in moe.placement):
        reason = f"devices are numbered 0..{devices - 1} (expert_parallel)"
        inside = tuple(min(max(d, 0), devices - 1) for d in moe.placement)
        found.reject(1, "moe.placement", moe.placement, reason, inside)
