"""Figures as people read them: three significant digits, a unit, a true minus sign."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

_TIME = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
_COUNT = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_ENERGY = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"))


def digits(value: float, places: int = 3) -> str:
    """`value` with `places` significant digits and no exponent: 2.90, 0.0123, 412."""
    if value == 0:
        return "0"
    text = f"{value:#.{places}g}"
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.rstrip(".").replace("-", "\u2212")


def fixed(value: float, places: int) -> str:
    """`value` with so many decimals, halves away from zero as the report's script rounds them."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def scaled(value: float | None, steps: tuple[tuple[float, str], ...], last: str) -> str:
    """`value` in the largest unit of `steps` that leaves at least 1, else in the smallest."""
    if value is None:
        return "\u2013"
    for size, unit in steps:
        if abs(value) >= size * 0.9995:
            return f"{digits(value / size)} {unit}".strip()
    if last:
        return f"{digits(value)} {last}".strip()
    size, unit = steps[-1]
    return f"{digits(value / size)} {unit}"


def seconds(value: float | None) -> str:
    """A time: 1.23 ms."""
    return scaled(value, _TIME, "")


def size(value: float | None) -> str:
    """Bytes: 71.2 MiB."""
    return scaled(value, _BYTES, "B")


def energy(value: float | None) -> str:
    """Joules: 3.20 mJ."""
    return scaled(value, _ENERGY, "")


def flops(value: float | None) -> str:
    """A count of operations: 1.20 G."""
    if value is None:
        return "\u2013"
    return scaled(value, _COUNT, "") if abs(value) >= 1e3 else digits(value)


def points(share: float | None, *, sign: bool = True) -> str:
    """A share of rows as percentage points: +0.63."""
    if share is None:
        return "\u2013"
    text = fixed(share * 100, 2)
    if sign and not text.startswith("-"):
        text = "+" + text
    return text.replace("-", "\u2212").replace("+0.00", "0.00").replace("\u22120.00", "0.00")


def percent(share: float | None, places: int = 1) -> str:
    """A share as per cent: 17.9 %."""
    return "\u2013" if share is None else f"{fixed(share * 100, places)} %"


def times(ratio: float | None) -> str:
    """A speed-up with the multiplication sign behind it."""
    return "\u2013" if ratio is None else f"{digits(ratio)}\u00d7"


def quantity(name: str, value: float | None) -> str:
    """`value` of the objective or budget `name` in the unit that its suffix states."""
    if name.endswith("_s"):
        return seconds(value)
    if name.endswith("_bytes"):
        return size(value)
    if name.endswith("_j"):
        return energy(value)
    if name == "error":
        return percent(value)
    return "\u2013" if value is None else digits(value)
