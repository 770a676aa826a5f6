"""Rows that a kernel computes for given loads, and the loads of devices that share experts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.errors import InputError
from search_spaces.parts import Experts
from search_spaces.records import require_known
from search_spaces.vocabulary import KERNELS

I64 = NDArray[np.int64]

BLOCK = 128  # rows of a block-sparse kernel's tile (MegaBlocks, Gale et al., MLSys 2023)


def executed_rows(
    kernel: str,
    loads: NDArray[Any],
    *,
    tokens: ArrayLike | None = None,
    capacity: ArrayLike | None = None,
    tile: int | None = None,
) -> I64:
    """Rows that each expert's matrices are multiplied with, padding included.

    padded: every expert computes its capacity, used or not. grouped: each load is rounded up to
    tiles, ceil(m / tile) tile. block_sparse: the same with tiles of 128 rows. dense_mask: every
    expert sees all tokens and a mask throws most away.

    Args:
        kernel: Name in `KERNELS`.
        loads: Tokens of each expert [..., E].
        tokens: T of the step, for the masked kernel; broadcasts against `loads`.
        capacity: Slots per expert, for the padded kernel; broadcasts against `loads`.
        tile: Rows of a tile; None: 1 where grouped, 128 where block-sparse.

    Raises:
        InputError: unknown kernel, a padded one without a capacity or a masked one without tokens.
    """
    counts = np.asarray(loads, dtype=np.int64)
    require_known(kernel, KERNELS, "moe.kernel", "kernel")
    if kernel in ("padded", "dense_mask"):
        whole = capacity if kernel == "padded" else tokens
        if whole is None:
            key = "moe.capacity_factor" if kernel == "padded" else "tokens"
            text = "padded runs as many rows as the capacity, dense_mask as many as tokens"
            raise InputError.one("arguments", key, None, text)
        return np.broadcast_to(whole, counts.shape).astype(np.int64)
    rows = tile or (BLOCK if kernel == "block_sparse" else 1)
    return -(-counts // rows) * rows


def expert_devices(moe: Experts, num_experts: int) -> I64:
    """Device of each expert [E], 0-based: the placement, or as many on each as can be."""
    if moe.placement:
        return np.asarray(moe.placement, dtype=np.int64)
    return even_placement(num_experts, moe.expert_parallel)


def even_placement(num_experts: int, devices: int) -> I64:
    """Device of each expert [E]: neighbours together, as many on each device as can be."""
    return np.arange(num_experts, dtype=np.int64) * devices // num_experts


def device_sums(values: NDArray[Any], devices: NDArray[Any], num_devices: int) -> NDArray[Any]:
    """Sum over each device's experts [..., D] of loads, rows or seconds [..., E]."""
    own = np.asarray(devices)[:, None] == np.arange(num_devices)
    summed: NDArray[Any] = np.asarray(values) @ own.astype(np.int64)
    return summed
