"""Square matmuls of ggml by weight format on processor cores (whisper.cpp's bench).

Formats of 4 and 5 bits are int4 with their own bytes: blocks of 32 weights share a scale of two
bytes, and those ending in _1 a minimum as well. A group is a size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cost_models.adapters.gpu_rows import operators
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.candidate import DTYPE_BYTES, DTYPES, PLAIN_DTYPE

COLUMNS = frozenset({"device", "threads", "weight_dtype", "m", "n", "k", "gflops", "latency_us"})
DEVICES: Mapping[str, str] = {
    "Orange Pi 5 (RK3588)": "rockchip-rk3588",
}
FORMATS: Mapping[str, tuple[str, float]] = {  # number format, bits of a weight
    "f32": ("fp32", 32.0),
    "f16": ("fp16", 16.0),
    "q8_0": ("int8", 8.5),
    "q4_0": ("int4", 4.5),
    "q4_1": ("int4", 5.0),
    "q5_0": ("int4", 5.5),
    "q5_1": ("int4", 6.0),
}


def read(path: Path, root: Path) -> list[Measured]:
    """A table for each device and number of threads.

    Raises:
        InputError: as `read_csv`, or an unknown weight format.
    """
    table = read_csv(path, root, COLUMNS)
    formats = table.text("weight_dtype")
    unknown = ~np.isin(formats, list(FORMATS))
    table.refuse("weight_dtype", unknown, f"unknown format; use one of {', '.join(FORMATS)}")
    names, threads, found = table.text("device"), table.integer("threads"), []
    for name, count in dict.fromkeys(zip(names.tolist(), threads.tolist(), strict=True)):
        if name in DEVICES:
            part = table.take((names == name) & (threads == count))
            found.append(_matmuls(part, DEVICES[name], count))
    return found


def _matmuls(table: CsvTable, device: str, threads: int) -> Measured:
    m, n, k = (table.integer(name) for name in ("m", "n", "k"))
    kinds = [FORMATS[str(f)] for f in table.text("weight_dtype")]
    bits = np.array([b for _, b in kinds])
    moved = np.array([DTYPE_BYTES[PLAIN_DTYPE[d]] for d, _ in kinds])
    return Measured(
        source=table.file,
        device=device,
        runtime=f"ggml-t{threads}",
        family="matmul",
        ops=operators(
            "matmul",
            m=m,
            k=k,
            n=n,
            dtype=np.array([DTYPES.index(d) for d, _ in kinds]),
            weight_bytes=k * n * bits / 8,
            activation_bytes=m * (k + n) * moved,
            flops=2.0 * m * k * n,
        ),
        seconds=table.seconds("latency"),
        calls=np.zeros(len(table)),
        group=np.array([f"{a}x{b}x{c}" for a, b, c in zip(m, n, k, strict=True)]),
        threads=threads,
        weight_is_cached=True,
        peer_s={},
    )
