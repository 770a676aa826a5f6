"""Encoders of BERT's family and ViT on AWS instances: Inferentia, processors and GPUs.

One file layout serves all three classes of device, so one adapter reads them. Rows of a device
without a device file are not read (`unread` says which). Inferentia's compiler casts the matmuls
of an fp32 model to bf16 unless told otherwise, so its rows are bf16; the others run fp32. ALBERT's
layers share weights, but compiled graphs and cold caches read them for every layer anew. Its
activation is "gelu_new" (config.json of huggingface.co/albert/albert-base-v2), which eager
Transformers spells out in eight kernels where the others run one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.device import device_names
from cost_models.measured import Measured
from search_spaces.candidate import DTYPES, Backbone
from search_spaces.lowering.encoder import LayerShapes, lower_layers
from search_spaces.lowering.rows import Rows
from search_spaces.ops import OpTable

COLUMNS = frozenset(
    {
        "device_class",
        "device",
        "model",
        "layers",
        "hidden",
        "ffn",
        "heads",
        "batch",
        "seq_len_tok",
        "latency_ms",
    }
)
# Beginning of a name in the file -> device file, runtime, number format.
DEVICES: dict[str, tuple[str, str, str]] = {
    "AWS Inferentia2": ("aws-inferentia2", "neuron", "bf16"),
    "AWS Inferentia1": ("aws-inferentia1", "neuron", "bf16"),
    "AWS Inferentia (": ("aws-inferentia1", "neuron", "bf16"),
    "Intel Xeon 8375C": ("intel-xeon-8375c-c6i-2xlarge", "torch-eager", "fp32"),
    "NVIDIA A10G": ("nvidia-a10g", "torch-eager", "fp32"),
}
SPELT_OUT = "albert"  # beginning of the models with that activation
# NewGELUActivation.forward beyond the one kernel that is lowered: x^3, *, +, *, tanh, + 1, *.
SPELT_KERNELS, SPELT_MOVES = 7, 16  # kernels; tensors that they read and write together
THREADS: dict[str, int] = {"intel-xeon-8375c-c6i-2xlarge": 4}  # PyTorch's default: one a core


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device that has a device file.

    Raises:
        InputError: missing columns or wrong values.
    """
    table = read_csv(path, root, COLUMNS)
    names = table.text("device")
    found = []
    for name in np.unique(names):
        known = device_of(str(name))
        if known is None:
            continue
        rows = table.take(names == name)
        found.append(_measured(rows, *known))
    return found


def unread(path: Path, root: Path) -> list[str]:
    """What of a file is not read, and why: devices without a device file."""
    names = np.unique(read_csv(path, root, COLUMNS).text("device"))
    return [f"{path.name}: {n} has no device file" for n in names if device_of(str(n)) is None]


def device_of(name: str) -> tuple[str, str, str] | None:
    """Device file, runtime and number format of a name in the file, where there is one."""
    for start, known in DEVICES.items():
        if name.startswith(start) and known[0] in device_names():
            return known
    return None


def _measured(table: CsvTable, device: str, runtime: str, dtype: str) -> Measured:
    numbers = {
        name: table.integer(name)
        for name in ("layers", "hidden", "ffn", "heads", "batch", "seq_len_tok")
    }
    rows = [{name: int(v[i]) for name, v in numbers.items()} for i in range(len(table))]
    parts = [_encoder(i, row, dtype) for i, row in enumerate(rows)]
    if runtime == "torch-eager":
        parts += [
            _spelt_out(i, rows[i], dtype)
            for i, model in enumerate(table.text("model"))
            if str(model).startswith(SPELT_OUT)
        ]
    return Measured(
        source=table.file,
        device=device,
        runtime=runtime,
        family="end_to_end",
        ops=OpTable.concat(parts),
        seconds=table.seconds("latency"),
        calls=np.ones(len(table)),
        group=np.array([f"L{r['layers']} h{r['hidden']} f{r['ffn']}" for r in rows]),
        threads=THREADS.get(device, 1),
        peer_s={},
    )


def _encoder(number: int, row: dict[str, int], dtype: str) -> OpTable:
    backbone = Backbone(
        name="row",
        num_layers=row["layers"],
        hidden_size=row["hidden"],
        num_heads=row["heads"],
        ffn_size=row["ffn"],
        vocab_size=1,
        max_len=row["seq_len_tok"],
    )
    layers = np.arange(row["layers"])

    def full(value: int) -> np.ndarray:
        return np.full(layers.size, value)

    table = lower_layers(
        backbone,
        LayerShapes(
            layer=layers,
            n_in=full(row["seq_len_tok"]),
            n_ffn=full(row["seq_len_tok"]),
            batch=full(row["batch"]),
            drops=np.zeros(layers.size, dtype=bool),
            num_experts=full(1),
            top_k=full(1),
            granularity=full(0),
            dtype=full(DTYPES.index(dtype)),
        ),
    )
    table.candidate[:] = number
    return table


def _spelt_out(number: int, row: dict[str, int], dtype: str) -> OpTable:
    """What an activation in eager pieces adds to the layers of a row."""
    tokens = np.array([row["batch"] * row["seq_len_tok"]])
    rows = Rows(np.zeros(1, dtype=np.int64), np.array([DTYPES.index(dtype)]))
    moves, count = SPELT_MOVES / SPELT_KERNELS, float(SPELT_KERNELS * row["layers"])
    rows.values("elementwise", tokens, row["ffn"], moves=moves, flops=1, count=count)
    table = rows.table()
    table.candidate[:] = number
    return table
