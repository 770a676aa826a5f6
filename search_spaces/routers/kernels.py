"""Rows that a kernel computes for given loads, and the loads of devices that share experts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import InputError
from search_spaces.parts import Experts
from search_spaces.records import nearest
from search_spaces.vocabulary import KERNELS

I64 = NDArray[np.int64]

BLOCK = 128  # rows of a block-sparse kernel's tile (MegaBlocks, Gale et al., MLSys 2023)


def executed_rows(
    kernel: str,
    loads: NDArray[Any],
    *,
    tokens: int,
    capacity: int | None = None,
    tile: int | None = None,
) -> I64:
    """Rows that each expert's matrices are multiplied with, padding included.

    padded: every expert computes its capacity, used or not. grouped: each load is rounded up to
    tiles, ceil(m / tile) tile. block_sparse: the same with tiles of 128 rows. dense_mask: every
    expert sees all tokens and a mask throws most away.

    Args:
        kernel: Name in `KERNELS`.
        loads: Tokens of each expert [..., E].
        tokens: T of the step.
        capacity: Slots per expert, for the padded kernel.
        tile: Rows of a tile; None: 1 where grouped, 128 where block-sparse.

    Raises:
        InputError: unknown kernel, or a padded one without a capacity.
    """
    counts = np.asarray(loads, dtype=np.int64)
    if kernel == "dense_mask":
        return np.full(counts.shape, tokens, dtype=np.int64)
    if kernel == "padded":
        if capacity is None:
            text = "a padded kernel computes as many slots as the capacity: dropless has none"
            raise InputError.one("arguments", "moe.capacity_factor", None, text)
        return np.full(counts.shape, capacity, dtype=np.int64)
    if kernel not in KERNELS:
        text = f"unknown kernel{nearest(kernel, KERNELS)}"
        raise InputError.one("arguments", "moe.kernel", kernel, text)
    rows = tile or (BLOCK if kernel == "block_sparse" else 1)
    return -(-counts // rows) * rows


def expert_devices(moe: Experts, num_experts: int) -> I64:
    """Device of each expert [E], 0-based: the placement, or equal blocks in order."""
    if moe.placement:
        return np.asarray(moe.placement, dtype=np.int64)
    return np.arange(num_experts, dtype=np.int64) * moe.expert_parallel // num_experts


def device_loads(loads: NDArray[Any], devices: NDArray[Any], num_devices: int) -> I64:
    """Sum over each device's experts [..., D] of loads (or rows) [..., E]."""
    own = np.asarray(devices)[:, None] == np.arange(num_devices)
    summed: I64 = np.asarray(loads, dtype=np.int64) @ own.astype(np.int64)
    return summed
