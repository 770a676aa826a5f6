"""The only place where GB/s, TFLOPS and microseconds meet SI units.

Files written by people carry the unit at the end of the key (`bandwidth_gb_per_s`); inside the
code every number is bytes, seconds, FLOPs (a multiply-add is 2), joules or watts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit that a key may end in.

    Attributes:
        suffix: End of the key, without the underscore.
        dimension: What it measures; a key of another dimension is an error.
        si: Value of one unit in SI.
    """

    suffix: str
    dimension: str
    si: float


# Longest suffix first: `bandwidth_gb_per_s` ends in `s` too.
UNITS: tuple[Unit, ...] = tuple(
    sorted(
        (
            Unit("tflops", "flops_per_s", 1e12),
            Unit("gflops", "flops_per_s", 1e9),
            Unit("gb_per_s", "bytes_per_s", 1e9),
            Unit("gib_per_s", "bytes_per_s", 2.0**30),
            Unit("gb", "bytes", 1e9),
            Unit("gib", "bytes", 2.0**30),
            Unit("mb", "bytes", 1e6),
            Unit("mib", "bytes", 2.0**20),
            Unit("kib", "bytes", 2.0**10),
            Unit("ns", "s", 1e-9),
            Unit("us", "s", 1e-6),
            Unit("ms", "s", 1e-3),
            Unit("ghz", "per_s", 1e9),
            Unit("w", "w", 1.0),
            Unit("pj", "j", 1e-12),
            Unit("pj_per_byte", "j_per_byte", 1e-12),
        ),
        key=lambda unit: -len(unit.suffix),
    )
)
NUMBER = Unit("", "number", 1.0)
SHOWN: dict[str, str] = {
    "flops_per_s": "FLOP/s",
    "bytes_per_s": "B/s",
    "bytes": "B",
    "s": "s",
    "per_s": "Hz",
    "w": "W",
    "j": "J",
    "j_per_byte": "J/B",
    "number": "",
}


def split_key(key: str) -> tuple[str, Unit]:
    """`bandwidth_gb_per_s` -> (`bandwidth`, GB/s); a key without a unit is a plain number."""
    for unit in UNITS:
        if key.endswith("_" + unit.suffix):
            return key[: -len(unit.suffix) - 1], unit
    return key, NUMBER


def join_key(stem: str, dimension: str) -> str:
    """The key under which a file states `stem`, with the usual unit of its dimension."""
    suffix = {
        "flops_per_s": "gflops",
        "bytes_per_s": "gb_per_s",
        "bytes": "mib",
        "s": "us",
        "per_s": "ghz",
        "w": "w",
        "j": "pj",
        "j_per_byte": "pj_per_byte",
    }.get(dimension)
    return stem if suffix is None else f"{stem}_{suffix}"


def to_si(value: float, unit: Unit) -> float:
    """`value` of `unit` in SI."""
    return value * unit.si


def from_si(value: float, unit: Unit) -> float:
    """An SI value in `unit`."""
    return value / unit.si
