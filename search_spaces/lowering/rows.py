"""Builder of operator tables: adds one operator for all rows of a batch at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.candidate import DTYPE_BYTES, DTYPES, PLAIN_DTYPE
from search_spaces.ops import KIND, OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

# Arithmetic per value of the operators that are bound by memory; a convention, not a measurement.
FLOPS_SOFTMAX = 5  # maximum, subtract, exponential, sum, divide
FLOPS_GELU = 8
FLOPS_NORM = 8  # two passes of mean and variance, scale, shift
FLOPS_RESIDUAL_NORM = FLOPS_NORM + 1
FLOPS_TANH = 8

_WIDTH = np.array([DTYPE_BYTES[name] for name in DTYPES], dtype=np.float64)
_PLAIN = np.array([DTYPES.index(PLAIN_DTYPE[name]) for name in DTYPES])


class Rows:
    """Collects operators over the same R rows and joins them into one table.

    Only the matrices of the layers (`body`) have the dtype of a row itself; all else has its
    `PLAIN_DTYPE`, and so have the activations of every operator.
    """

    def __init__(self, layer: I64, dtype: I64) -> None:
        self.layer = layer
        self.matrix_dtype = dtype
        self.dtype = _PLAIN[dtype]
        self.row = np.arange(layer.shape[0], dtype=np.int64)
        self.parts: list[OpTable] = []

    def add(
        self,
        kind: str,
        *,
        m: ArrayLike,
        k: ArrayLike = 1,
        n: ArrayLike = 1,
        batch: ArrayLike = 1,
        count: ArrayLike = 1.0,
        weights: ArrayLike = 0.0,
        activations: ArrayLike = 0.0,
        executed: ArrayLike = 0.0,
        real: ArrayLike = 1.0,
        where: Bool | None = None,
        body: bool = False,
    ) -> None:
        """One operator for all rows, or for those in `where`.

        Args:
            kind: Name in `KINDS`; `m`, `k`, `n`, `batch`, `count` as there.
            m: Rows.
            k: Inner width.
            n: Columns.
            batch: Independent problems in the call.
            count: Executions of this shape.
            weights: Weight values read by one execution (not bytes).
            activations: Activation values read and written by one execution (not bytes).
            executed: FLOPs that one execution runs.
            real: Share of them that the method asks for.
            where: Rows [R] that have this operator; None: all.
            body: Whether it is one of the layers' matrices.
        """
        size = self.row.shape[0]

        def full(values: ArrayLike, of: type) -> NDArray[Any]:
            return np.broadcast_to(np.asarray(values, dtype=of), (size,))

        flops = full(executed, np.float64)
        dtype = self.matrix_dtype if body else self.dtype
        table = OpTable(
            candidate=self.row,
            layer=self.layer,
            kind=full(KIND[kind], np.int64),
            count=full(count, np.float64),
            m=full(m, np.int64),
            k=full(k, np.int64),
            n=full(n, np.int64),
            batch=full(batch, np.int64),
            dtype=dtype,
            weight_bytes=full(weights, np.float64) * _WIDTH[dtype],
            activation_bytes=full(activations, np.float64) * _WIDTH[self.dtype],
            flops=flops * full(real, np.float64),
            executed_flops=flops,
        )
        self.parts.append(table if where is None else table.take(where))

    @property
    def width(self) -> F64:
        """Bytes of a value that flows between operators [R]."""
        found: F64 = _WIDTH[self.dtype]
        return found

    def matmul(
        self,
        m: I64,
        k: int | I64,
        n: int | I64,
        *,
        bias: int | I64 | None = None,
        real: ArrayLike = 1.0,
        **more: Any,
    ) -> None:
        """[m, k] @ [k, n] with `bias` values of bias (None: n), weights k n + bias."""
        rows = m.astype(np.float64)
        self.add(
            "matmul",
            m=m,
            k=k,
            n=n,
            weights=k * n + (n if bias is None else bias),
            activations=rows * (k + n),
            executed=2.0 * rows * k * n,
            real=real,
            **more,
        )

    def values(
        self, kind: str, m: ArrayLike, n: ArrayLike, *, moves: float, flops: float, **more: Any
    ) -> None:
        """Rows of n values, m of them, each moved `moves` times and charged `flops` operations."""
        size = np.asarray(m, dtype=np.float64) * np.asarray(n, dtype=np.float64)
        self.add(kind, m=m, n=n, activations=moves * size, executed=flops * size, **more)

    def table(self) -> OpTable:
        """Everything added so far."""
        return OpTable.concat(self.parts)


def as_ints(values: ArrayLike) -> I64:
    """`values` as int64."""
    return np.asarray(values, dtype=np.int64)


def broadcast(*values: ArrayLike) -> list[I64]:
    """`values` as int64 arrays of one shape [R]."""
    return [np.array(x) for x in np.broadcast_arrays(*np.atleast_1d(*map(as_ints, values)))]
