"""Devices as data: what a machine can do, where each number comes from, and what corrects it.

A device file states facts in the sections `peak`, `memory`, `cache`, `compute` and `power`, and
may state parameters of its form in `model`. Every number is an inline table with its source and
grade, the unit stands in the key:

    bandwidth_gb_per_s = { value = 819, source = "vendor page", grade = "vendor" }

A profile (the table `profile` of a file) holds what was fitted to measurements. It may set
parameters of the form only, never a peak. `calibrate` writes device and profile into one file,
which `load_device` reads as it reads the shipped ones.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models import device_checks
from cost_models.forms import FORM_NAMES, default_of, parameters_of
from cost_models.learned import Learned
from cost_models.profile import (
    CALIBRATION_TOOL,
    SCHEMA_VERSION,
    Profile,
    load_profile,
    may_not_set,
    profile_file,
    profile_names,
    read_profile,
    read_toml,
    unknown_key,
)
from cost_models.units import SHOWN, split_key, to_si
from search_spaces.candidate import DTYPES, PLAIN_DTYPE
from search_spaces.errors import InputError, Problem

GRADES: tuple[str, ...] = ("vendor", "measured", "secondary", "estimate")
FOLDER = Path(__file__).parent / "devices"

# Section -> stem -> dimension of its unit.
FACTS: dict[str, dict[str, str]] = {
    "peak": dict.fromkeys(DTYPES, "flops_per_s"),
    "memory": {"capacity": "bytes", "bandwidth": "bytes_per_s"},
    "cache": {"l1": "bytes", "l2": "bytes", "l3": "bytes", "on_chip": "bytes"},
    "compute": {"units": "number", "clock": "per_s", "array": "number"},
    "power": {"idle": "w", "max": "w"},
    "energy": {
        "active": "w",
        "host": "w",
        "op_fp32": "j",
        "op_fp16": "j",
        "op_int8": "j",
        "cache": "j_per_byte",
        "dram": "j_per_byte",
        "link": "j_per_byte",
    },
}
REQUIRED: tuple[str, ...] = (
    "peak.fp32",
    "memory.capacity",
    "memory.bandwidth",
    "compute.units",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One number in SI units with where it comes from."""

    value: float
    dimension: str
    source: str
    grade: str  # one of GRADES
    origin: str = "datasheet"  # or "profile:<name>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device: facts and parameters by dotted key, everything in SI units."""

    name: str
    kind: str  # one of FORM_NAMES
    summary: str
    quantities: Mapping[str, Quantity]
    profile: Profile | None = None
    learned: tuple[Learned, ...] = ()  # what the form leaves over here, from measurements
    warnings: tuple[str, ...] = field(default=())

    def get(self, key: str) -> float:
        """The number at a dotted key such as `memory.bandwidth`; NaN where nothing is known."""
        found = self.quantities.get(key)
        return math.nan if found is None else found.value

    def parameter(self, name: str) -> float:
        """A parameter of the form: stated, calibrated, or the form's default."""
        found = self.quantities.get(f"model.{name}")
        return default_of(self, name) if found is None else found.value

    @property
    def peak_flops_per_s(self) -> NDArray[np.float64]:
        """Peak rate per dtype, order of DTYPES.

        A type without one runs at the rate of what flows between its operators (PLAIN_DTYPE),
        or else at the fp32 rate.
        """
        return np.array([self._peak(d) for d in DTYPES])

    def _peak(self, dtype: str) -> float:
        stated = (f"peak.{d}" for d in (dtype, PLAIN_DTYPE[dtype]))
        return self.get(next((key for key in stated if key in self.quantities), "peak.fp32"))

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Bandwidth of the main memory."""
        return self.get("memory.bandwidth")

    @property
    def capacity_bytes(self) -> float:
        """Size of the main memory."""
        return self.get("memory.capacity")

    @property
    def units(self) -> float:
        """Cores, streaming multiprocessors or matrix units."""
        return self.get("compute.units")

    @property
    def origin(self) -> str:
        """Where a cost on this device comes from: `datasheet` or `profile:<name>`."""
        return "datasheet" if self.profile is None else f"profile:{self.profile.name}"

    def to_rows(self) -> list[dict[str, Any]]:
        """Every number for printing: key, value, unit, source, grade, origin."""
        rows = [
            {
                "key": key,
                "value": q.value,
                "unit": SHOWN[q.dimension],
                "source": q.source,
                "grade": q.grade,
                "origin": q.origin,
            }
            for key, q in self.quantities.items()
        ]
        for name, p in parameters_of(self.kind).items():
            if f"model.{name}" not in self.quantities:
                rows.append(
                    {
                        "key": f"model.{name}",
                        "value": default_of(self, name),
                        "unit": SHOWN[p.dimension],
                        "source": f"default of the {self.kind} form: {p.doc}",
                        "grade": "estimate",
                        "origin": "form",
                    }
                )
        return rows


def device_names() -> list[str]:
    """Names of the shipped devices."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def list_devices() -> list[Device]:
    """All shipped devices, by name."""
    return [load_device(name) for name in device_names()]


