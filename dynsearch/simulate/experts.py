"""Experts of one layer: what routers send where, and the rows that then run.

Loads come from `sim.expert_load`, slots and rows from the routers. On several devices the
slowest one counts: it holds its share of the experts, with as many more rows as chance gives it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.expert_load import (
    draw_loads,
    draw_popularity,
    expected_touched,
    hash_popularity,
    inclusion,
    zipf,
)
from dynsearch.sim.expert_step import dropped_share
from search_spaces.backbone import Backbone
from search_spaces.candidate import Candidate, stacks_of
from search_spaces.folded import folded, shared_width
from search_spaces.ops import KIND, OpTable
from search_spaces.routers.base import capacity
from search_spaces.routers.hash import balanced_table, hashed_expert
from search_spaces.routers.kernels import device_sums, executed_rows, expert_devices

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

DRAWS = 64  # batches of which the most loaded expert or device is the mean
_AT_ONCE = 1 << 20  # choices that are drawn one by one; above, each load is binomial on its own


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertPlan:
    """What one layer does with its tokens."""

    num_experts: int
    top_k: int
    width: int  # hidden width of an expert
    shared_width: int = 0  # of experts that see every token
    by_token: bool = True  # else whole sequences are routed
    router: str = "token_choice"
    capacity_factor: float | None = None
    kernel: str = "grouped"
    tile: int | None = None
    groups: int = 1
    group_size: int | None = None  # tokens that share a capacity
    placement: tuple[int, ...] = ()  # device of each expert; empty: one device
    hash_kind: str = "random"
    hash_salt: int = 0
    vocabulary: int = 1
    reroute: bool = False
    eager: bool = False  # a trained network cut up, as the runnable model executes it
    popularity: tuple[float, ...] = ()  # from a trace; empty: by the router

    @property
    def ranks(self) -> int:
        """Devices that hold experts."""
        return max(self.placement, default=0) + 1

    def backbone(self, of: Backbone) -> Backbone:
        """A backbone whose every layer has these experts."""
        shared = round(self.shared_width / self.width)
        return replace(
            of,
            num_experts=self.num_experts,
            experts_per_token=self.top_k,
            num_shared_experts=max(shared, 1 if self.shared_width else 0),
            expert_ffn_size=self.width,
            first_dense_layers=0,
            expert_every=1,
        )


def plan_of(candidate: Candidate, stack: str, layer: int, *, linked: bool) -> ExpertPlan | None:
    """Experts of a 0-based layer: the candidate's own, else the backbone's; None: dense.

    Args:
        candidate: Any.
        stack: "encoder" or "decoder".
        layer: 0-based.
        linked: Whether a link joins devices of this kind; without one all experts are on one.
    """
    backbone, moe = candidate.backbone, candidate.moe
    here = moe is not None and stack in stacks_of(backbone, moe.stack, default="both")
    layered = folded(candidate, layer, stack)
    if not layered.has_experts(layer):
        return None
    E, k, width = layered.num_experts, layered.experts_per_token, layered.expert_width
    shared = shared_width(candidate if here else replace(candidate, moe=None), layered)
    if moe is None or not here:
        return ExpertPlan(num_experts=E, top_k=k, width=width, shared_width=shared)
    if k >= E and not shared and moe.origin == "split" and moe.expert_ffn_size is None:
        return None
    ranks = moe.expert_parallel if linked else 1
    plan = ExpertPlan(
        num_experts=E,
        top_k=k,
        width=width,
        shared_width=shared,
        by_token=moe.granularity == "token" and moe.router != "task",
        router=moe.router,
        capacity_factor=moe.capacity_factor,
        kernel=moe.kernel,
        tile=moe.tile,
        groups=moe.expert_groups,
        group_size=moe.routing_group_size,
        placement=tuple(int(d) for d in expert_devices(moe, E)) if ranks > 1 else (),
        hash_kind=moe.hash_kind,
        hash_salt=moe.hash_salt,
        vocabulary=backbone.vocab_size,
        reroute=moe.overflow == "reroute",
    )
    plain = (
        moe.origin == "split"
        and moe.router == "token_choice"
        and moe.capacity_factor is None
        and not shared
        and moe.expert_ffn_size is None
        and moe.kernel == "grouped"
        and moe.tile is None
        and ranks == 1
    )
    return replace(plan, eager=plain and backbone.type == "encoder")


@cache
def popularity(plan: ExpertPlan) -> F64:
    """Share of choices that each expert gets [E]."""
    E = plan.num_experts
    if plan.popularity:
        return np.asarray(plan.popularity)
    if plan.router != "hash" or E == 1:
        return np.full(E, 1.0 / E)
    frequency = zipf(plan.vocabulary)
    if plan.hash_kind == "balanced":
        return hash_popularity(frequency, balanced_table(frequency, E), E)
    return hash_popularity(
        frequency, hashed_expert(np.arange(plan.vocabulary), E, plan.hash_salt), E
    )


@cache
def taken(plan: ExpertPlan) -> F64:
    """Probability that a routed item takes each expert [E]."""
    shares = popularity(plan)
    if plan.groups == 1:
        return inclusion(shares, plan.top_k)
    parts = np.split(shares, plan.groups)
    each = plan.top_k // plan.groups
    return np.concatenate([inclusion(part, each) for part in parts])


def touched(plan: ExpertPlan, routed: I64) -> F64:
    """Experts that get work, from items routed [R]."""
    if plan.router in ("expert_choice", "balanced_assignment"):
        most: F64 = np.minimum(plan.num_experts, np.maximum(routed, 1)).astype(np.float64)
        return most
    distinct, index = np.unique(routed, return_inverse=True)
    each = np.array([expected_touched(taken(plan), int(n)) for n in distinct])
    found: F64 = np.maximum(each[index.ravel()], 1.0)
    return found


def slots(plan: ExpertPlan, tokens: I64) -> I64 | None:
    """Slots of each expert for so many tokens [R]; None: no limit."""
    factor = plan.capacity_factor
    if factor is None and plan.router == "expert_choice":
        factor = 1.0
    if factor is None:
        return None
    k = 1 if plan.router == "expert_choice" else plan.top_k
    size = np.minimum(tokens, plan.group_size or tokens)
    each = capacity(size, plan.num_experts, k, factor)
    groups = -(-tokens // np.maximum(size, 1))
    return np.asarray(np.maximum(each, 1) * groups)


def with_loads(
    table: OpTable, plan: ExpertPlan, tokens: I64, most: float, dropped: float
) -> OpTable:
    """Expert matmuls with the rows that run, on the slowest device.

    Args:
        table: Of R layers, lowered as if every expert with work had an even share.
        plan: Of all of them.
        tokens: That enter the experts' network [R].
        most: Rows of the most loaded device, in units of the mean; 1 on one device.
        dropped: Share of choices that find no slot: nothing is computed for them.
    """
    rows = np.flatnonzero(table.kind == KIND["grouped_matmul"])
    if not rows.size:
        return table
    at = table.candidate[rows]
    calls, each, m = table.count[rows], table.batch[rows], table.m[rows]
    limit = slots(plan, tokens)
    run, experts = m[:, None], calls * each
    whole = plan.kernel in ("padded", "dense_mask") or plan.router == "expert_choice"
    if whole:
        kernel = "dense_mask" if plan.kernel == "dense_mask" else "padded"
        places = None if limit is None else limit[at, None]
        run = executed_rows(kernel, run, capacity=places, tokens=tokens[at, None])
        experts = np.full(rows.size, float(plan.num_experts))
    elif plan.tile or plan.kernel == "block_sparse":
        run = executed_rows(plan.kernel, run, tile=plan.tile)
    share = 1.0 / plan.ranks
    now = np.maximum(np.rint(run[:, 0] * most), 1.0)
    experts = np.maximum(experts * share, 1.0)
    one_call = calls == 1.0
    width = np.where(one_call, np.maximum(np.rint(experts), 1), each)
    times = np.where(one_call, 1.0, experts)
    grow = width / each
    asked = 2.0 * tokens[at] * plan.top_k * table.k[rows] * table.n[rows] * _asked(plan)
    asked = asked * (1.0 - dropped) * share / times
    changed = {
        "m": now.astype(np.int64),
        "batch": width.astype(np.int64),
        "count": times,
        "weight_bytes": table.weight_bytes[rows] * grow,
        "activation_bytes": table.activation_bytes[rows] * grow * now / m,
        "executed_flops": table.executed_flops[rows] * grow * now / m,
        "flops": asked,
    }
    columns = {name: getattr(table, name).copy() for name in changed}
    for name, values in changed.items():
        columns[name][rows] = values
    return replace(table, **columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """How one layer's tokens fall on its experts."""

    share: F64  # [E] of the choices
    busiest: float  # most loaded expert over the mean one
    busiest_rank: float  # the same of devices
    touched: float  # experts with work
    dropped: float  # share of choices without a slot


