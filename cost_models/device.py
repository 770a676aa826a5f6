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
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.forms import FORM_NAMES, parameters_of
from cost_models.units import SHOWN, split_key, to_si
from search_spaces.candidate import DTYPES, PLAIN_DTYPE
from search_spaces.errors import InputError, Problem
from search_spaces.ops import KINDS

SCHEMA_VERSION = 1
GRADES: tuple[str, ...] = ("vendor", "measured", "secondary", "estimate")
FOLDER = Path(__file__).parent / "devices"

# Section -> stem -> dimension of its unit.
CALIBRATION_TOOL = "dynsearch calibrate"  # `tool` of a profile that was fitted here
FACTS: dict[str, dict[str, str]] = {
    "peak": dict.fromkeys(DTYPES, "flops_per_s"),
    "memory": {"capacity": "bytes", "bandwidth": "bytes_per_s"},
    "cache": {"l1": "bytes", "l2": "bytes", "l3": "bytes", "on_chip": "bytes"},
    "compute": {"units": "number", "clock": "per_s", "array": "number"},
    "power": {"idle": "w", "max": "w"},
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
class Profile:
    """What was fitted to measurements of one device, runtime and thread count."""

    name: str
    base: str
    date: str
    tool: str
    driver: str
    runtime: str
    threads: int
    n: int
    mape: float  # of groups left out of the fit
    machine: str
    shared_log_sd: float
    residual_log_sd: Mapping[str, float]  # by operator kind
    covered: Mapping[str, tuple[float, float]]  # smallest and largest m, k, n measured
    model: Mapping[str, float]  # parameter name -> SI value


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device: facts and parameters by dotted key, everything in SI units."""

    name: str
    kind: str  # one of FORM_NAMES
    summary: str
    quantities: Mapping[str, Quantity]
    profile: Profile | None = None
    warnings: tuple[str, ...] = field(default=())

    def get(self, key: str) -> float:
        """The number at a dotted key such as `memory.bandwidth`; NaN where nothing is known."""
        found = self.quantities.get(key)
        return math.nan if found is None else found.value

    def parameter(self, name: str) -> float:
        """A parameter of the form: stated, calibrated, or the form's default."""
        found = self.quantities.get(f"model.{name}")
        return parameters_of(self.kind)[name].default if found is None else found.value

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
                        "value": p.default,
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


def load_device(name_or_path: str | Path) -> Device:
    """A shipped device by name, or any device file by path, its own profile laid over it.

    Raises:
        InputError: unknown name (with the nearest ones) or a file with problems, all of them.
        OutdatedProfileError: its profile was fitted by an earlier version.
    """
    text = str(name_or_path)
    path = Path(text)
    if path.suffix != ".toml" and not path.is_file():
        path = FOLDER / f"{text}.toml"
        if not path.is_file():
            raise InputError.one("devices", "name", text, _not_found(text))
    file, data = str(name_or_path), _read(path)
    problems: list[Problem] = []
    device = _device(data, file, problems)
    profile = _profile(data["profile"], file, problems) if "profile" in data else None
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


def load_profile(path: str | Path) -> Profile:
    """The profile in a file: a profile of its own, or the one beside a device.

    Raises:
        InputError: no profile in it, or problems, all of them.
    """
    data = _read(Path(path))
    if "profile" not in data:
        raise InputError.one(
            path, "profile", None, "the file has no table [profile]; write one with calibrate"
        )
    problems: list[Problem] = []
    profile = _profile(data["profile"], str(path), problems)
    if problems or profile is None:
        raise InputError(problems)
    return profile


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
        Problem(f"profile {profile.name}", f"model.{name}", str(value), _may_not_set(name))
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
    return replace(device, quantities={**device.quantities, **calibrated}, profile=profile)


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
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names
    return (
        f"no such device; nearest: {', '.join(near)}. Give a path to a device file, "
        "or make one for this machine with dynsearch calibrate"
    )


def _may_not_set(name: str) -> str:
    if name.split(".")[0] in FACTS or split_key(name)[0] in DTYPES or name.startswith("peak"):
        return "a profile may not set facts of the device such as peaks; remove this key"
    return "this is no parameter that can be calibrated; remove this key"


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise InputError.one(
            path, "", None, f"cannot be read ({error.strerror}); check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError.one(path, "", None, f"is not valid TOML: {error}") from error


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
        complain(key, None, _unknown(key, known))
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
    return Device(
        name=str(data.get("name")),
        kind=kind,
        summary=str(data.get("summary")),
        quantities=quantities,
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
        complain(dotted, None, _unknown(stem, stems))
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


def _unknown(key: str, known: Mapping[str, Any] | set[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"unknown key; did you mean {near[0]}?" if near else "unknown key; remove it"


def _profile(table: object, file: str, problems: list[Problem]) -> Profile | None:
    def complain(key: str, value: object, message: str) -> None:
        shown = "" if value is None else str(value)
        problems.append(Problem(file, f"profile.{key}", shown, message))

    before = len(problems)
    if not isinstance(table, dict):
        complain("", table, "must be a table")
        return None
    texts = ("name", "base", "date", "tool", "driver", "runtime", "machine")
    counts, numbers = ("threads", "n"), ("mape", "shared_log_sd")
    tables = ("residual_log_sd", "covered", "model")
    for key in sorted(set(table) - {*texts, *counts, *numbers, *tables}):
        complain(key, table[key], _unknown(key, {*texts, *counts, *numbers, *tables}))
    for key in texts:
        if not isinstance(table.get(key), str):
            complain(key, table.get(key), "is missing; write a text")
    for key in (*counts, *numbers):
        _check_number(table.get(key), key, complain)
    for key in tables:
        if not isinstance(table.get(key), dict):
            complain(key, table.get(key), "is missing; write a table")
    if len(problems) > before:
        return None
    for kind, value in table["residual_log_sd"].items():
        if kind not in KINDS:
            complain(f"residual_log_sd.{kind}", value, f"no operator kind: {', '.join(KINDS)}")
        _check_number(value, f"residual_log_sd.{kind}", complain)
    model = dict(_profile_model(table["model"], complain))
    if len(problems) > before:
        return None
    return Profile(
        **{key: table[key] for key in (*texts, *counts)},
        mape=float(table["mape"]),
        shared_log_sd=float(table["shared_log_sd"]),
        residual_log_sd={k: float(v) for k, v in table["residual_log_sd"].items()},
        covered={k: (float(v[0]), float(v[1])) for k, v in table["covered"].items()},
        model=model,
    )


def _check_number(value: object, key: str, complain: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        complain(key, value, "must be a number")
    elif not math.isfinite(value) or value < 0:
        complain(key, value, "must be finite and not negative")


def _profile_model(table: Mapping[str, Any], complain: Any) -> Iterator[tuple[str, float]]:
    """(parameter, SI value) for what any form can calibrate; complains about the rest."""
    known = {name: p for kind in FORM_NAMES for name, p in parameters_of(kind).items()}
    for key, value in table.items():
        stem, unit = split_key(key)
        if stem not in known:
            complain(f"model.{key}", value, _may_not_set(key))
            continue
        if unit.dimension != known[stem].dimension:
            complain(f"model.{key}", value, f"needs a unit of {known[stem].dimension}")
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            complain(f"model.{key}", value, "must be a number, not negative")
            continue
        ceiling = known[stem].ceiling
        if ceiling is not None and value > ceiling:
            complain(f"model.{key}", value, f"is above {ceiling:g}: the peak would be wrong")
            continue
        yield stem, to_si(float(value), unit)