class OutdatedProfileError(InputError):
    """A profile that was fitted by an earlier version, which knew fewer parameters."""


def load_device(name_or_path: str | Path, *, runtime: str | None = None) -> Device:
    """A shipped device by name, or any device file by path, its own profile laid over it.

    Args:
        name_or_path: Name of a shipped device, path of a file, or "NAME@RUNTIME".
        runtime: Lay the shipped profile of this runtime over it; None: as the file stands.

    Raises:
        InputError: unknown name (with the nearest ones), no profile of that runtime (with those
            that exist), or a file with problems, all of them.
        OutdatedProfileError: its profile was fitted by an earlier version.
    """
    text = str(name_or_path)
    if runtime is None and "@" in text and not Path(text).is_file():
        text, _, runtime = text.rpartition("@")
    device = _load(text)
    return device if runtime is None else overlay(device, _shipped(device.name, runtime))


def _shipped(device: str, runtime: str) -> Profile:
    """The shipped profile of a device and runtime."""
    if (device, runtime) not in profile_names():
        there = [name for _, name in profile_names(device)]
        known = f"there are {', '.join(there)}" if there else "this device has none"
        text = f"no profile of {device} for this runtime; {known}, or calibrate it"
        raise InputError.one("profiles", "runtime", runtime, text)
    return load_profile(profile_file(device, runtime))


def _load(text: str) -> Device:
    path = Path(text)
    if path.suffix != ".toml" and not path.is_file():
        path = FOLDER / f"{text}.toml"
        if not path.is_file():
            raise InputError.one("devices", "name", text, _not_found(text))
    file, data = text, read_toml(path)
    problems: list[Problem] = []
    device = _device(data, file, problems)
    profile = read_profile(data["profile"], file, problems) if "profile" in data else None
    if problems or device is None:
        raise InputError(problems)
    if profile is None:
        return device
    lacking = sorted(set(parameters_of(device.kind)) - set(profile.model))
    if lacking and profile.tool == CALIBRATION_TOOL:  # a fit leaves no parameter out
        raise OutdatedProfileError.one(
            file,
            "profile.model",
            None,
            f"lacks {lacking[0]} and {len(lacking) - 1} more: an earlier version made this "
            "profile; run `dynsearch calibrate` again",
        )
    return overlay(device, profile)


def overlay(device: Device, profile: Profile) -> Device:
    """The device with the profile's parameters in place of its own.

    Raises:
        InputError: the profile belongs to another device or sets what it may not.
    """
    problems: list[Problem] = []
    if profile.base != device.name:
        problems.append(
            Problem(
                f"profile {profile.name}",
                "base",
                profile.base,
                f"the profile was fitted for another device than {device.name}; "
                "calibrate this one or load the device that it names",
            )
        )
    known = parameters_of(device.kind)
    problems += [
        Problem(f"profile {profile.name}", f"model.{name}", str(value), may_not_set(name))
        for name, value in profile.model.items()
        if name not in known
    ]
    if problems:
        raise InputError(problems)
    source = f"{profile.tool}, {profile.date}, {profile.n} rows"
    calibrated = {
        f"model.{name}": Quantity(
            value=value,
            dimension=known[name].dimension,
            source=source,
            grade="measured",
            origin=f"profile:{profile.name}",
        )
        for name, value in profile.model.items()
    }
    return replace(
        device,
        quantities={**device.quantities, **calibrated},
        profile=profile,
        learned=profile.learned,
    )


def with_parameters(device: Device, values: Mapping[str, float]) -> Device:
    """The device with parameters of its form set to SI values, as a fit tries them."""
    known = parameters_of(device.kind)
    changed = {
        f"model.{name}": Quantity(
            value=float(value),
            dimension=known[name].dimension,
            source="set by hand or by a fit",
            grade="estimate",
        )
        for name, value in values.items()
    }
    return replace(device, quantities={**device.quantities, **changed})


