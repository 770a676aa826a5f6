"""Adapter: DeepEP dispatch and combine of expert parallelism, 1 to 8 nodes of 8 (AIConfigurator).

The stored bandwidths say what is counted: in the low-latency mode tokens x top-k copies of
hidden + hidden / 128 x 4 + 16 bytes (fp8 with scales) in a dispatch, of 2 x hidden (bf16) in a
combine. In the normal mode a copy goes to a rank once; the bytes of a token are the same. Only
rows of 20 streaming multiprocessors, DeepEP's default, are read here; the time is `transmit`. Rows
at 8 nodes are timed on a congested network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.links_nccl import DEVICES, collective_ops
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.exchange import LOW_LATENCY, THROUGHPUT, UNITS
from cost_models.measured import Measured, joined
from search_spaces.candidate import DTYPES
from search_spaces.ops import COLLECTIVE

COLUMNS: frozenset[str] = frozenset(
    {
        "device",
        "deepep_framework",
        "mode",
        "op_name",
        "kernel_source",
        "node_num",
        "hidden_size",
        "num_token",
        "num_topk",
        "num_experts",
        "combine_avg_t_us",
        "combine_bandwidth_gbps",
        "dispatch_avg_t_us",
        "dispatch_bandwidth_gbps",
        "dispatch_sms",
        "dispatch_transmit_us",
        "dispatch_notify_us",
        "combine_sms",
        "combine_transmit_us",
        "combine_notify_us",
    }
)
RANKS_PER_NODE = 8


def read(path: Path, root: Path, units: float = UNITS) -> list[Measured]:
    """Rows of one file, one table per device and mode; a group is one geometry.

    Args:
        path: The file.
        root: Folder that `source` is relative to.
        units: Streaming multiprocessors of the rows of the normal mode that are read.
    """
    table = read_csv(path, root, COLUMNS, repeats=True)
    found = []
    for device in np.unique(table.text("device")):
        for mode, names in (("ll", LOW_LATENCY), ("normal", THROUGHPUT)):
            own = table.take((table.text("device") == device) & (table.text("mode") == mode))
            parts = [part for name in names if (part := _operation(own, name, units)) is not None]
            if parts:
                found.append(joined(parts))
    return found


def _operation(table: CsvTable, name: str, units: float) -> Measured | None:
    """The rows of one operation; None where there is none."""
    kind, low_latency = name.split("_")[0], name in LOW_LATENCY
    column = f"{kind}_avg_t_us" if low_latency else f"{kind}_transmit_us"
    timed = table.text(column) != ""
    if not low_latency:
        timed &= table.number(f"{kind}_sms", blank=True) == units
    if not timed.any():
        return None
    own = table.take(timed)
    hidden = own.number("hidden_size")
    size = 2 * hidden if kind == "combine" else hidden * (1 + 4 / 128) + 16 * low_latency
    shape = [own.text(c) for c in ("hidden_size", "num_topk", "num_experts", "node_num")]
    device = str(own.text("device")[0])
    wire = DTYPES.index("bf16" if kind == "combine" else "fp8")
    return Measured(
        source=own.file,
        device=DEVICES.get(device, device),
        runtime="deepep-ll" if low_latency else "deepep-normal",
        family="collective",
        ops=collective_ops(
            np.full(len(own), COLLECTIVE[name]),
            own.number("num_token") * size,
            RANKS_PER_NODE * own.integer("node_num"),
            dtype=np.full(len(own), wire),
            top_k=own.integer("num_topk"),
            token_bytes=size,
            experts=own.integer("num_experts"),
        ),
        seconds=own.number(column) * 1e-6,
        calls=np.ones(len(own)),
        group=np.array(["x".join(parts) for parts in zip(*shape, strict=True)]),
        weight_is_cached=True,
        peer_s={},
    )
