"""Adapter: rows of MLPerf inference results that state the power of the whole system.

`table_energy` gives them from a table that another adapter reads for its times; as an adapter of
its own it claims no more columns than it needs, so that such a one goes first. A row is one sample
on all devices of a system: seconds = 1 / throughput, joules = energy per sample at the wall.
What a sample asks of the hardware is in `energy_workloads.toml`; equal rows are read once.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Energy, Measured
from search_spaces.candidate import DTYPES
from search_spaces.ops import KIND, OpTable

F64 = NDArray[np.float64]

COLUMNS: frozenset[str] = frozenset(
    {
        "system",
        "benchmark",
        "scenario",
        "samples_per_s",
        "completed_samples_per_s",
        "accelerator",
        "n_accel",
        "avg_system_power_w",
        "energy_per_sample_mj",
    }
)
WORKLOADS = Path(__file__).parent / "energy_workloads.toml"
# Words in `accelerator` -> device file.
DEVICES: dict[str, str] = {
    "H200": "nvidia-h200-141g-sxm",
    "H100": "nvidia-h100-80g-sxm",
    "B200": "nvidia-b200-180g-sxm",
    "A100": "nvidia-a100-80g-sxm",
    "L40S": "nvidia-l40s",
    "MI300X": "amd-mi300x",
    "Jetson AGX Orin": "nvidia-jetson-agx-orin-64g",
    "TPU v5e": "google-tpu-v5e",
}
BATCH = 256.0  # samples that share a pass over the weights, offline and busy servers; an estimate
ACTIVATION_BYTES = 20.0  # per token, layer and hidden value: read and written, 8-bit; an estimate


def read(path: Path, root: Path) -> list[Measured]:
    """Rows with power, one table per device; the group is the benchmark."""
    return table_energy(read_csv(path, root, COLUMNS, repeats=True))


def table_energy(table: CsvTable) -> list[Measured]:
    """The same from a table that was read already."""
    if not {"avg_system_power_w", "energy_per_sample_mj"} <= set(table.columns):
        return []
    stated = table.text("energy_per_sample_mj") != ""
    names = table.text("benchmark")
    known = np.array([_workload(name) is not None for name in names], dtype=bool)
    device = np.array([_device(name) for name in table.text("accelerator")])
    fine = stated & known & (device != "")
    parts = [table.take(fine & (device == name)) for name in np.unique(device[fine])]
    return [
        _rows(part.take(_distinct(part)), name)
        for part, name in zip(parts, np.unique(device[fine]), strict=True)
    ]


def work_ops(
    rows: F64, flops: F64, weight_bytes: F64, moved_bytes: F64, dtype: NDArray[np.int64]
) -> OpTable:
    """What rows compute and move, one operator each [N]; its shape is a stand-in."""
    size = len(flops)
    ones = np.ones(size, dtype=np.int64)
    return OpTable(
        candidate=np.arange(size),
        layer=np.zeros(size, dtype=np.int64),
        kind=np.full(size, KIND["matmul"]),
        count=np.ones(size),
        m=np.maximum(rows, 1).astype(np.int64),
        k=ones,
        n=ones.copy(),
        batch=ones.copy(),
        dtype=dtype,
        weight_bytes=weight_bytes,
        activation_bytes=moved_bytes,
        flops=flops,
        executed_flops=flops.copy(),
    )


@cache
def workloads() -> dict[str, dict[str, float]]:
    """Numbers of every workload by name."""
    data = tomllib.loads(WORKLOADS.read_text(encoding="utf-8"))
    return {
        name: {key: float(entry["value"]) for key, entry in table.items()}
        for name, table in data.items()
        if isinstance(table, dict)
    }


def demand(name: str, tokens_out: float = 0.0, *, batch: float = BATCH) -> tuple[float, ...]:
    """(tokens, FLOPs, bytes of weights, other bytes) of one sample in 8-bit formats.

    Args:
        name: A workload.
        tokens_out: Tokens of the answer; 0: as the file says.
        batch: Samples that share a pass over the weights.
    """
    w = workloads()[name]
    into, beams = w["tokens_in"], w.get("beams", 1.0)
    out = tokens_out or w["tokens_out"]
    tokens = into + beams * out
    mean = into + out / 2
    scores = 4 * w["layers"] * w["hidden"] * (into**2 / (2 if out else 1) + beams * out * mean)
    flops = w.get("flops", 2 * w["parameters"] * tokens + scores)
    kept = into + beams * out / 2  # beams share the question, which comes from memory once
    kv = 2 * w["layers"] * w["kv_hidden"] * out * kept
    resident = w.get("resident_parameters", w["parameters"])
    moved = kv + tokens * w["layers"] * w["hidden"] * ACTIVATION_BYTES
    return tokens, flops, resident * (1 + out) / batch, moved


def _rows(table: CsvTable, device: str) -> Measured:
    throughput = _first_stated(table, "samples_per_s", "completed_samples_per_s")
    answers = _answers(table, throughput)
    names = [_workload(name) or "" for name in table.text("benchmark")]
    asked = np.array([demand(n, a) for n, a in zip(names, answers, strict=True)]).T
    eight = DTYPES.index("int8")
    return Measured(
        source=table.file,
        device=device,
        runtime="mlperf",
        family="energy",
        ops=work_ops(asked[0], asked[1], asked[2], asked[3], np.full(len(table), eight)),
        seconds=1 / throughput,
        calls=np.ones(len(table)),
        group=table.text("benchmark"),
        peer_s={},
        energy=Energy(
            joules=table.number("energy_per_sample_mj") * 1e-3,
            idle_w=np.full(len(table), np.nan),
            devices=int(table.integer("n_accel")[0]),
            wall=True,
        ),
    )


def _answers(table: CsvTable, throughput: F64) -> F64:
    """Tokens per answer [N] where the rows state both rates, else 0."""
    pairs = (
        ("tokens_per_s", "samples_per_s"),
        ("completed_tokens_per_s", "completed_samples_per_s"),
    )
    found = np.zeros(len(table))
    for tokens, samples in pairs:
        if tokens in table:
            ratio = table.number(tokens, blank=True) / table.number(samples, blank=True)
            found = np.where(np.isfinite(ratio), ratio, found)
    return found


def _first_stated(table: CsvTable, *columns: str) -> F64:
    found = np.full(len(table), np.nan)
    for name in columns:
        found = np.where(np.isnan(found), table.number(name, blank=True), found)
    table.refuse(columns[0], np.isnan(found), "no throughput is stated; mend or remove the row")
    return found


def _distinct(table: CsvTable) -> NDArray[np.int64]:
    """First of the rows that are one run submitted twice."""
    cells = [table.text(c) for c in ("system", "scenario", "energy_per_sample_mj")]
    _, first = np.unique(np.stack(cells), axis=1, return_index=True)
    found: NDArray[np.int64] = np.sort(first)
    return found


def _workload(benchmark: str) -> str | None:
    return next((name for name in workloads() if benchmark.startswith(name)), None)


def _device(accelerator: str) -> str:
    return next((file for word, file in DEVICES.items() if word in accelerator), "")
