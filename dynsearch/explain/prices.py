"""Prices of every stage at every live batch and length, told apart by purpose and by term.

The purposes split the stages into what the full network has, too, and what only a dynamic one
has. The network's own part of a layer is the layer without routers and dispatch and with fused
attention; the three are told apart by lowering and pricing them by themselves:

    router, dispatch  their operators alone, as lowering names them
    drop              price of the layer that drops tokens minus that of the same shapes with
                      fused attention: explicit scores, ranking, gather, less what fusion costs
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models.device import Device
from cost_models.price import call_overhead_s, miss_share, price_terms
from dynsearch.explain.visits import Visits
from dynsearch.sim.stages import (
    Stages,
    entering_share,
    layer_weight_bytes,
    length_grid,
    lower_stages,
    stage_shapes,
)
from search_spaces.candidate import Candidate
from search_spaces.lowering.encoder import lower_expert_overheads, lower_layers
from search_spaces.ops import KIND
from search_spaces.workload import Workload

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

TERMS: tuple[str, ...] = ("fixed", "weights", "activations", "arithmetic", "fill")
QUANTITIES: tuple[str, ...] = (*TERMS, "flops", "launch")
# `launch` is the part of `fixed` that is no wait for the host's decision
CORE: tuple[str, ...] = ("embed", "layer", "head")
EXTRA: dict[str, str] = {  # purpose that only dynamic networks have -> stage whose visits it has
    "check": "check",
    "drop": "layer",
    "router": "layer",
    "dispatch": "layer",
    "compact": "compact",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one policy pays per input, in seconds by purpose and term, and its ideal FLOPs."""

    core: dict[str, F64]  # view -> [5] seconds by TERMS of the network's own operators
    extra: dict[str, float]  # purpose in EXTRA -> seconds, as they run
    call_s: float  # fixed time of the forward pass
    launch_s: float  # fixed time of all operators, waits for the host's decisions not counted
    core_flops: float  # ideal, of the network's own operators
    extra_flops: dict[str, float]

    @property
    def total_s(self) -> float:
        """Seconds per input."""
        return float(self.core["real"].sum()) + sum(self.extra.values()) + self.call_s

    @property
    def flops(self) -> float:
        """FLOPs that the method asks for, per input."""
        return self.core_flops + sum(self.extra_flops.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """An outer setting on one device under one workload."""

    outer: Candidate  # at full depth without exits
    device: Device
    workload: Workload
    num_classes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """Prices of every stage of a setting; times are linear between its two ends."""

    setting: Setting
    weights: float  # bytes of every weight, as a multiple of what they have
    cached: dict[str, F64]  # purpose -> quantities [Q, L, B, G] with all weights in cache
    missed: dict[str, F64]  # the same with none there

    def account(self, visits: Visits) -> Account:
        """Price what a policy runs.

        Args:
            visits: Its executions, on the grid of `length_grid(workload.max_len)`.
        """
        miss = self.missed_share(visits)
        real = visits.counts["real"]

        def paid(purpose: str, view: str) -> F64:
            counts = visits.counts[view][EXTRA.get(purpose, purpose)]
            warm, cold = (
                np.einsum("qlbg,lbg->q", prices[purpose], counts)
                for prices in (self.cached, self.missed)
            )
            found: F64 = (1.0 - miss) * warm + miss * cold
            return found

        terms, flops, launch = slice(0, len(TERMS)), len(TERMS), len(TERMS) + 1
        every = [*CORE, *EXTRA]
        start = call_overhead_s(self.setting.device, self.setting.outer.dtype)
        return Account(
            core={
                view: np.sum([paid(name, view)[terms] for name in CORE], axis=0)
                for view in ("real", "unpadded", "full")
            },
            extra={name: float(paid(name, "real")[terms].sum()) for name in EXTRA},
            call_s=float(real["embed"].sum()) * start,
            launch_s=float(sum(paid(name, "real")[launch] for name in every)),
            core_flops=float(sum(paid(name, "alone")[flops] for name in CORE)),
            extra_flops={name: float(paid(name, "alone")[flops]) for name in EXTRA},
        )

    def missed_share(self, visits: Visits) -> float:
        """Share of weights that come from memory again, as replay has it."""
        share = entering_share(visits.reach, visits.batch)
        read = float(share @ layer_weight_bytes(self.setting.outer)) * self.weights
        return float(np.asarray(miss_share(self.setting.device, np.array([read])))[0])


def price_list(setting: Setting, *, weights: float = 1.0) -> PriceList:
    """Price every stage of a setting.

    Args:
        setting: What runs where.
        weights: Bytes of every weight, as a multiple of what they have.

    Raises:
        InputError: the backbone is not an encoder.
    """
    outer, load = setting.outer, setting.workload
    grid = length_grid(load.max_len)
    stages, kind = lower_stages(outer, load.batch, grid, setting.num_classes, "pooler_linear")
    shapes, _ = stage_shapes(outer, load.batch, grid)
    shape = (int(kind.max()) + 1, load.batch, grid.size)
    fused = replace(shapes, drops=np.zeros_like(shapes.drops))
    tables = (
        lower_layers(outer.backbone, fused),
        *lower_expert_overheads(outer.backbone, shapes),
    )
    stages = [*stages, *((table, shape) for table in tables)]
    cached, missed = (
        _by_purpose(_sums(stages, setting, weights, size), kind) for size in (0.0, None)
    )
    return PriceList(setting=setting, weights=weights, cached=cached, missed=missed)


def _by_purpose(sums: list[F64], kind: I64) -> dict[str, F64]:
    """Quantities [Q, L, B, G] by purpose, from sums by stage, kinds of layers spread out."""
    embed, whole, check, head, compact, fused, router, dispatch = sums
    by_kind = {
        "layer": fused - router - dispatch,
        "drop": whole - fused,
        "router": router,
        "dispatch": dispatch,
        "check": check,
        "head": head,
        "compact": compact,
    }
    found = {name: values[:, kind] for name, values in by_kind.items()}
    first = np.zeros_like(found["layer"])
    first[:, 0] = embed
    return {"embed": first} | found


def _sums(stages: Stages, setting: Setting, weights: float, size: float | None) -> list[F64]:
    """Quantities [Q, ...] summed over the operators of each row, by stage."""
    out = []
    for table, shape in stages:
        ops = replace(table, weight_bytes=table.weight_bytes * weights)
        terms = price_terms(
            ops, setting.device, threads=setting.workload.threads, working_set_bytes=size
        )
        waits = ops.kind == KIND["host_sync"]
        columns = [getattr(terms, name) for name in TERMS]
        columns += [ops.flops * ops.count, np.where(waits, 0.0, terms.fixed)]
        rows = int(np.prod(shape))
        sums = [np.bincount(ops.candidate, weights=c, minlength=rows) for c in columns]
        out.append(np.stack(sums).astype(np.float64).reshape(len(columns), *shape))
    return out
