"""A data folder of made-up measurements, with the adapter that reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from cost_models.adapters.reader import read_csv
from cost_models.device import load_device
from cost_models.measured import Measured

from .calibrate.synthetic import matmuls, measured_on, table

DEVICES = ("nvidia-a100-80g-sxm", "nvidia-h100-80g-sxm", "nvidia-a40", "nvidia-l4")
COLUMNS = frozenset({"device", "made_up_m", "made_up_k", "made_up_n", "training", "latency_us"})


class MadeUp:
    """Matmuls of one column set; `training` is 0 or 1."""

    COLUMNS = COLUMNS

    @staticmethod
    def read(path: Path, root: Path) -> list[Measured]:
        rows = read_csv(path, root, COLUMNS)
        found = []
        for device in np.unique(rows.text("device")):
            for training in ("0", "1"):
                mine = (rows.text("device") == device) & (rows.text("training") == training)
                if mine.any():
                    part = rows.take(mine)
                    ops = matmuls(*(part.integer(f"made_up_{axis}") for axis in "mkn"))
                    made = table(ops, part.seconds("latency"), str(device), source=rows.file)
                    silent = np.full(len(made), np.nan)
                    peer = {"peer": made.seconds * 1.5, "silent": silent}
                    found.append(replace(made, training=training == "1", peer_s=peer))
        return found


def write_folder(
    folder: Path, *, devices: tuple[str, ...] = DEVICES, rows: int = 150, noise: float = 0.05
) -> Path:
    """A CSV file a device whose parameters differ a little, and one of training rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(devices):
        device = load_device(name)
        truth = {
            "launch_half": device.parameter("launch_half") * (1.6 + 0.1 * i),
            "efficiency_half": 0.60 + 0.02 * i,
            "bandwidth_share_half": 0.55 + 0.02 * i,
        }
        made = measured_on(device, truth, np.random.default_rng(i), rows=rows, noise=noise)
        lines = [
            f"{name},{m},{k},{n},{int(i == 0 and row < 20)},{1e6 * s:.6f}"
            for row, (m, k, n, s) in enumerate(
                zip(made.ops.m, made.ops.k, made.ops.n, made.seconds, strict=True)
            )
        ]
        header = "device,made_up_m,made_up_k,made_up_n,training,latency_us"
        (folder / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder
