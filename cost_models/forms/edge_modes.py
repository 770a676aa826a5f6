"""Power modes of embedded boards, and memory bandwidth that the processor takes away.

Modes are data beside the devices, `devices/modes/<device>.toml`, with source and grade per number
like device files:

    [modes.15w]
    clock_ghz = { value = 0.612, source = "...", grade = "vendor" }

A mode sets the accelerator's clock and how many of its units are on, which scale every peak; the
memory clock, which scales the bandwidth; and the power that the board may draw.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cost_models.device import FOLDER, GRADES, Device, Quantity
from cost_models.units import split_key, to_si
from search_spaces.errors import InputError, Problem

MODES_FOLDER = FOLDER / "modes"
_DIMENSION = {
    "clock": "per_s",
    "memory": "per_s",
    "full_memory": "per_s",
    "units": "number",
    "max": "w",
}
_NEEDED = ("clock", "memory", "full_memory", "units")


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerMode:
    """One mode of a board, SI units."""

    name: str
    clock: Quantity  # of the accelerator
    memory: Quantity  # clock of the memory
    full_memory: Quantity  # clock at which the device file's bandwidth holds
    units: Quantity  # units of the accelerator that are on
    max: Quantity | None  # watts that the board may draw


def power_modes(device: str | Device) -> dict[str, PowerMode]:
    """The modes of a shipped device by name; empty where none are known.

    Raises:
        InputError: the file of modes has problems, all of them.
    """
    name = device.name if isinstance(device, Device) else device
    path = MODES_FOLDER / f"{name}.toml"
    return read_modes(path) if path.is_file() else {}


def read_modes(path: Path) -> dict[str, PowerMode]:
    """The modes in a file.

    Raises:
        InputError: not readable, or with problems, all of them.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError.one(path, "", None, f"cannot be read as TOML: {error}") from error
    problems: list[Problem] = []
    modes = {name: _mode(path, name, table, problems) for name, table in _tables(data).items()}
    if problems:
        raise InputError(problems)
    return {name: mode for name, mode in modes.items() if mode is not None}


def in_power_mode(device: Device, mode: str | PowerMode) -> Device:
    """The device with clocks, bandwidth and power limit of one of its modes.

    Args:
        device: Must state `compute.clock`: the clock that its peaks hold at.
        mode: Name of a shipped mode, or one read from a file.

    Raises:
        InputError: unknown mode, or a device without a clock.
    """
    if isinstance(mode, str):
        known = power_modes(device)
        if mode not in known:
            names = ", ".join(known) or "none is known for this device"
            raise InputError.one(device.name, "mode", mode, f"no such power mode; use: {names}")
        mode = known[mode]
    clock = device.get("compute.clock")
    if not math.isfinite(clock):
        text = "the device file states no clock; add it, so that a mode can scale its peaks"
        raise InputError.one(device.name, "compute.clock", None, text)
    speed = mode.clock.value / clock * mode.units.value / device.units
    traffic = mode.memory.value / mode.full_memory.value
    changed: dict[str, Quantity] = {}
    for key, quantity in device.quantities.items():
        factor = speed if key.startswith("peak.") else 1.0
        factor = traffic if key == "memory.bandwidth" else factor
        changed[key] = _scaled(quantity, factor, mode.name) if factor != 1.0 else quantity
    changed["compute.clock"] = mode.clock
    changed["compute.units"] = mode.units
    if mode.max is not None:
        changed["power.max"] = mode.max
    return replace(device, quantities=changed, summary=f"{device.summary}, mode {mode.name}")


def with_cpu_traffic(device: Device, bytes_per_s: float) -> Device:
    """The device with the bandwidth that a busy processor leaves it.

    Args:
        device: One whose memory serves processor and accelerator.
        bytes_per_s: What the processor reads and writes meanwhile.

    Raises:
        InputError: negative, or nothing would be left.
    """
    own = device.quantities["memory.bandwidth"]
    if not 0 <= bytes_per_s < own.value:
        text = f"must be 0 or more and below the {own.value / 1e9:g} GB/s of the memory"
        raise InputError.one("arguments", "bytes_per_s", bytes_per_s, text)
    left = replace(
        own,
        value=own.value - bytes_per_s,
        source=f"{own.source}; less {bytes_per_s / 1e9:g} GB/s of the processor",
        grade="estimate",
    )
    return replace(device, quantities={**device.quantities, "memory.bandwidth": left})


def _scaled(quantity: Quantity, factor: float, mode: str) -> Quantity:
    source = f"{quantity.source}; x {factor:.3f} in mode {mode}"
    return replace(quantity, value=quantity.value * factor, source=source, grade="estimate")


def _tables(data: Mapping[str, Any]) -> Mapping[str, Any]:
    tables = data.get("modes", {})
    return tables if isinstance(tables, dict) else {}


def _mode(path: Path, name: str, table: object, problems: list[Problem]) -> PowerMode | None:
    before = len(problems)
    found: dict[str, Quantity] = {}
    for key, entry in (table if isinstance(table, dict) else {}).items():
        stem, unit = split_key(key)
        where = f"modes.{name}.{key}"
        if _DIMENSION.get(stem) != unit.dimension:
            problems.append(Problem(str(path), where, "", f"use {', '.join(_DIMENSION)}"))
            continue
        if not _complete(entry):
            text = "write { value = above 0, source = ..., grade = one of " + ", ".join(GRADES)
            problems.append(Problem(str(path), where, str(entry), text + " }"))
            continue
        found[stem] = Quantity(
            value=to_si(float(entry["value"]), unit),
            dimension=unit.dimension,
            source=entry["source"],
            grade=entry["grade"],
        )
    missing = [stem for stem in _NEEDED if stem not in found]
    if missing and len(problems) == before:
        text = "is missing; state it with unit, source and grade"
        problems += [Problem(str(path), f"modes.{name}.{stem}", "", text) for stem in missing]
    if len(problems) > before:
        return None
    return PowerMode(name=name, max=found.get("max"), **{stem: found[stem] for stem in _NEEDED})


def _complete(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("value"), int | float)
        and not isinstance(entry["value"], bool)
        and entry["value"] > 0
        and isinstance(entry.get("source"), str)
        and bool(entry["source"].strip())
        and entry.get("grade") in GRADES
    )
