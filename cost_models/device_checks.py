"""Numbers of a device file that are impossible (errors) or look like a slip (warnings).

Called by `device.load_device` when every number has been read. What is merely unusual is a warning
with the way out; what no device can be is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cost_models.units import split_key

if TYPE_CHECKING:
    from cost_models.device import Quantity

Complain = Callable[[str, object, str], None]

NO_SOURCE = ("?", "??", "unknown", "none", "n/a", "na", "tbd", "todo", "internet", "web", "google")
GUESSED = re.compile(r"\b(from memory|guess(ed)?|assum(ed|ption)|not checked)\b", re.IGNORECASE)
FIRM = ("vendor", "measured")
# FLOPs per byte of memory traffic at which both limits meet: smallest and largest believable.
BALANCE = (0.05, 20000.0)
SWEEP_S = (1e-4, 200.0)  # time to read the whole memory once
SPARSE = 5.0  # an 8-bit rate above this many 16-bit rates counts zeros that are skipped


def check(
    data: Mapping[str, Any], kind: str, quantities: Mapping[str, Quantity], complain: Complain
) -> tuple[str, ...]:
    """Complain about what is impossible; return warnings about what looks like a slip.

    Args:
        data: The file as it was read.
        kind: Class of the device.
        quantities: Numbers by dotted key, SI.
        complain: Called with key, value and message.
    """
    value = {key: q.value for key, q in quantities.items()}
    _sources(quantities, complain)
    _power(value, complain)
    _energy(kind, quantities, complain)
    _sold_size(data, complain)
    return (*_units(data), *_proportions(value))


def _sources(quantities: Mapping[str, Quantity], complain: Complain) -> None:
    for key, q in quantities.items():
        if q.source.strip().lower() in NO_SOURCE:
            text = 'names no source; say where the number is printed, or grade it "estimate"'
            complain(f"{key}.source", q.source, text + " and say how it was estimated")
        elif q.grade in FIRM and GUESSED.search(q.source):
            text = f'is no ground for the grade "{q.grade}"; grade it "estimate"'
            complain(f"{key}.source", q.source, text)


def _power(value: Mapping[str, float], complain: Complain) -> None:
    idle, top = value.get("power.idle", math.nan), value.get("power.max", math.nan)
    if idle >= top:
        text = f"is not below power.max ({top:g} W); one of the two is wrong"
        complain("power.idle", f"{idle:g}", text)


def _energy(kind: str, quantities: Mapping[str, Quantity], complain: Complain) -> None:
    from cost_models.energy import range_of  # which reads devices itself

    for key, q in quantities.items():
        name = key.removeprefix("energy.")
        if name == key or q.dimension == "w":
            continue
        low, high = range_of(kind, name)
        if not low <= q.value <= high:
            text = (
                f"is outside what the literature has, {low * 1e12:g} to {high * 1e12:g} pJ "
                "(cost_models/energy.toml); leave it out and it follows from the power budget"
            )
            complain(key, f"{q.value * 1e12:g}", text)


def _sold_size(data: Mapping[str, Any], complain: Complain) -> None:
    """A capacity in GiB that is the number in the name: parts are sold in GB unless round."""
    entry = _entry(data, "memory", "capacity_gib")
    sold = re.search(r"(?:^|-)(\d+)g(?:b|-|$)", str(data.get("name", "")))
    if entry is None or sold is None or entry.get("grade") == "measured":
        return
    size = entry.get("value")
    if isinstance(size, int | float) and size == float(sold.group(1)) and size % 4:
        text = (
            f"a part sold as {size:g} GB holds {size:g}e9 bytes, {size * 1e9 / 2**30:.1f} GiB; "
            'write capacity_gb, or grade "measured" if it was counted'
        )
        complain("memory.capacity_gib", size, text)


def _units(data: Mapping[str, Any]) -> Iterator[str]:
    size = _number(data, "memory", "capacity_gib")
    if size is not None and size % 1 and size > 4:
        yield f"memory.capacity_gib = {size:g}: a fraction; is this GB? then write capacity_gb"
    rate = _number(data, "memory", "bandwidth_gib_per_s")
    if rate is not None:
        yield (
            f"memory.bandwidth_gib_per_s = {rate:g}: datasheets print GB/s; if this one does, "
            "write bandwidth_gb_per_s (7 % less)"
        )
    for key in data.get("cache", {}) if isinstance(data.get("cache"), dict) else ():
        stem, unit = split_key(key)
        if unit.suffix in ("mb", "gb"):
            yield f"cache.{key}: caches are sized in MiB; write {stem}_mib unless it was counted"


def _proportions(value: Mapping[str, float]) -> Iterator[str]:
    rate = value.get("memory.bandwidth", math.nan)
    sweep = value.get("memory.capacity", math.nan) / rate
    if not SWEEP_S[0] <= sweep <= SWEEP_S[1] and math.isfinite(sweep):
        yield (
            f"memory: reading all of it once would take {sweep:.3g} s; capacity or bandwidth is "
            "in another unit than its key says"
        )
    peaks = {k.removeprefix("peak."): v for k, v in value.items() if k.startswith("peak.")}
    for name, peak in peaks.items():
        if not BALANCE[0] <= peak / rate <= BALANCE[1] and math.isfinite(rate):
            yield (
                f"peak.{name}: {peak / rate:.3g} FLOPs for each byte of bandwidth; one of the "
                "two is in another unit than its key says"
            )
    plain = max((peaks[n] for n in ("bf16", "fp16") if n in peaks), default=math.nan)
    for name in ("int8", "fp8"):
        if peaks.get(name, 0.0) > SPARSE * plain:
            yield f"peak.{name}: {peaks[name] / plain:.3g} times the 16-bit rate; is it sparse?"


def _entry(data: Mapping[str, Any], section: str, key: str) -> Mapping[str, Any] | None:
    table = data.get(section)
    entry = table.get(key) if isinstance(table, dict) else None
    return entry if isinstance(entry, dict) else None


def _number(data: Mapping[str, Any], section: str, key: str) -> float | None:
    entry = _entry(data, section, key)
    value = None if entry is None else entry.get("value")
    return float(value) if isinstance(value, int | float) else None
