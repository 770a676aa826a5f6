"""What loads of experts cost: tokens that find a slot, dropped ones, time of a layer.

Tokens beyond the capacity (`search_spaces.routers.base.capacity`) pass by on the residual
(Lepikhin et al. 2020, "GShard"; Fedus, Zoph and Shazeer 2022, "Switch Transformers"); rows that
run are those of `search_spaces.routers.kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.routers.kernels import device_sums

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCost:
    """Seconds of one expert on one rank; scalars or arrays [...] that broadcast with loads."""

    weight_s: ArrayLike  # reading its weights from memory
    row_s: ArrayLike  # arithmetic of one row
    launch_s: ArrayLike = 0.0  # each expert with work: a kernel of its own
    layer_s: ArrayLike = 0.0  # once a layer and rank: router, shared experts, a common kernel
    exchange_row_s: ArrayLike = 0.0  # one row between ranks, there or back
    exchange_s: ArrayLike = 0.0  # start of an exchange; there are two a layer


def served(loads: NDArray[np.integer], slots: ArrayLike | None, *, reroute: bool = False) -> I64:
    """Tokens of each expert that find a slot [..., E].

    Args:
        loads: Tokens sent to each expert [..., E].
        slots: Capacity of each expert; None: dropless.
        reroute: Tokens without a slot take any that is free elsewhere; the emptiest fill first.
    """
    if slots is None:
        return loads.astype(np.int64)
    kept = np.minimum(loads, slots).astype(np.int64)
    if not reroute:
        return np.asarray(kept)
    free = np.broadcast_to(slots, kept.shape) - kept
    order = np.argsort(-free, axis=-1, kind="stable")
    ranked = np.take_along_axis(free, order, axis=-1)
    before = np.cumsum(ranked, axis=-1) - ranked
    over = (loads.sum(axis=-1) - kept.sum(axis=-1))[..., None]
    filled = np.zeros_like(kept)
    np.put_along_axis(filled, order, np.clip(over - before, 0, ranked), axis=-1)
    return np.asarray(kept + filled)


def dropped_share(loads: NDArray[np.integer], slots: ArrayLike, *, reroute: bool = False) -> F64:
    """Share of routed tokens without a slot [...], from loads [..., E]."""
    lost = loads.sum(axis=-1) - served(loads, slots, reroute=reroute).sum(axis=-1)
    return np.asarray(lost / np.maximum(loads.sum(axis=-1), 1))


def expert_s(rows: NDArray[np.integer], cost: ExpertCost) -> F64:
    """Seconds of each expert [..., E]: its weights or its arithmetic, whichever takes longer."""
    work = np.maximum(cost.weight_s, rows * np.asarray(cost.row_s)) + np.asarray(cost.launch_s)
    return np.where(rows > 0, work, 0.0)


def layer_s(
    rows: NDArray[np.integer],
    cost: ExpertCost,
    placement: I64,
    sent: NDArray[np.integer] | None = None,
) -> F64:
    """Seconds of a layer of experts [...]: the slowest rank, and two exchanges.

    Tokens start evenly spread over the ranks, so of those that a rank's experts serve the share
    1/R is its own and stays.

    Args:
        rows: Rows that run for each expert [..., E], see `routers.kernels.executed_rows`.
        cost: Of an expert.
        placement: Rank of each expert [E].
        sent: Tokens that travel for each expert [..., E]; None: `rows`.
    """
    ranks = int(placement.max()) + 1
    busy = device_sums(expert_s(rows, cost), placement, ranks) + np.asarray(cost.layer_s)
    if ranks == 1:
        return np.asarray(busy[..., 0])
    arriving = device_sums(rows if sent is None else sent, placement, ranks) * (1 - 1 / ranks)
    leaving = arriving.mean(axis=-1)  # what an even share of the tokens sends out
    most = np.maximum(arriving.max(axis=-1), leaving)
    exchange = 2 * (np.asarray(cost.exchange_s) + most * np.asarray(cost.exchange_row_s))
    return np.asarray(busy.max(axis=-1) + exchange)
