"""Adapter: DeepEP dispatch and combine of expert parallelism, 1 to 8 nodes of 8 (AIConfigurator).

The stored bandwidths say what is counted: in the low-latency mode tokens x top-k copies of
hidden + hidden / 128 x 4 + 16 bytes (fp8 with scales) in a dispatch, of 2 x hidden (bf16) in a
combine. In the normal mode a copy goes to a rank once; the bytes of a token are the same. Only
rows of 20 streaming multiprocessors, DeepEP's default, are read here; the time is `transmit`. Rows
at 8 nodes are timed on a congested network.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters.links_nccl import DEVICES, collective_ops
from cost_models.exchange import LOW_LATENCY, THROUGHPUT, UNITS
from cost_models.measured import Measured
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
Row = dict[str, str]


def read(path: Path, root: Path, units: float = UNITS) -> list[Measured]:
    """Rows of one file, one table per device and mode; a group is one geometry.

    Args:
        path: The file.
        root: Folder that `source` is relative to.
        units: Streaming multiprocessors of the rows of the normal mode that are read.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as stream:
        rows = list(csv.DictReader(stream))
    found = []
    for device in sorted({r["device"] for r in rows} & set(DEVICES)):
        for mode, names in (("ll", LOW_LATENCY), ("normal", THROUGHPUT)):
            own = [r for r in rows if r["device"] == device and r["mode"] == mode]
            timed = [
                (r, n, t) for r in own for n in names if (t := seconds_of(r, n, units)) is not None
            ]
            if timed:
                found.append(_table(timed, device, mode, str(path.relative_to(root))))
    return found


def seconds_of(row: Row, name: str, units: float = UNITS) -> float | None:
    """Seconds of an operation in a row; None where the row is of other units or empty."""
    kind = name.split("_")[0]
    if name in LOW_LATENCY:
        text = row[f"{kind}_avg_t_us"]
    else:
        text = row[f"{kind}_transmit_us"]
        if not row[f"{kind}_sms"] or float(row[f"{kind}_sms"]) != units:
            return None
    return float(text) * 1e-6 if text and float(text) > 0 else None


def token_bytes(row: Row, name: str) -> float:
    """Bytes of one token as it is sent: fp8 with scales out, bf16 back."""
    hidden = float(row["hidden_size"])
    if name.startswith("combine"):
        return 2 * hidden
    return hidden * (1 + 4 / 128) + (16 if name in LOW_LATENCY else 0)


def experts_of(path: Path, device: str, mode: str, units: float = UNITS) -> NDArray[np.float64]:
    """Experts of the rows that `read` gives for a device and mode, in their order [N]."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["device"] == device and r["mode"] == mode]
    names = LOW_LATENCY if mode == "ll" else THROUGHPUT
    return np.array(
        [
            float(r["num_experts"])
            for r in rows
            for n in names
            if seconds_of(r, n, units) is not None
        ]
    )


def _table(timed: list[tuple[Row, str, float]], device: str, mode: str, source: str) -> Measured:
    size = np.array([token_bytes(r, n) for r, n, _ in timed])
    tokens = np.array([float(r["num_token"]) for r, _, _ in timed])
    wire = np.array([DTYPES.index("bf16" if n[0] == "c" else "int8") for _, n, _ in timed])
    shape = ("hidden_size", "num_topk", "num_experts", "node_num")
    return Measured(
        source=source,
        device=DEVICES[device],
        runtime=f"deepep-{mode}",
        family="collective",
        ops=collective_ops(
            np.array([COLLECTIVE[n] for _, n, _ in timed]),
            tokens * size,
            np.array([RANKS_PER_NODE * int(float(r["node_num"])) for r, _, _ in timed]),
            dtype=wire,
            top_k=np.array([int(float(r["num_topk"])) for r, _, _ in timed]),
            token_bytes=size,
        ),
        seconds=np.array([t for _, _, t in timed]),
        calls=np.ones(len(timed)),
        group=np.array(["x".join(r[c] for c in shape) for r, _, _ in timed]),
        weight_is_cached=True,
        peer_s={},
    )
