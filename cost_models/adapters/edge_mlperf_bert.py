"""BERT-large of MLPerf, one sentence at a time, on Jetson AGX Orin.

Latencies are a distribution over sentences of up to `seq_len_tok_max` tokens. Its largest value
belongs to the longest sentence, so the row is that length and `latency_max_ms`. Runs that were
held below a power cap are left out: the file does not say which mode they ran in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters import energy_orin_bert
from cost_models.adapters.edge_shapes import Geometry, joined_ops, network
from cost_models.adapters.reader import read_csv
from cost_models.measured import Measured

COLUMNS = frozenset(
    {
        "system",
        "benchmark",
        "layers",
        "hidden",
        "ffn",
        "heads",
        "seq_len_tok_max",
        "dtype",
        "scenario",
        "latency_max_ms",
    }
)
SYSTEMS = {"AGX Orin": "nvidia-jetson-agx-orin-64g"}
CAPPED = "MaxQ"


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device, and one of energy where the file states power.

    Raises:
        InputError: missing columns or wrong values.
    """
    table = read_csv(path, root, COLUMNS)
    system = table.text("system")
    capped = np.char.find(system, CAPPED) >= 0
    found = []
    for name, device in SYSTEMS.items():
        part = table.take(
            (np.char.find(system, name) >= 0)
            & ~capped
            & (table.text("scenario") == "SingleStream")
            & (table.text("dtype") == "int8")
        )
        if not len(part):
            continue
        layers, hidden, ffn, heads, longest = (
            part.integer(c) for c in ("layers", "hidden", "ffn", "heads", "seq_len_tok_max")
        )
        ops = []
        for row in range(len(part)):
            shape = Geometry(
                layers=int(layers[row]),
                hidden=int(hidden[row]),
                ffn=int(ffn[row]),
                heads=int(heads[row]),
                q_len=int(longest[row]),
                kv_len=int(longest[row]),
                weights=float(layers[row] * hidden[row] * (4 * hidden[row] + 2 * ffn[row])),
            )
            ops.append(network(shape, "fp16", "int8"))
        found.append(
            Measured(
                source=part.file,
                device=device,
                runtime="tensorrt",
                family="end_to_end",
                ops=joined_ops(ops),
                seconds=part.seconds("latency_max"),
                calls=np.ones(len(part)),
                group=part.text("benchmark"),
                peer_s={},
            )
        )
    return found + energy_orin_bert.table_energy(table)
