"""Links between devices as data, and what a collective over them takes.

    t = start + steps * step + ramp * m / (m + 16 KiB) + soft minimum of two protocols:
        short: wire / (B * short_share)          low start, low bandwidth
        bulk:  bulk + wire / (B * share) + copy * m / B

`m` is the buffer in bytes, `B` the datasheet rate of one direction. A ring of n sends
wire = (n - 1) / n of the buffer in n - 1 steps (gather, scatter), twice that for all_reduce; a
tree (all_reduce over a network) sends as much in 2 log2 n steps; an all_to_all sends it at once,
with a share of its own; switches that add (`in_network`) halve what an all_reduce sends. The two
protocols are what NCCL does. `copy` is the gamma of alpha-beta-gamma models.
Forms: R. Thakur et al., Optimization of Collective Communication Operations in MPICH, 2005
(alpha-beta-gamma, ring, tree); NCCL documentation (low-latency and simple protocols).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.forms import Parameter
from cost_models.units import split_key, to_si
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError, Problem
from search_spaces.ops import COLLECTIVE

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FOLDER = Path(__file__).parent / "links"
SCHEMA_VERSION = 1
GRADES = ("vendor", "measured", "secondary", "estimate")
FABRICS = ("switch", "host", "torus", "network")
EXCHANGES = ("dispatch", "combine", "dispatch_low_latency", "combine_low_latency")
SECTIONS = frozenset(
    {"link", "model", "error", *EXCHANGES, *(f"network_{name}" for name in EXCHANGES)}
)
RAMP_BYTES = 16384.0  # below this a message is one line of the protocol
SOFTNESS = 4.0  # exponent of the soft minimum
NO_SWITCH_SUM = ("int8", "int4")  # switches add floating point only

# Defaults: geometric means of the links that were measured.
PARAMETERS: tuple[Parameter, ...] = (
    Parameter("start", "s", 5.5e-6, 0.4, "one participant starts and hears of the end"),
    Parameter("step", "s", 1.0e-6, 0.4, "one step of a ring"),
    Parameter("exchange_step", "s", 0.45e-6, 0.6, "one more participant of an all_to_all"),
    Parameter("ramp", "s", 1.2e-6, 0.8, "what messages above 16 KiB add"),
    Parameter("exchange_ramp", "s", 4.8e-6, 0.5, "the same of an all_to_all"),
    Parameter("bulk", "s", 12e-6, 0.6, "start of the protocol of large messages"),
    Parameter("short_share", "number", 0.36, 0.3, "share of the rate, small messages", 1.0),
    Parameter("share", "number", 0.85, 0.2, "share of the rate, large messages", 1.0),
    Parameter("exchange_share", "number", 0.80, 0.2, "the same of an all_to_all", 1.0),
    Parameter("pair", "number", 0.90, 0.3, "rate between two, in units of that among more"),
    Parameter("copy", "number", 0.28, 0.7, "local copy and sum per byte, in units of 1 / rate"),
    Parameter("in_network", "number", 0.70, 0.3, "share of the rate, sums in the switch", 1.0),
)
KNOWN = {p.name: p for p in PARAMETERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A number in SI units with where it comes from."""

    value: float
    source: str
    grade: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What joins devices: its rate, how many it joins, and parameters of the form.

    Attributes:
        name: Name of its file.
        fabric: One of FABRICS: through switches, through host bridges, torus, network.
        summary: One line.
        devices: Names of device files that are joined by it.
        bandwidth: Bytes per second of one device in one direction.
        domain: Devices that one such link can join; more need a network.
        sums: Whether its switches can add.
        parameters: By name, as in PARAMETERS; what is absent is the default.
        log_sd: Standard deviation of log(true / predicted).
        measured: Smallest and largest buffer in bytes and participants that were measured.
    """

    name: str
    fabric: str
    summary: str
    devices: tuple[str, ...]
    bandwidth: Stated
    domain: int
    sums: bool
    parameters: Mapping[str, Stated] = field(default_factory=dict)
    log_sd: float = 0.35
    measured: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def parameter(self, name: str) -> float:
        """Its own value or the default of the form."""
        found = self.parameters.get(name)
        return KNOWN[name].default if found is None else found.value

    def with_parameters(self, values: Mapping[str, float], source: str) -> Link:
        """The link with other parameters."""
        stated = {k: Stated(value=v, source=source, grade="measured") for k, v in values.items()}
        return replace(self, parameters={**self.parameters, **stated})


def collective_s(
    link: Link, code: I64, message_bytes: F64, participants: I64, dtype: I64 | None = None
) -> F64:
    """Seconds of collectives over one kind of link [R].

    Args:
        link: What joins the participants.
        code: Index into `ops.COLLECTIVES` [R]; dispatch and combine belong to `exchange`.
        message_bytes: Buffer of one participant [R].
        participants: How many take part [R]; one alone takes no time.
        dtype: Index into DTYPES [R], for sums in switches; None: a type that they can add.

    Returns:
        Seconds [R].
    """
    m, n = np.asarray(message_bytes, dtype=np.float64), np.asarray(participants, dtype=np.float64)
    reduces = code == COLLECTIVE["all_reduce"]
    exchange = code == COLLECTIVE["all_to_all"]
    direct = code == COLLECTIVE["point_to_point"]
    p = {name: link.parameter(name) for name in KNOWN}
    apart = np.where(direct, 1.0, (n - 1) / np.maximum(n, 1))
    wire = m * apart * np.where(reduces, 2.0, 1.0)
    steps = _steps(link, reduces, exchange, direct, n, p)
    start = p["start"] + steps
    start = start + np.where(exchange, p["exchange_ramp"], p["ramp"]) * m / (m + RAMP_BYTES)
    share = np.where(exchange, p["exchange_share"], p["share"])
    rate = link.bandwidth.value * np.minimum(share * np.where(n > 2, 1.0, p["pair"]), 1.0)
    copied = np.where(direct, 0.0, p["copy"] * m / link.bandwidth.value)
    bulk = p["bulk"] + wire / rate + copied
    if link.sums:
        can = reduces & ~_is_one_of(dtype, NO_SWITCH_SUM, m.shape)
        added = p["bulk"] + m / (link.bandwidth.value * p["in_network"]) + copied
        bulk = np.where(can, np.minimum(bulk, added), bulk)
    short = wire / (rate * p["short_share"])
    seconds: F64 = np.where(n > 1, start + _soft_minimum(short, bulk), 0.0)
    return seconds


def _steps(
    link: Link,
    reduces: NDArray[np.bool_],
    exchange: NDArray[np.bool_],
    direct: NDArray[np.bool_],
    n: F64,
    p: Mapping[str, float],
) -> F64:
    """Seconds of the steps: ring, over networks the shorter of ring and tree, exchange."""
    ring = (n - 1) * np.where(reduces, 2, 1)
    if link.fabric == "network":
        tree = 2 * np.ceil(np.log2(np.maximum(n, 1)))
        ring = np.where(reduces, np.minimum(ring, tree), ring)
    steps = np.where(exchange, (n - 1) * p["exchange_step"], ring * p["step"])
    found: F64 = np.where(direct, p["step"], steps)
    return found


def _soft_minimum(a: F64, b: F64) -> F64:
    low = np.minimum(a, b)
    ratio = low / np.where(low > 0, np.maximum(a, b), 1.0)
    found: F64 = low * (1 + ratio**SOFTNESS) ** (-1 / SOFTNESS)
    return found


def _is_one_of(
    dtype: I64 | None, names: tuple[str, ...], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    if dtype is None:
        return np.zeros(shape, dtype=bool)
    return np.isin(dtype, [DTYPES.index(name) for name in names if name in DTYPES])


def link_names() -> list[str]:
    """Names of the shipped links."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def link_of(device: str) -> Link | None:
    """The shipped link that joins devices of this name; None where none is known."""
    for name in link_names():
        link = load_link(name)
        if device in link.devices:
            return link
    return None


