"""Graphics processors: tiles in partial waves, memory and cache overlapped, a launch floor.

An operator's formula stands with its kind: `gpu_matmul` (matmuls, experts), `gpu_attention`
(prefill, decoding), `gpu_vector`; `gpu_parameters` holds what calibration may set, with defaults
that are pooled fits, and the constants of the form. The launch floor is a parameter of runtime:
some microseconds where kernels are recorded in a graph, tens where the host launches each. In an
eager forward pass the host runs ahead of the device, so that it takes the longer of the two:
`host_time_s` is the host's side, which depends on processor and framework, not on the device.
Before its first kernel the device waits for `host_call`.

Whole networks run cold: weights come from memory. A loop that repeats one operator finds what
fits in the L2 cache, which only measured rows say (`working_set_bytes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cost_models.forms import Terms
from cost_models.forms.gpu_attention import decode_parts, prefill_parts
from cost_models.forms.gpu_matmul import experts_parts, matmul_parts
from cost_models.forms.gpu_parameters import (
    ARITHMETIC_POWER,
    FP32_OP_J,
    HALF_OR_FP8,
    MATMUL_FAMILY,
    NORM,
    PARAMETERS,
)
from cost_models.forms.gpu_terms import F64, Facts, Parts, told_apart
from cost_models.forms.gpu_vector import vector_parts
from search_spaces.candidate import DTYPE_BYTES, DTYPES
from search_spaces.ops import KIND, KINDS

if TYPE_CHECKING:
    from cost_models.device import Device
    from search_spaces.ops import OpTable

__all__ = [
    "PARAMETERS",
    "RESIDUAL_LOG_SD",
    "SHARED_LOG_SD",
    "host_time_s",
    "operator_terms",
    "operator_time_s",
]

SHARED_LOG_SD = 0.25
RESIDUAL_LOG_SD = 0.25

_GROUP: dict[str, str] = {
    "matmul": "matmul",
    "grouped_matmul": "experts",
    "attention_prefill": "prefill",
    "attention_importance": "prefill",
    "attention_decode": "decode",
    "elementwise": "vector",
    "reduce": "vector",
    "gather": "vector",
    "host_sync": "sync",
    "collective": "vector",
}
# Of a module's host time (weights, attention, a gather, with the views around it), what one bare
# kernel takes: 84 more elementwise kernels cost A10G 0.9 ms a pass, its modules 130 us each.
_BARE = 0.1
_HOST_SHARES: dict[str, float] = {
    "elementwise": _BARE,
    "reduce": _BARE,
    "host_sync": 0.0,
    "collective": 0.0,
}
_HOST_SHARE = np.array([_HOST_SHARES.get(name, 1.0) for name in KINDS])
_DEFAULT = {p.name: p.default for p in PARAMETERS}
SCALED = ("efficiency_fp32",)  # what `default_scales` speaks of
_GROUPS = tuple(dict.fromkeys(_GROUP.values()))
_GROUP_OF_KIND = np.array([_GROUPS.index(_GROUP[name]) for name in KINDS])


def operator_time_s(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> F64:
    """Seconds of one execution of every operator [R].

    Args:
        ops: R operators.
        device: Of kind "gpu".
        threads: Not used; the host only launches.
        working_set_bytes: Bytes between two uses of the same ones, one number or [R]; None or
            infinite: more than the cache holds.
    """
    parts = _parts(ops, device, working_set_bytes)
    return parts.fixed + parts.body


def operator_terms(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> Terms:
    """`operator_time_s`, told apart; part tiles and waves are what "few rows" add."""
    parts = _parts(ops, device, working_set_bytes)
    works = ops.kind != KIND["host_sync"]
    return told_apart(parts, ops.weight_bytes * works, ops.activation_bytes * works)


def host_time_s(ops: OpTable, device: Device) -> F64:
    """Seconds that the host of an eager runtime needs for one execution of every operator [R]."""
    found: F64 = _HOST_SHARE[ops.kind] * device.parameter("dispatch")
    return found


def default_scales(device: Device) -> dict[str, float]:
    """Factors on defaults: a board lowers its clock where fp32 arithmetic would exceed its power.

    Of a board of W watts, `ARITHMETIC_POWER` W pay for operations of `FP32_OP_J` each; the rate
    is the soft minimum of what that allows and of what the default efficiency would reach. Cards
    of 72 W sustain a third of their peak (NeuSight's L4), those of 250 W nearly all of it.
    Tensor cores take an order of magnitude less an operation and are not held back.
    """
    power = device.get("power.max")
    if not np.isfinite(power):
        return {}
    name = "efficiency_fp32"
    wanted = _DEFAULT[name] * float(device.peak_flops_per_s[DTYPES.index("fp32")])
    over = wanted * FP32_OP_J / (ARITHMETIC_POWER * power)
    return {name: (1.0 + over**NORM) ** (-1.0 / NORM)}


def _parts(ops: OpTable, device: Device, working_set_bytes: float | NDArray[Any] | None) -> Parts:
    """Parts of all operators, each formula once for every number format that occurs."""
    R = len(ops)
    working_set = None
    if working_set_bytes is not None:
        working_set = np.broadcast_to(np.asarray(working_set_bytes, dtype=np.float64), (R,))
    found = {name: np.zeros(R) for name in ("fixed", "body", "busy", "whole")}
    code = _GROUP_OF_KIND[ops.kind] * len(DTYPES) + ops.dtype
    for value in np.flatnonzero(np.bincount(code, minlength=1)):
        group, dtype = _GROUPS[value // len(DTYPES)], DTYPES[value % len(DTYPES)]
        rows = np.flatnonzero(code == value)
        every = rows.size == R
        part = ops if every else ops.take(rows)
        near = working_set if every or working_set is None else working_set[rows]
        parts = _of_group(group, dtype, part, device, near)
        for name, values in found.items():
            values[rows] = getattr(parts, name)
    return Parts(**found)


def _of_group(
    group: str, dtype: str, ops: OpTable, device: Device, working_set: F64 | None
) -> Parts:
    read = device.parameter
    facts = _facts(device, dtype)
    if group == "matmul":
        family = MATMUL_FAMILY[dtype]
        return matmul_parts(ops, facts, read, family, _operand(dtype), working_set)
    if group == "experts":
        return experts_parts(ops, facts, read, HALF_OR_FP8[dtype], _operand(dtype))
    if group == "prefill":
        return prefill_parts(ops, facts, read, HALF_OR_FP8[dtype])
    if group == "decode":
        return decode_parts(ops, facts, read, HALF_OR_FP8[dtype], working_set)
    if group == "vector":
        return vector_parts(ops, facts, read, working_set)
    nothing = np.zeros(len(ops))
    return Parts(fixed=nothing + read("sync"), body=nothing, busy=nothing, whole=nothing)


def _operand(dtype: str) -> float:
    """Bytes of what the matrix units read; 4-bit weights are unpacked to 16 bits."""
    return 2.0 if dtype == "int4" else DTYPE_BYTES[dtype]


def _facts(device: Device, dtype: str) -> Facts:
    rate = "bf16" if dtype == "int4" else dtype
    l2 = device.get("cache.l2")
    return Facts(
        peak=float(device.peak_flops_per_s[DTYPES.index(rate)]),
        bandwidth=device.bandwidth_bytes_per_s,
        units=device.units,
        l2_bytes=float(l2) if np.isfinite(l2) else 0.0,
    )
