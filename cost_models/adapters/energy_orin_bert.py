"""Adapter: one BERT-large pass after another on a Jetson, with power at the wall (MLPerf).

Only rows that state the power are read; `idle_w` is the system's own. Inputs are questions with
their paragraphs, 177 tokens on average (see `energy_workloads.toml`), in int8.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.energy_mlperf import demand, work_ops
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Energy, Measured
from search_spaces.candidate import DTYPES

COLUMNS: frozenset[str] = frozenset(
    {
        "system",
        "benchmark",
        "latency_mean_ms",
        "system_idle_power_w",
        "system_active_power_w",
        "energy_per_sample_mj",
    }
)
DEVICE = "nvidia-jetson-agx-orin-64g"


def read(path: Path, root: Path) -> list[Measured]:
    """Rows with power, if there are any; the group is the system."""
    return table_energy(read_csv(path, root, COLUMNS, repeats=True))


def table_energy(table: CsvTable) -> list[Measured]:
    """The same from a table that was read already."""
    if "system_active_power_w" not in table:
        return []
    benchmarks = np.array([name.startswith("bert") for name in table.text("benchmark")])
    own = table.take((table.text("system_active_power_w") != "") & benchmarks)
    if len(own) == 0:
        return []
    seconds = own.seconds("latency_mean")
    asked = np.repeat(np.array([demand("bert", batch=1.0)]), len(own), axis=0).T
    return [
        Measured(
            source=own.file,
            device=DEVICE,
            runtime="tensorrt",
            family="energy",
            ops=work_ops(
                asked[0], asked[1], asked[2], asked[3], np.full(len(own), DTYPES.index("int8"))
            ),
            seconds=seconds,
            calls=np.ones(len(own)),
            group=own.text("system"),
            peer_s={},
            energy=Energy(
                joules=own.number("system_active_power_w") * seconds,
                idle_w=own.number("system_idle_power_w", blank=True),
                wall=True,
            ),
        )
    ]
