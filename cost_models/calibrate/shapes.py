"""What can be planned, measured and fitted on any device: products, attention, encoder layers.

`target.Shape` names one thing to time; here stands what it is in operators, so that a fit sees
(operators, seconds), and the pool from which a plan chooses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters.gpu_gemm import matmuls
from cost_models.adapters.gpu_rows import operators
from cost_models.calibrate.target import ATTENTION, MATMUL, NETWORK, Shape
from cost_models.device import Device
from cost_models.measured import Measured
from search_spaces.backbone import Backbone
from search_spaces.candidate import DTYPE_BYTES, DTYPES
from search_spaces.lowering.encoder import LayerShapes, lower_layers
from search_spaces.ops import OpTable

I64 = NDArray[np.int64]

ROWS = (1, 4, 16, 64, 256, 1024)
WIDTHS = (256, 512, 1024, 2048, 4096)
BATCHES = (1, 8)
TOKENS = (16, 64, 256, 1024)
CACHED = (256, 1024, 4096)
HEADS = ((8, 64), (16, 64), (32, 128))  # heads, their width
NETWORKS = ((256, 4), (512, 8), (768, 12), (1024, 16))  # hidden size, heads
DEPTHS = (1, 4, 12)
LARGEST = 4e10  # FLOPs of one execution: seconds on the slowest boards
PREFILL, DECODE, END_TO_END = "attention_prefill", "attention_decode", "end_to_end"


def pool(dtype: str, ops: Sequence[str]) -> list[Shape]:
    """Shapes of one number format that a plan may ask for.

    Args:
        dtype: Number format.
        ops: Of `target.OPS`.
    """
    found: list[Shape] = []
    if MATMUL in ops:
        found += [Shape(MATMUL, dtype, 1, m, k, n) for m in ROWS for k in WIDTHS for n in WIDTHS]
    if ATTENTION in ops:
        lengths = [(m, m) for m in TOKENS] + [(1, n) for n in CACHED]
        found += [
            Shape(ATTENTION, dtype, batch, m, k, n, heads)
            for batch in BATCHES
            for m, n in lengths
            for heads, k in HEADS
        ]
    if NETWORK in ops:
        found += [
            Shape(NETWORK, dtype, batch, m, h, 4 * h, heads, layers)
            for batch in BATCHES
            for m in TOKENS
            for h, heads in NETWORKS
            for layers in DEPTHS
        ]
    return [s for s in found if float(_ops(s).executed_flops @ _ops(s).count) <= LARGEST]


def measured(
    shapes: Sequence[Shape],
    seconds: Sequence[float],
    device: Device,
    runtime: str,
    source: str,
    *,
    threads: int = 1,
) -> tuple[list[Measured], I64]:
    """Shapes with seconds as one table for each family, and the number of the shape of each row.

    Args:
        shapes: N of them.
        seconds: Of one execution [N].
        device: That was measured.
        runtime: What ran them.
        source: Name of the file.
        threads: Threads that shared an execution (processor cores only).
    """
    families = np.array([_family(s) for s in shapes])
    tables: list[Measured] = []
    order: list[int] = []
    for family in dict.fromkeys(families.tolist()):
        mine = np.flatnonzero(families == family).tolist()
        part = [shapes[i] for i in mine]
        tables.append(
            Measured(
                source=source,
                device=device.name,
                runtime=runtime,
                family=family,
                ops=_numbered([_ops(s) for s in part]),
                seconds=np.array([seconds[i] for i in mine], dtype=np.float64),
                calls=np.full(len(part), float(family == END_TO_END)),
                group=np.array([f"{s.op} {s.dtype} {s.k}x{s.n}x{s.layers}" for s in part]),
                threads=threads,
                weight_is_cached=True,
                peer_s={},
            )
        )
        order += mine
    return tables, np.array(order, dtype=np.int64)


def _family(shape: Shape) -> str:
    if shape.op == ATTENTION:
        return DECODE if shape.m == 1 else PREFILL
    return {MATMUL: "matmul", NETWORK: END_TO_END}[shape.op]


def _numbered(parts: Sequence[OpTable]) -> OpTable:
    for row, part in enumerate(parts):
        part.candidate[:] = row
    return OpTable.concat(list(parts))


def _ops(shape: Shape) -> OpTable:
    """Operators of one execution."""
    if shape.op == MATMUL:
        m, n, k = (np.array([v]) for v in (shape.m, shape.n, shape.k))
        return matmuls(m, n, k, np.array([DTYPES.index(shape.dtype)]))
    return _attention(shape) if shape.op == ATTENTION else _layers(shape)


def _attention(shape: Shape) -> OpTable:
    """Fused attention of `m` queries to `n` keys, none of them masked."""
    problems = float(shape.batch * shape.heads)
    values = problems * shape.k
    return operators(
        _family(shape),
        m=shape.m,
        k=shape.k,
        n=shape.n,
        batch=problems,
        dtype=DTYPES.index(shape.dtype),
        activation_bytes=2 * values * (shape.m + shape.n) * DTYPE_BYTES[shape.dtype],
        flops=4.0 * values * shape.m * shape.n,
    )


def _layers(shape: Shape) -> OpTable:
    """Encoder layers, one after another."""
    backbone = Backbone(
        name="plan",
        num_layers=shape.layers,
        hidden_size=shape.k,
        num_heads=shape.heads,
        ffn_size=shape.n,
        vocab_size=1,
        max_len=shape.m,
    )

    def full(value: int) -> I64:
        return np.full(shape.layers, value, dtype=np.int64)

    return lower_layers(
        backbone,
        LayerShapes(
            layer=np.arange(shape.layers),
            n_in=full(shape.m),
            n_ffn=full(shape.m),
            batch=full(shape.batch),
            drops=np.zeros(shape.layers, dtype=bool),
            num_experts=full(1),
            top_k=full(1),
            granularity=full(0),
            dtype=full(DTYPES.index(shape.dtype)),
        ),
    )
