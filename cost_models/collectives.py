"""Collective operators of a table -> seconds on the links that join devices of one kind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cost_models.exchange import MANY_EXPERTS, exchange_s
from cost_models.links import EXCHANGES, Link, collective_s, link_of, load_link
from search_spaces.ops import CODES, COLLECTIVE, OpTable

F64 = NDArray[np.float64]

NETWORK = "infiniband-ndr"  # between nodes, where nothing else is said
EXCHANGE_CODES = [COLLECTIVE[name] for name in EXCHANGES]


def collective_time_s(ops: OpTable, device: str, *, network: Link | None = None) -> F64:
    """Seconds of one execution of every collective [R].

    Args:
        ops: R operators of kind "collective".
        device: Name of the device file; its link is the one whose file names it.
        network: Between nodes; None: one InfiniBand adapter per device.

    Returns:
        Seconds [R]; NaN where no link is known that joins these devices.
    """
    link = link_of(device)
    if link is None:
        return np.full(len(ops), np.nan)
    between = load_link(NETWORK) if network is None else network
    size = ops.m.astype(np.float64)
    code, experts = ops.k % CODES, (ops.k // CODES).astype(np.float64)
    exchange = np.isin(code, EXCHANGE_CODES)
    token = np.where(exchange & (ops.weight_bytes > 0), ops.weight_bytes, np.maximum(size, 1.0))
    experts = np.where(experts > 0, experts, MANY_EXPERTS * ops.n)
    sent = exchange_s(
        code, size, token, ops.n, ops.batch, link=link, network=between, experts=experts
    )
    plain = all_levels_s(link, between, code, size, ops.n, ops.dtype)
    found: F64 = np.where(exchange, sent, plain)
    return found


def all_levels_s(
    link: Link,
    network: Link | None,
    code: NDArray[np.int64],
    message_bytes: F64,
    participants: NDArray[np.int64],
    dtype: NDArray[np.int64] | None = None,
) -> F64:
    """Seconds of collectives that may span nodes [R].

    Within a domain: `collective_s`. Beyond it an all_reduce is a reduce_scatter in each node, an
    all_reduce of the parts between nodes (every device on its own adapter) and an all_gather; the
    other collectives run both levels one after another, with the part of the buffer that crosses
    each.
    """
    n = np.asarray(participants)
    inner = np.minimum(n, link.domain)
    nodes = np.ceil(n / link.domain).astype(np.int64)
    near = collective_s(link, code, message_bytes, inner, dtype)
    if network is None:
        return np.where(nodes > 1, np.nan, near)
    reduces = code == COLLECTIVE["all_reduce"]
    part = message_bytes / inner
    far = collective_s(network, code, part, nodes, dtype)
    scatter = np.full(n.shape, COLLECTIVE["reduce_scatter"])
    gather = np.full(n.shape, COLLECTIVE["all_gather"])
    halves = collective_s(link, scatter, message_bytes, inner, dtype) + collective_s(
        link, gather, message_bytes, inner, dtype
    )
    direct = code == COLLECTIVE["point_to_point"]
    crossing = np.where(direct, collective_s(network, code, message_bytes, n, dtype), near + far)
    wide = np.where(reduces, halves + far, crossing)
    found: F64 = np.where(nodes > 1, wide, near)
    return found


def log_sd_of(device: str) -> float:
    """Standard deviation of log(true / predicted) of the device's link; NaN where none known."""
    link = link_of(device)
    return float("nan") if link is None else link.log_sd
