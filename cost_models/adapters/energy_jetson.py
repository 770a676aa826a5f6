"""Adapter: decoding on a Jetson with its board power (2B language model, tegrastats).

A row is one decoded token; joules = active power of the board x time per token. Rows of runs
whose power was not traced are not read. `idle_w` is what the source states.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.energy_mlperf import work_ops
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Energy, Measured
from search_spaces.candidate import DTYPES

COLUMNS: frozenset[str] = frozenset(
    {"device", "runtime", "weights", "prompt", "tpot_ms", "power_in_active_w", "power_in_idle_w"}
)
DEVICES = {"Jetson Orin Nano 8GB": "nvidia-jetson-orin-nano-8g"}
# Body of Qwen3-VL-2B (Qwen3 1.7B): 28 layers of 2048, 16 heads of 128, 8 for keys and values,
# inner width 6144; vocabulary 151936, tied.
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD, INNER, VOCABULARY = 28, 2048, 16, 8, 128, 6144, 151936
WEIGHT_BYTES = {"w4a16": 0.5, "q4_k_m": 0.6}  # per weight of the layers; scales add to 4 bits
CONTEXT = {"text": 60.0, "image": 575.0}  # prompt and half of the answer


def read(path: Path, root: Path) -> list[Measured]:
    """Rows with power, one table per device and runtime; the group is the prompt."""
    return table_energy(read_csv(path, root, COLUMNS, repeats=True))


def table_energy(table: CsvTable) -> list[Measured]:
    """The same from a table that was read already."""
    if "power_in_active_w" not in table:
        return []
    device = np.array(
        [next((f for w, f in DEVICES.items() if w in d), "") for d in table.text("device")]
    )
    fine = (table.text("power_in_active_w") != "") & (device != "")
    runtimes = np.unique(table.text("runtime")[fine])
    return [
        _rows(table.take(fine & (table.text("runtime") == name)), str(device[fine][0]), str(name))
        for name in runtimes
    ]


def _rows(table: CsvTable, device: str, runtime: str) -> Measured:
    seconds = table.seconds("tpot")
    attention = HIDDEN * HEADS * HEAD * 2 + HIDDEN * KV_HEADS * HEAD * 2
    layers = LAYERS * (attention + 3 * HIDDEN * INNER)
    width = np.array([WEIGHT_BYTES.get(w, 0.5) for w in table.text("weights")])
    context = np.array([CONTEXT.get(p, 60.0) for p in table.text("prompt")])
    head = HIDDEN * VOCABULARY
    kv = 2 * LAYERS * KV_HEADS * HEAD * context
    flops = 2.0 * (layers + head) + 4 * LAYERS * HEADS * HEAD * context
    return Measured(
        source=table.file,
        device=device,
        runtime=runtime,
        family="energy",
        ops=work_ops(
            np.ones(len(table)),
            flops,
            layers * width + 2.0 * head,
            2.0 * kv,
            np.full(len(table), DTYPES.index("fp16")),
        ),
        seconds=seconds,
        calls=np.ones(len(table)),
        group=table.text("prompt"),
        peer_s={},
        energy=Energy(
            joules=table.number("power_in_active_w") * seconds,
            idle_w=table.number("power_in_idle_w", blank=True),
        ),
    )