def loads_of(
    rng: np.random.Generator, plan: ExpertPlan, tokens: int, batch: int, concentration: float = inf
) -> Loads:
    """Loads of a batch of so many tokens.

    Args:
        rng: Draws batches.
        plan: Of the layer.
        tokens: That enter it in all.
        batch: Sequences that they belong to; what is routed where sequences are.
        concentration: Of popularity between batches.
    """
    routed = max(1, tokens if plan.by_token else batch)
    E = plan.num_experts
    even = plan.router in ("expert_choice", "balanced_assignment")
    if even:
        counts = np.full((1, E), max(1, round(routed * plan.top_k / E)))
    else:
        mean = popularity(plan)
        shares = draw_popularity(rng, mean, concentration, DRAWS)
        if plan.top_k > 1 and routed * E * DRAWS > _AT_ONCE:
            counts = rng.binomial(routed, taken(plan), size=(DRAWS, E))
        else:
            each = plan.top_k // plan.groups
            counts = draw_loads(rng, shares, routed, each, DRAWS, groups=plan.groups)
    limit = slots(plan, np.array([routed]))
    lost = 0.0
    if limit is not None and not even:
        lost = float(dropped_share(counts, int(limit[0]), reroute=plan.reroute).mean())
        counts = np.minimum(counts, int(limit[0]))
    places = np.asarray(plan.placement, dtype=np.int64)
    rank = device_sums(counts, places, plan.ranks) if plan.placement else counts[:, :0]
    most = (rank.max(axis=1) / np.maximum(rank.mean(axis=1), 1e-9)).mean() if rank.size else 1.0
    return Loads(
        share=popularity(plan),
        busiest=float((counts.max(axis=1) / np.maximum(counts.mean(axis=1), 1e-9)).mean()),
        busiest_rank=float(most),
        touched=float(touched(plan, np.array([routed]))[0]),
        dropped=lost,
    )


def _asked(plan: ExpertPlan) -> float:
    """Choices that the method asks for, in units of top_k a token."""
    if plan.router != "expert_choice":
        return 1.0
    return (plan.capacity_factor or 1.0) / plan.top_k
