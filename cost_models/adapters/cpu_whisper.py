"""Encoder passes of Whisper on processor cores (whisper.cpp, 30 s of sound, fp16 weights).

Figures are reported by users, at clocks that nobody watched. A pass is two convolutions, the
encoder and the keys of its states for every decoder layer. A group is a geometry; each number of
threads is a runtime of its own, because it is calibrated by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.backbones import load_backbone
from search_spaces.candidate import DTYPES
from search_spaces.lowering.decoder import lower_encode
from search_spaces.ops import OpTable

COLUMNS = frozenset(
    {
        "device",
        "build",
        "threads",
        "model",
        "layers",
        "hidden",
        "ffn",
        "heads",
        "batch",
        "seq_len_tok",
        "weight_dtype",
        "encoder_latency_ms",
    }
)
DEVICES: Mapping[str, str] = {  # beginning of a name -> device file
    "Raspberry Pi 4": "raspberry-pi-4",
    "Raspberry Pi 5": "raspberry-pi-5",
    "Intel i3-8100": "intel-core-i3-8100",
    "Apple M1 Pro": "apple-m1-pro",
    "Apple M1 (": "apple-m1",
    "Intel Celeron N4120": "intel-celeron-n4120",
}
FP16 = DTYPES.index("fp16")
_WHISPER = load_backbone("whisper-tiny")


def read(path: Path, root: Path) -> list[Measured]:
    """A table for each device and number of threads; builds without SIMD are left out.

    Raises:
        InputError: as `read_csv`.
    """
    table = read_csv(path, root, COLUMNS)
    fine = np.array(["no SIMD" not in str(build) for build in table.text("build")])
    names, found = table.text("device"), []
    for name in dict.fromkeys(names[fine].tolist()):
        device = next((d for start, d in DEVICES.items() if name.startswith(start)), None)
        mine = table.take(fine & (names == name))
        for threads in np.unique(mine.integer("threads")):
            part = mine.take(mine.integer("threads") == threads)
            if device is not None:
                found.append(_passes(part, device, int(threads)))
    return found


def _passes(table: CsvTable, device: str, threads: int) -> Measured:
    names = ("layers", "hidden", "ffn", "heads", "batch", "seq_len_tok")
    numbers = {name: table.integer(name) for name in names}
    rows = [{name: int(values[i]) for name, values in numbers.items()} for i in range(len(table))]
    return Measured(
        source=table.file,
        device=device,
        runtime=f"whisper.cpp-t{threads}",
        family="end_to_end",
        ops=OpTable.concat([_encoder(i, row) for i, row in enumerate(rows)]),
        seconds=table.seconds("encoder_latency"),
        calls=np.ones(len(table)),
        group=np.array([f"L{r['layers']} h{r['hidden']}" for r in rows]),
        threads=threads,
        peer_s={},
    )


def _encoder(number: int, row: Mapping[str, int]) -> OpTable:
    backbone = replace(
        _WHISPER,
        num_layers=row["layers"],
        num_decoder_layers=row["layers"],
        hidden_size=row["hidden"],
        num_heads=row["heads"],
        ffn_size=row["ffn"],
    )
    table = lower_encode(backbone, batch=row["batch"], tokens=row["seq_len_tok"], dtype=FP16)
    return replace(table, candidate=np.full(len(table), number))
