"""What the adapters of graphics processors share: names of devices, operators of measured rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cost_models.adapters.reader import CsvTable, columns_of, read_csv
from cost_models.measured import Measured
from search_spaces.candidate import DTYPES
from search_spaces.ops import KIND, OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Names = NDArray[np.str_]

# How tables call a device, in small letters -> file of the device.
DEVICES: dict[str, str] = {
    "a100": "nvidia-a100-80g-sxm",
    "a100_sxm": "nvidia-a100-80g-sxm",
    "nvidia a100-pcie-40gb": "nvidia-a100-40g-pcie",
    "nvidia a100-sxm4-40gb": "nvidia-a100-40g-sxm",
    "nvidia a100 80gb pcie": "nvidia-a100-80g-pcie",
    "h100": "nvidia-h100-80g-sxm",
    "h100_sxm": "nvidia-h100-80g-sxm",
    "nvidia h100 80gb hbm3": "nvidia-h100-80g-sxm",
    "h200_sxm": "nvidia-h200-141g-sxm",
    "b200_sxm": "nvidia-b200-180g-sxm",
    "a40": "nvidia-a40",
    "a6000": "nvidia-rtx-a6000",
    "l40s": "nvidia-l40s",
    "nvidia l4": "nvidia-l4",
    "l4": "nvidia-l4",
    "rtx_pro_6000_server": "nvidia-rtx-pro-6000-server",
    "rtxpro6000": "nvidia-rtx-pro-6000-server",
    "rtx4090": "nvidia-rtx-4090",
    "rtx3090": "nvidia-rtx-3090",
    "tesla t4": "nvidia-t4",
    "tesla p4": "nvidia-p4",
    "tesla p100-pcie-16gb": "nvidia-p100-16g-pcie",
    "tesla v100-pcie-32gb": "nvidia-v100-32g-pcie",
    "amd instinct mi100": "amd-mi100",
    "amd instinct mi210": "amd-mi210",
    "mi210": "amd-mi210",
    "amd instinct mi250": "amd-mi250-die",
}
DTYPE_OF: dict[str, str] = {
    "fp32": "fp32",
    "float32": "fp32",
    "tf32": "tf32",
    "fp16": "fp16",
    "float16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int8": "int8",
    "int4": "int4",
}


def device_file(name: str) -> str | None:
    """File of a device that a table names, None where there is none."""
    return DEVICES.get(name.strip().lower())


def unknown_devices(path: Path, root: Path) -> tuple[str, ...]:
    """Devices of a table whose rows the adapters leave out, because no file describes them."""
    if "device" not in columns_of(path, root):
        return ()
    names = sorted({*read_csv(path, root, ("device",), repeats=True).text("device")})
    return tuple(str(name) for name in names if device_file(name) is None)


def tables_by(
    table: CsvTable, keys: Iterable[str], build: Callable[[CsvTable, str], Measured | None]
) -> list[Measured]:
    """One measured table for each device and each value of further columns.

    Args:
        table: Rows of several devices.
        keys: Columns besides `device` that may not be mixed.
        build: Rows of one device and its file -> measured table; None leaves them out.

    Returns:
        Tables of the devices that a file describes; `unknown_devices` names the others.
    """
    label = table.text("device")
    for key in keys:
        label = np.char.add(np.char.add(label, "\t"), table.text(key))
    found = []
    for value in dict.fromkeys(label.tolist()):
        device = device_file(value.split("\t")[0])
        part = None if device is None else build(table.take(label == value), device)
        if part is not None and len(part):
            found.append(part)
    return found


def dtypes(table: CsvTable, name: str = "dtype") -> I64:
    """Index into DTYPES of every row [N].

    Raises:
        InputError: a name that is no known type.
    """
    text = table.text(name)
    wrong = ~np.isin(text, list(DTYPE_OF))
    table.refuse(name, wrong, f"unknown number format; use one of {', '.join(DTYPE_OF)}")
    return np.array([DTYPES.index(DTYPE_OF[str(t)]) for t in text], dtype=np.int64)


def operators(
    kind: str,
    *,
    m: ArrayLike,
    dtype: ArrayLike,
    k: ArrayLike = 1,
    n: ArrayLike = 1,
    batch: ArrayLike = 1,
    count: ArrayLike = 1.0,
    weight_bytes: ArrayLike = 0.0,
    activation_bytes: ArrayLike = 0.0,
    flops: ArrayLike = 0.0,
    row: ArrayLike | None = None,
) -> OpTable:
    """One operator for each of N rows; arguments broadcast and mean what they do in `OpTable`.

    Args:
        kind: Name in KINDS.
        m: Rows; `k`, `n`, `batch`, `count` likewise [N].
        dtype: Index into DTYPES.
        k: See `search_spaces.ops`.
        n: See there.
        batch: See there.
        count: See there.
        weight_bytes: Of one execution.
        activation_bytes: Of one execution.
        flops: Of one execution, asked for and executed alike.
        row: Measured row of each operator; None: 0..N-1.
    """
    size = np.broadcast(m, dtype, k, n, batch, count, weight_bytes, activation_bytes, flops).size

    def ints(values: ArrayLike) -> I64:
        return np.broadcast_to(np.asarray(values), (size,)).astype(np.int64)

    def floats(values: ArrayLike) -> F64:
        return np.broadcast_to(np.asarray(values), (size,)).astype(np.float64)

    return OpTable(
        candidate=ints(np.arange(size) if row is None else row),
        layer=ints(0),
        kind=ints(KIND[kind]),
        count=floats(count),
        m=ints(m),
        k=ints(k),
        n=ints(n),
        batch=ints(batch),
        dtype=ints(dtype),
        weight_bytes=floats(weight_bytes),
        activation_bytes=floats(activation_bytes),
        flops=floats(flops),
        executed_flops=floats(flops),
    )


def single(
    table: CsvTable,
    device: str,
    ops: OpTable,
    *,
    runtime: str,
    family: str,
    group: Names,
    seconds: F64 | None = None,
) -> Measured:
    """Rows that a loop repeated on the same buffers, without what a whole network pays."""
    return Measured(
        source=table.file,
        device=device,
        runtime=runtime,
        family=family,
        ops=ops,
        seconds=table.seconds("latency") if seconds is None else seconds,
        calls=np.zeros(len(table)),
        group=group,
        weight_is_cached=True,
        peer_s={},
    )


def joined_names(*parts: ArrayLike) -> Names:
    """Texts and numbers of N rows joined by blanks [N]."""
    columns = [np.asarray(part).astype(str) for part in parts]
    return np.array([" ".join(values) for values in zip(*columns, strict=True)])
