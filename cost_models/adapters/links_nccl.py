"""Adapter: collectives timed with NCCL tests, one node, 2 to 8 devices (AIConfigurator).

"elements" counts elements, not bytes, of the whole buffer of one participant. Checked against
physics: half and int8 rows of equal bytes take equal time, and as elements the largest gathers of
8 devices move 205 GB/s of NVLink 3's 300, 335 of NVLink 4's 450, 617 of NVLink 5's 900; as bytes
they would move half of that, and per participant more than the links can.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters.reader import read_csv
from cost_models.measured import Measured
from search_spaces.candidate import DTYPES
from search_spaces.ops import CODES, COLLECTIVE, KIND, OpTable

COLUMNS: frozenset[str] = frozenset(
    {"device", "nccl_version", "collective", "dtype", "num_gpus", "elements", "latency_us"}
)
DEVICES: dict[str, str] = {  # as the source names them -> device file
    "a100_sxm": "nvidia-a100-80g-sxm",
    "h100_sxm": "nvidia-h100-80g-sxm",
    "h200_sxm": "nvidia-h200-141g-sxm",
    "b200_sxm": "nvidia-b200-180g-sxm",
    "l40s": "nvidia-l40s",
    "rtx_pro_6000_server": "nvidia-rtx-pro-6000-server",
}
CODE_OF = {
    "all_reduce": COLLECTIVE["all_reduce"],
    "all_gather": COLLECTIVE["all_gather"],
    "reduce_scatter": COLLECTIVE["reduce_scatter"],
    "alltoall": COLLECTIVE["all_to_all"],
}
DTYPE = {"half": ("fp16", 2.0), "int8": ("int8", 1.0)}


def read(path: Path, root: Path) -> list[Measured]:
    """Rows of one file, one table per device; groups are (participants, decade of bytes).

    Args:
        path: The file.
        root: Folder that `source` is relative to.
    """
    table = read_csv(path, root, COLUMNS, repeats=True)
    known = np.isin(table.text("collective"), list(CODE_OF)) & np.isin(
        table.text("dtype"), list(DTYPE)
    )
    found = []
    for name in np.unique(table.text("device")[known]):
        own = table.take(known & (table.text("device") == name))
        dtype = own.text("dtype")
        m = own.number("elements") * np.array([DTYPE[d][1] for d in dtype])
        n = own.integer("num_gpus")
        found.append(
            Measured(
                source=own.file,
                device=DEVICES.get(str(name), str(name)),
                runtime="nccl-" + str(own.text("nccl_version")[0]),
                family="collective",
                ops=collective_ops(
                    np.array([CODE_OF[c] for c in own.text("collective")]),
                    m,
                    n,
                    dtype=np.array([DTYPES.index(DTYPE[d][0]) for d in dtype]),
                ),
                seconds=own.seconds("latency"),
                calls=np.ones(len(own)),
                group=np.array([f"{c}/{int(np.log10(b))}" for c, b in zip(n, m, strict=True)]),
                weight_is_cached=True,
                peer_s={},
            )
        )
    return found


def collective_ops(
    code: NDArray[Any],
    message_bytes: NDArray[Any],
    participants: NDArray[Any],
    *,
    dtype: NDArray[Any],
    top_k: NDArray[Any] | None = None,
    token_bytes: NDArray[Any] | None = None,
    experts: NDArray[Any] | None = None,
) -> OpTable:
    """One collective per row as operators [N]; arguments as `ops.COLLECTIVES` describes them."""
    rows = len(code)
    zero, one = np.zeros(rows), np.ones(rows, dtype=np.int64)
    return OpTable(
        candidate=np.arange(rows),
        layer=np.zeros(rows, dtype=np.int64),
        kind=np.full(rows, KIND["collective"]),
        count=np.ones(rows),
        m=np.rint(message_bytes).astype(np.int64),
        k=code.astype(np.int64) + (0 if experts is None else CODES * experts.astype(np.int64)),
        n=participants.astype(np.int64),
        batch=one if top_k is None else top_k.astype(np.int64),
        dtype=dtype.astype(np.int64),
        weight_bytes=zero if token_bytes is None else token_bytes.astype(np.float64),
        activation_bytes=zero.copy(),
        flops=zero.copy(),
        executed_flops=zero.copy(),
    )