def _not_found(name: str) -> str:
    names = device_names()
    inside = [n for n in names if name and name.lower() in n]
    near = inside or difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names
    return (
        f"no such device; nearest: {', '.join(near)}. Give a path to a device file, "
        "or make one for this machine with dynsearch calibrate"
    )


def _device(data: Mapping[str, Any], file: str, problems: list[Problem]) -> Device | None:
    def complain(key: str, value: object, message: str) -> None:
        problems.append(Problem(file, key, "" if value is None else str(value), message))

    _check_version(data, complain)
    for key in ("name", "kind", "summary"):
        if not isinstance(data.get(key), str) or not data[key]:
            complain(key, data.get(key), "is missing; write a text")
    kind = data.get("kind")
    if isinstance(kind, str) and kind not in FORM_NAMES:
        complain("kind", kind, f"unknown class of device; use one of {', '.join(FORM_NAMES)}")
    known = {"schema_version", "name", "kind", "summary", "profile", "model", *FACTS}
    for key in sorted(set(data) - known):
        complain(key, None, unknown_key(key, known))
    if kind not in FORM_NAMES:
        return None
    model = {p.name: p.dimension for p in parameters_of(kind).values()}
    quantities: dict[str, Quantity] = {}
    for section, stems in {**FACTS, "model": model}.items():
        table = data.get(section, {})
        if not isinstance(table, dict):
            complain(section, table, "must be a table of numbers")
            continue
        for key, entry in table.items():
            read = _quantity(f"{section}.{key}", key, entry, stems, complain)
            if read is not None:
                quantities[f"{section}.{read[0]}"] = read[1]
    for key in REQUIRED:
        if key not in quantities and not any(p.key.startswith(key) for p in problems):
            complain(key, None, "is missing; state it with unit, source and grade")
    _check_ceilings(kind, quantities, complain)
    warnings = device_checks.check(data, kind, quantities, complain)
    return Device(
        name=str(data.get("name")),
        kind=kind,
        summary=str(data.get("summary")),
        quantities=quantities,
        warnings=warnings,
    )


def _check_version(data: Mapping[str, Any], complain: Any) -> None:
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        complain(
            "schema_version",
            version,
            f"this version reads schema_version = {SCHEMA_VERSION}; update dynsearch or the file",
        )


def _check_ceilings(kind: str, quantities: Mapping[str, Quantity], complain: Any) -> None:
    for name, p in parameters_of(kind).items():
        found = quantities.get(f"model.{name}")
        if found is not None and p.ceiling is not None and found.value > p.ceiling:
            complain(
                f"model.{name}",
                found.value,
                f"is above {p.ceiling:g}: an efficiency above 1 means that the peak is wrong",
            )


def _quantity(
    dotted: str, key: str, entry: object, stems: Mapping[str, str], complain: Any
) -> tuple[str, Quantity] | None:
    """(stem, quantity) of one entry, or None after complaining."""
    stem, unit = split_key(key)
    if stem not in stems:
        complain(dotted, None, unknown_key(stem, stems))
        return None
    if unit.dimension != stems[stem]:
        complain(dotted, None, f"needs a unit of {stems[stem]} at the end of its key")
        return None
    if not isinstance(entry, dict):
        complain(dotted, entry, 'write { value = ..., source = "...", grade = "..." }')
        return None
    fine = True
    for extra in sorted(set(entry) - {"value", "source", "grade"}):
        complain(f"{dotted}.{extra}", entry[extra], "unknown key; use value, source, grade")
        fine = False
    value, source, grade = entry.get("value"), entry.get("source"), entry.get("grade")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        complain(f"{dotted}.value", value, "must be a finite number")
        fine = False
    elif value < 0 or (value == 0 and not dotted.startswith("model.")):
        complain(f"{dotted}.value", value, "must be positive")
        fine = False
    if not isinstance(source, str) or not source.strip():
        complain(f"{dotted}.source", source, "is missing; say where the number comes from")
        fine = False
    if grade not in GRADES:
        complain(f"{dotted}.grade", grade, f"use one of {', '.join(GRADES)}")
        fine = False
    if not fine:
        return None
    assert isinstance(value, int | float)
    return stem, Quantity(
        value=to_si(float(value), unit),
        dimension=unit.dimension,
        source=str(source),
        grade=str(grade),
    )
