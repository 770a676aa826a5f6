"""Energy: idle power all the time, and joules per operation and per byte of each level.

    J = (idle + active) * t + sum of (e_op[type] * FLOPs + e_level * bytes of the level)
    limited to max * t, the board's power

`idle` and `max` must be known, or nothing is (NaN: missing is never zero). A coefficient that the
device file does not state (section `energy`) follows from its power budget: arithmetic at its
peak takes ARITHMETIC of what is above idle, memory at its full rate MEMORY, merely running ACTIVE;
held inside the range of the literature (`energy.toml`). Together they exceed the budget, which is
why boards throttle. Power of a whole system adds `host` per device.

Form and ranges: M. Horowitz, Computing's energy problem, ISSCC 2014; N. Jouppi et al., Ten lessons
from three generations, ISCA 2021.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.device import Device
from cost_models.measured import Measured, row_sums
from cost_models.units import split_key, to_si
from search_spaces.candidate import DTYPES
from search_spaces.ops import KIND, OpTable

F64 = NDArray[np.float64]

RANGES = Path(__file__).parent / "energy.toml"
ARITHMETIC, MEMORY, ACTIVE = 0.85, 0.4, 0.15  # of max - idle; estimates
HOST = 0.45  # of max, per device of a server: processors, switches, fans; an estimate
# Which coefficient a type pays; what is missing here pays op_fp32.
OP_OF: dict[str, str] = {
    "fp32": "op_fp32",
    "tf32": "op_fp16",
    "bf16": "op_fp16",
    "fp16": "op_fp16",
    "fp8": "op_int8",
    "int8": "op_int8",
    "int4": "op_fp16",  # weights only: arithmetic is 16-bit
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What a device takes, in watts and joules."""

    idle_w: float
    active_w: float
    host_w: float  # of the rest of the system, per device
    max_w: float
    op_j: F64  # [DTYPES] per FLOP
    cache_j: float  # per byte
    dram_j: float
    link_j: float


@cache
def literature() -> dict[str, tuple[float, float]]:
    """Lowest and highest coefficient of each kind, SI."""
    found = {}
    for name, table in tomllib.loads(RANGES.read_text(encoding="utf-8")).items():
        if isinstance(table, dict):
            values = {
                stem: to_si(float(entry["value"]), unit)
                for key, entry in table.items()
                for stem, unit in (split_key(key),)
            }
            found[name] = (values["low"], values["high"])
    return found


def range_of(kind: str, name: str) -> tuple[float, float]:
    """Range of a coefficient on a class of device; operations of cores have one of their own."""
    return literature()["op_processor" if kind == "cpu" and name.startswith("op_") else name]


def coefficients(device: Device, *, idle_w: float = math.nan) -> Coefficients:
    """What the device file states, the rest from its power budget; NaN where that is missing.

    Args:
        device: Any device.
        idle_w: Idle power where the device file states none.
    """
    idle, top = device.get("power.idle"), device.get("power.max")
    idle = idle_w if math.isnan(idle) else idle
    budget = top - idle

    def stated(name: str, default: float) -> float:
        own = device.get(f"energy.{name}")
        return default if math.isnan(own) else own

    def within(name: str, value: float) -> float:
        low, high = range_of(device.kind, name)
        return stated(name, value if math.isnan(value) else min(max(value, low), high))

    rates = dict(zip(DTYPES, device.peak_flops_per_s, strict=True))
    names = [OP_OF.get(name, "op_fp32") for name in DTYPES]
    low_cache, high_cache = literature()["cache"]
    low_link, high_link = literature()["link"]
    return Coefficients(
        idle_w=idle,
        active_w=stated("active", ACTIVE * budget),
        host_w=stated("host", HOST * top if device.kind in ("gpu", "tpu") else 0.0),
        max_w=top,
        op_j=np.array(
            [
                within(name, ARITHMETIC * budget / rates[dtype])
                for name, dtype in zip(names, DTYPES, strict=True)
            ]
        ),
        cache_j=stated("cache", math.sqrt(low_cache * high_cache)),
        dram_j=within("dram", MEMORY * budget / device.bandwidth_bytes_per_s),
        link_j=stated("link", math.sqrt(low_link * high_link)),
    )


def operator_energy_j(
    ops: OpTable, time_s: F64, device: Device, *, from_memory: float | F64 = 1.0
) -> F64:
    """Joules of one execution of every operator [R]; NaN where the device states no power.

    Args:
        ops: R operators.
        time_s: Seconds of one execution [R].
        device: Any device. Both `power.idle` and `power.max` are needed: missing is never zero.
        from_memory: Share of the weights that comes from the main memory, the rest is cached.
    """
    c = coefficients(device)
    work = dynamic_j(ops, c, from_memory)
    joules: F64 = np.minimum((c.idle_w + c.active_w) * time_s + work, c.max_w * time_s)
    return joules


def dynamic_j(ops: OpTable, c: Coefficients, from_memory: float | F64 = 1.0) -> F64:
    """Joules of operations and bytes of one execution [R], whatever time it takes."""
    linked = ops.kind == KIND["collective"]
    weights = np.where(linked, 0.0, ops.weight_bytes)
    moved = weights + ops.activation_bytes
    dram = weights * from_memory + ops.activation_bytes
    over_links = np.where(linked, ops.m.astype(np.float64), 0.0)
    found: F64 = (
        ops.executed_flops * c.op_j[ops.dtype]
        + moved * c.cache_j
        + dram * c.dram_j
        + over_links * c.link_j
    )
    return found


def row_energy_j(measured: Measured, device: Device) -> F64:
    """Joules of measured rows [N], given the time that they took; NaN where power is missing.

    Rows of a system of several devices take each device's idle power and that of the host, unless
    the data state what the whole system takes when idle.
    """
    return rows_energy_j(measured, coefficients(device, idle_w=idle_of(measured)))


def idle_of(measured: Measured) -> float:
    """Idle power of one device of the rows where their source states it, else NaN."""
    if measured.energy is None or np.isnan(measured.energy.idle_w).all():
        return math.nan
    return float(np.nanmedian(measured.energy.idle_w)) / measured.energy.devices


def rows_energy_j(measured: Measured, c: Coefficients) -> F64:
    """`row_energy_j` with other coefficients [N]."""
    energy = measured.energy
    size = len(measured)
    devices = 1 if energy is None else energy.devices
    host = c.host_w if energy is not None and energy.wall else 0.0
    own = np.full(size, devices * (c.idle_w + host))
    idle = own if energy is None else np.where(np.isnan(energy.idle_w), own, energy.idle_w)
    work = row_sums(dynamic_j(measured.ops, c) * measured.ops.count, measured.ops, size)
    base = idle + devices * c.active_w
    limit = np.maximum(devices * (c.max_w + host), base)
    joules: F64 = np.minimum(base * measured.seconds + work, limit * measured.seconds)
    return joules


def with_coefficients(c: Coefficients, **changed: float) -> Coefficients:
    """The same with `active_w`, `host_w`, `dram_j` set, and `op` times all operations."""
    scale = changed.pop("op", 1.0)
    return replace(c, op_j=c.op_j * scale, **changed)
