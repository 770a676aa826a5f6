"""Profiles: what was fitted to measurements of one device and runtime, laid over its file.

A profile may set parameters of the form only, never a peak. Shipped ones lie in `profiles/`, one
file for each device and runtime, `DEVICE--RUNTIME.toml`; `calibrate` writes one beside the device
into the same file. How wrong predictions may be is part of it, as plain numbers:

    shared_log_sd       error of everything on the device together
    network_log_sd      error of whole networks, where some were measured and left out; it holds
                        what their operators are off by, which is then not added to it
    kind_log_sd         error that all operators of a kind share inside one network
    residual_log_sd     error of one shape of a kind on top of it
    covariance          of the logarithms of the fitted parameters, with their `names`

`learned` holds what the form leaves over where many rows were measured: sizes and weights of the
points of `learned.py`.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cost_models.forms import FORM_NAMES, parameters_of
from cost_models.learned import AXES as LEARNED_AXES
from cost_models.learned import Learned
from cost_models.units import split_key, to_si
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError, Problem
from search_spaces.ops import KINDS

SCHEMA_VERSION = 1
CALIBRATION_TOOL = "dynsearch calibrate"  # `tool` of a profile that was fitted here
# Facts of a device.
SECTIONS: tuple[str, ...] = ("peak", "memory", "cache", "compute", "power", "energy")
PROFILES = Path(__file__).parent / "profiles"
AXES: tuple[str, ...] = ("m", "k", "n", "batch")  # columns of the operator table with a range


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
    sources: tuple[str, ...] = ()  # tables that the rows are from
    formats: tuple[str, ...] = ()  # number formats that were measured; empty: not stated
    kind_log_sd: Mapping[str, float] = field(default_factory=dict)  # by operator kind
    network_log_sd: float | None = None  # None: no whole networks were measured
    uncertain: tuple[str, ...] = ()  # P parameters that `log_covariance` is about
    log_covariance: tuple[tuple[float, ...], ...] = ()  # [P][P]
    learned: tuple[Learned, ...] = ()  # what the form leaves over, see `learned.py`


def load_profile(path: str | Path) -> Profile:
    """The profile in a file: a profile of its own, or the one beside a device.

    Raises:
        InputError: no profile in it, another version, or problems, all of them.
    """
    data = read_toml(Path(path))
    if data.get("schema_version") != SCHEMA_VERSION:
        text = (
            f"this version reads schema_version = {SCHEMA_VERSION}; update dynsearch or the file"
        )
        raise InputError.one(path, "schema_version", data.get("schema_version"), text)
    if "profile" not in data:
        raise InputError.one(
            path, "profile", None, "the file has no table [profile]; write one with calibrate"
        )
    problems: list[Problem] = []
    profile = read_profile(data["profile"], str(path), problems)
    if problems or profile is None:
        raise InputError(problems)
    return profile


def profile_file(device: str, runtime: str) -> Path:
    """Where a shipped profile lies, whether it exists or not."""
    return PROFILES / f"{device}--{runtime}.toml"


def profile_names(device: str | None = None) -> list[tuple[str, str]]:
    """(device, runtime) of every shipped profile, or of those of one device."""
    pairs = [tuple(path.stem.split("--", 1)) for path in sorted(PROFILES.glob("*--*.toml"))]
    return [(base, runtime) for base, runtime in pairs if device in (None, base)]


def may_not_set(name: str) -> str:
    """Why a profile may not set a key that is no parameter of a form."""
    if name.split(".")[0] in SECTIONS or split_key(name)[0] in DTYPES or name.startswith("peak"):
        return "a profile may not set facts of the device such as peaks; remove this key"
    return "this is no parameter that can be calibrated; remove this key"


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file.

    Raises:
        InputError: it cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise InputError.one(
            path, "", None, f"cannot be read ({error.strerror}); check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError.one(path, "", None, f"is not valid TOML: {error}") from error


def unknown_key(key: str, known: Mapping[str, Any] | set[str]) -> str:
    """What to say of a key that nobody knows."""
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"unknown key; did you mean {near[0]}?" if near else "unknown key; remove it"


def read_profile(table: object, file: str, problems: list[Problem]) -> Profile | None:
    """The profile that a table [profile] states, or None after adding what is wrong."""

    def complain(key: str, value: object, message: str) -> None:
        shown = "" if value is None else str(value)
        problems.append(Problem(file, f"profile.{key}" if key else "profile", shown, message))

    before = len(problems)
    if not isinstance(table, dict):
        complain("", table, "must be a table")
        return None
    _check_entries(table, complain)
    if len(problems) > before:
        return None
    for name in ("residual_log_sd", "kind_log_sd"):
        for kind, value in table.get(name, {}).items():
            if kind not in KINDS:
                complain(f"{name}.{kind}", value, f"no operator kind: {', '.join(KINDS)}")
            _check_number(value, f"{name}.{kind}", complain)
    _check_covered(table["covered"], complain)
    model = dict(_profile_model(table["model"], complain))
    uncertain, covariance = _covariance(table.get("covariance"), model, complain)
    learned = tuple(_learned(table.get("learned", []), complain))
    if len(problems) > before:
        return None
    return Profile(
        **{key: table[key] for key in (*TEXTS, *COUNTS)},
        mape=float(table["mape"]),
        shared_log_sd=float(table["shared_log_sd"]),
        residual_log_sd={k: float(v) for k, v in table["residual_log_sd"].items()},
        covered={k: (float(v[0]), float(v[1])) for k, v in table["covered"].items()},
        model=model,
        sources=tuple(table.get("sources", ())),
        formats=tuple(table.get("formats", ())),
        kind_log_sd={k: float(v) for k, v in table.get("kind_log_sd", {}).items()},
        network_log_sd=float(table["network_log_sd"]) if "network_log_sd" in table else None,
        uncertain=uncertain,
        log_covariance=covariance,
        learned=learned,
    )


TEXTS = ("name", "base", "date", "tool", "driver", "runtime", "machine")
COUNTS, NUMBERS = ("threads", "n"), ("mape", "shared_log_sd")
TABLES, FURTHER = ("residual_log_sd", "covered", "model"), ("kind_log_sd", "covariance")


def _check_entries(table: Mapping[str, Any], complain: Any) -> None:
    """Every key that a profile must and may have, by its type."""
    lists = {"sources", "formats", "learned"}
    known = {*TEXTS, *COUNTS, *NUMBERS, *TABLES, *FURTHER, *lists, "network_log_sd"}
    for key in sorted(set(table) - known):
        complain(key, table[key], unknown_key(key, known))
    for key in TEXTS:
        if not isinstance(table.get(key), str):
            complain(key, table.get(key), "is missing; write a text")
    for key in (*COUNTS, *NUMBERS, *(["network_log_sd"] if "network_log_sd" in table else ())):
        _check_number(table.get(key), key, complain)
    for key in (*TABLES, *(k for k in FURTHER if k in table)):
        if not isinstance(table.get(key), dict):
            complain(key, table.get(key), "is missing; write a table")
    sources = table.get("sources", [])
    if not isinstance(sources, list) or not all(isinstance(s, str) for s in sources):
        complain("sources", sources, "must be a list of texts")
    formats = table.get("formats", [])
    if not isinstance(formats, list) or not all(f in DTYPES for f in formats):
        complain("formats", formats, f"must be a list of number formats: {', '.join(DTYPES)}")


def _check_covered(table: Mapping[str, Any], complain: Any) -> None:
    for key, value in table.items():
        kind, _, axis = key.rpartition(".")
        if axis not in AXES or kind not in ("", *KINDS):
            text = f"no axis; write one of {', '.join(AXES)}, or KIND.AXIS in quotes"
            complain(f"covered.{key}", value, text)
        fine = isinstance(value, list) and len(value) == 2
        if not fine or not all(isinstance(v, int | float) for v in value):
            complain(f"covered.{key}", value, "write [smallest, largest]")


def _covariance(
    table: Mapping[str, Any] | None, model: Mapping[str, float], complain: Any
) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """Names [P] and the covariance of their logarithms [P][P]; empty where none is stated."""
    if table is None:
        return (), ()
    names, rows = table.get("names"), table.get("log")
    if not isinstance(names, list) or not set(names) <= set(model):
        complain("covariance.names", names, "must name parameters that the profile sets")
        return (), ()
    square = isinstance(rows, list) and [len(r) for r in rows] == [len(names)] * len(names)
    if not square or not all(isinstance(v, int | float) for r in rows or () for v in r):
        complain("covariance.log", None, f"must hold {len(names)} rows of {len(names)} numbers")
        return (), ()
    return tuple(names), tuple(tuple(float(v) for v in row) for row in rows or ())


def _learned(entries: object, complain: Any) -> Iterator[Learned]:
    """What a profile states under `learned`, a list of tables; complains about the rest."""
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        complain("learned", None, "must be a list of tables, [[profile.learned]]")
        return
    for i, entry in enumerate(entries):
        before = f"learned.{i}"
        if entry.get("kind") not in KINDS or entry.get("dtype") not in DTYPES:
            shown = f"{entry.get('kind')}, {entry.get('dtype')}"
            complain(before, shown, "needs an operator kind and a number format that are known")
            continue
        rows = entry.get("points")
        fine = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
        if not fine or not rows or any(len(row) != len(LEARNED_AXES) + 1 for row in rows):
            text = f"must be rows of {', '.join(LEARNED_AXES)} and the weight"
            complain(f"{before}.points", None, text)
            continue
        numbers = [v for row in rows for v in row]
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers) or any(
            v < 1 for row in rows for v in row[:-1]
        ):
            complain(f"{before}.points", None, "sizes must be 1 or more, weights finite")
            continue
        _check_number(entry.get("log_sd"), f"{before}.log_sd", complain)
        table = np.array(rows, dtype=np.float64)
        yield Learned(
            kind=entry["kind"],
            dtype=entry["dtype"],
            log_sd=float(entry.get("log_sd") or 0.0),
            points=np.log(table[:, :-1]),
            weights=table[:, -1],
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
            complain(f"model.{key}", value, may_not_set(key))
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