def load_link(name_or_path: str | Path) -> Link:
    """A shipped link by name, or any link file by path.

    Raises:
        InputError: no such link, or a file with problems, all of them.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = FOLDER / f"{name_or_path}.toml"
        if not path.is_file():
            known = ", ".join(link_names())
            raise InputError.one(
                "links", "name", name_or_path, f"no such link; use one of {known}"
            )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError.one(path, "", None, f"cannot be read as TOML: {error}") from error
    return _link(data, str(path))


def _link(data: Mapping[str, Any], file: str) -> Link:
    problems: list[Problem] = []

    def complain(key: str, value: object, message: str) -> None:
        problems.append(Problem(file, key, "" if value is None else str(value), message))

    if data.get("schema_version") != SCHEMA_VERSION:
        complain("schema_version", data.get("schema_version"), f"must be {SCHEMA_VERSION}")
    if data.get("fabric") not in FABRICS:
        complain("fabric", data.get("fabric"), f"use one of {', '.join(FABRICS)}")
    known = {"schema_version", "name", "fabric", "summary", "devices", "domain", "sums"}
    for key in sorted(set(data) - known - SECTIONS):
        complain(key, None, "unknown key; remove it")
    rates = _numbers(data.get("link", {}), "link", {"bandwidth": "bytes_per_s"}, complain)
    if "bandwidth" not in rates and not problems:
        complain("link.bandwidth_gb_per_s", None, "is missing; state the rate of one direction")
    model = _numbers(
        data.get("model", {}), "model", {p.name: p.dimension for p in PARAMETERS}, complain
    )
    for name, stated in model.items():
        ceiling = KNOWN[name].ceiling
        if ceiling is not None and stated.value > ceiling:
            complain(f"model.{name}", stated.value, f"is above {ceiling:g}: the rate is wrong")
    if problems:
        raise InputError(problems)
    error = data.get("error", {})
    return Link(
        name=str(data["name"]),
        fabric=str(data["fabric"]),
        summary=str(data.get("summary", "")),
        devices=tuple(data.get("devices", ())),
        bandwidth=rates["bandwidth"],
        domain=int(data.get("domain", 1)),
        sums=bool(data.get("sums", False)),
        parameters=model,
        log_sd=float(error.get("log_sd", 0.35)),
        measured={k: (float(v[0]), float(v[1])) for k, v in error.get("measured", {}).items()},
    )


def _numbers(
    table: Mapping[str, Any], section: str, stems: Mapping[str, str], complain: Any
) -> dict[str, Stated]:
    found = {}
    for key, entry in table.items():
        stem, unit = split_key(key)
        dotted = f"{section}.{key}"
        if stem not in stems:
            complain(dotted, None, f"unknown key; use one of {', '.join(stems)}")
        elif unit.dimension != stems[stem]:
            complain(dotted, None, f"needs a unit of {stems[stem]} at the end of its key")
        elif not isinstance(entry, dict) or set(entry) != {"value", "source", "grade"}:
            complain(dotted, entry, 'write { value = ..., source = "...", grade = "..." }')
        elif isinstance(entry["value"], bool) or not isinstance(entry["value"], int | float):
            complain(f"{dotted}.value", entry["value"], "must be a number")
        elif not 0 < entry["value"] < float("inf"):
            complain(f"{dotted}.value", entry["value"], "must be positive and finite")
        elif entry["grade"] not in GRADES or not str(entry["source"]).strip():
            complain(dotted, entry["grade"], f"needs a source and a grade of {', '.join(GRADES)}")
        else:
            value = to_si(float(entry["value"]), unit)
            found[stem] = Stated(value=value, source=entry["source"], grade=entry["grade"])
    return found
