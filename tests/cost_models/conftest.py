"""Operators and devices for the tests of cost models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cost_models.device import Device, Quantity
from cost_models.forms import parameters_of
from search_spaces.candidate import DTYPE_BYTES, DTYPES
from search_spaces.ops import KIND, OpTable

MakeOps = Callable[..., OpTable]
MakeDevice = Callable[..., Device]


@pytest.fixture
def make_ops() -> MakeOps:
    """A table of one operator per row of m, k, n given as numbers or lists."""

    def make(
        kind: str = "matmul",
        m: object = 64,
        k: object = 256,
        n: object = 256,
        batch: object = 1,
        dtype: str = "fp32",
        count: object = 1.0,
    ) -> OpTable:
        ms, ks, ns, batches, counts = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(v)) for v in (m, k, n, batch, count))
        )
        width = DTYPE_BYTES[dtype]
        flops = 2.0 * ms * ks * ns * batches
        return OpTable(
            candidate=np.arange(ms.size),
            layer=np.zeros(ms.size, dtype=np.int64),
            kind=np.full(ms.size, KIND[kind]),
            count=counts.astype(np.float64),
            m=ms.astype(np.int64),
            k=ks.astype(np.int64),
            n=ns.astype(np.int64),
            batch=batches.astype(np.int64),
            dtype=np.full(ms.size, DTYPES.index(dtype)),
            weight_bytes=width * ks * ns * (1.0 if "matmul" in kind else 0.0),
            activation_bytes=width
            * ms
            * (ks + ns)
            * batches
            * (0.0 if kind == "host_sync" else 1.0),
            flops=flops,
            executed_flops=flops,
        )

    return make


@pytest.fixture
def make_device() -> MakeDevice:
    """A device of a class with facts and parameters by dotted key, over plain defaults."""

    def make(kind: str = "cpu", **changes: float) -> Device:
        facts = {
            "peak.fp32": 1e11,
            "memory.capacity": 8e9,
            "memory.bandwidth": 2e10,
            "compute.units": 4.0,
        }
        if kind == "tpu":
            facts["compute.array"] = 128.0
        facts |= {name.replace("__", "."): value for name, value in changes.items()}
        known = parameters_of(kind)
        return Device(
            name="box",
            kind=kind,
            summary="a box",
            quantities={
                key: Quantity(
                    value=value,
                    dimension=known[key[6:]].dimension if key.startswith("model.") else "number",
                    source="test",
                    grade="estimate",
                )
                for key, value in facts.items()
            },
        )

    return make
