"""Measured rows made up from a form with known parameters, for the tests of calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cost_models.calibrate.posterior import predict_rows
from cost_models.device import Device, with_parameters
from cost_models.measured import Measured
from search_spaces.candidate import DTYPE_BYTES, DTYPES
from search_spaces.ops import KIND, OpTable


def matmuls(m: object, k: object, n: object, dtype: str = "bf16") -> OpTable:
    """One matmul a row."""
    ms, ks, ns = (a.astype(np.int64) for a in np.broadcast_arrays(*map(np.atleast_1d, (m, k, n))))
    N, width = ms.size, float(DTYPE_BYTES[dtype])
    flops = 2.0 * ms * ks * ns
    return OpTable(
        candidate=np.arange(N),
        layer=np.zeros(N, dtype=np.int64),
        kind=np.full(N, KIND["matmul"]),
        count=np.ones(N),
        m=ms,
        k=ks,
        n=ns,
        batch=np.ones(N, dtype=np.int64),
        dtype=np.full(N, DTYPES.index(dtype)),
        weight_bytes=width * ks * ns,
        activation_bytes=width * ms * (ks + ns),
        flops=flops,
        executed_flops=flops,
    )


def random_shapes(rng: np.random.Generator, rows: int) -> OpTable:
    """Matmuls of 1 to 8192 rows and widths of 256 to 8192."""
    return matmuls(
        2 ** rng.integers(0, 14, rows),
        256 * rng.integers(1, 33, rows),
        256 * rng.integers(1, 33, rows),
    )


def table(ops: OpTable, seconds: object, device: str, **changes: object) -> Measured:
    """Rows of `ops`; the group of a row is its weight matrix."""
    N = int(ops.candidate.max()) + 1
    names = np.array([f"{k}x{n}" for k, n in zip(ops.k, ops.n, strict=True)])
    group = np.empty(N, dtype=names.dtype)
    group[ops.candidate] = names
    row = Measured(
        source="made up",
        device=device,
        runtime="test",
        family="matmul",
        ops=ops,
        seconds=np.asarray(seconds, dtype=np.float64),
        calls=np.zeros(N),
        group=group,
        peer_s={},
    )
    return replace(row, **changes)


def measured_on(
    device: Device,
    truth: Mapping[str, float],
    rng: np.random.Generator,
    *,
    rows: int = 300,
    noise: float = 0.03,
    **changes: object,
) -> Measured:
    """Random matmuls on a device whose true parameters are `truth`, with log noise."""
    ops = random_shapes(rng, rows)
    blank = table(ops, np.ones(rows), device.name, **changes)
    exact = predict_rows([blank], with_parameters(device, truth))
    return replace(blank, seconds=exact * np.exp(noise * rng.standard_normal(rows)))
