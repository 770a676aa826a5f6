"""What the search achieved: one named configuration per allowed loss, against fair rivals.

The rules are those by which points were named before the report rows were opened: the fastest
configuration whose `error_bound` allows the loss. A level whose named point misses it on the
report rows is reported as missed; no other point takes its place. The rival of every level is the
best *static truncation* (the first k layers, no checks) that the same rule allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynsearch.export.records import LOSS_LEVELS, Front, FrontPoint

STATIC_FAMILIES = ("truncated", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Ratios of the full network's time per sample to the configuration's."""

    predicted: float | None
    measured: float | None

    @property
    def best(self) -> float | None:
        """The measured one where there is one."""
        return self.predicted if self.measured is None else self.measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One allowed loss on one device in one dtype."""

    loss: float
    dtype: str
    point: FrontPoint | None  # None: nothing is allowed
    speed: Speed  # against the full network in the same dtype
    dtype_speed: float | None  # full network in fp32 over full network in this dtype
    static: FrontPoint | None
    static_speed: Speed

    @property
    def state(self) -> str:
        """none, unconfirmed, held or missed (confirmed loss above the level)."""
        if self.point is None:
            return "none"
        if self.point.confirmed is None:
            return "unconfirmed"
        return "held" if self.point.confirmed.loss <= self.loss + 1e-12 else "missed"

    @property
    def static_wins(self) -> bool:
        """A static truncation is at least as fast as the named point (or is the named point)."""
        if self.point is None:
            return False
        if self.point.family in STATIC_FAMILIES:
            return True
        pairs = (
            (self.static_speed.measured, self.speed.measured),
            (self.static_speed.predicted, self.speed.predicted),
        )
        for static, dynamic in pairs:
            if static is not None and dynamic is not None:
                return static >= dynamic
        return False


def levels(front: Front, device: str, bench: Mapping[str, Any] | None) -> list[Level]:
    """Levels of `device`, dtype by dtype, losses ascending."""
    mine = [p for p in front.front if p.device == device]
    dtypes = dict.fromkeys(
        [c.dtype for c in front.reference.costs if c.device == device] + [p.dtype for p in mine]
    )
    return [
        _level(front, device, dtype, loss, mine, bench) for dtype in dtypes for loss in LOSS_LEVELS
    ]


def _level(
    front: Front,
    device: str,
    dtype: str,
    loss: float,
    points: list[FrontPoint],
    bench: Mapping[str, Any] | None,
) -> Level:
    same = [p for p in points if p.dtype == dtype]
    named = next((p for p in same if loss in p.named), None)
    allowed = [
        p
        for p in same
        if p.family == "truncated"
        and p.error_bound <= front.reference.selected_error + loss + 1e-12
    ]
    static = min(allowed, key=lambda p: p.predicted.per_sample_s, default=None)
    full, full32 = front.reference.cost(device, dtype), front.reference.cost(device, "fp32")
    return Level(
        loss=loss,
        dtype=dtype,
        point=named,
        speed=speed_of(front, named, bench),
        dtype_speed=full32.per_sample_s / full.per_sample_s if full and full32 else None,
        static=static,
        static_speed=speed_of(front, static, bench),
    )


def speed_of(front: Front, p: FrontPoint | None, bench: Mapping[str, Any] | None) -> Speed:
    """Speed-up of `p` over the full network on the same device in the same dtype."""
    if p is None:
        return Speed(predicted=None, measured=None)
    full = front.reference.cost(p.device, p.dtype)
    seen = measured_full(front, p.dtype, bench, "time_per_sample_s")
    return Speed(
        predicted=full.per_sample_s / p.predicted.per_sample_s if full else None,
        measured=seen / p.measured.time_per_sample_s if seen and p.measured else None,
    )


def measured_full(
    front: Front, dtype: str, bench: Mapping[str, Any] | None, figure: str
) -> float | None:
    """A figure of the full network's bench row in the job's batch, None if not measured."""
    batch = front.workload.get("batch", 1)
    for row in (bench or {}).get("rows", ()):
        if (row["family"], row["dtype"], row["batch"]) == ("full", dtype, batch):
            return float(row[figure])
    return None


def verdict(found: list[Level]) -> str:
    """Plain sentences on dynamic against static, over the levels that name a point."""
    named = [x for x in found if x.point is not None]
    if not named:
        return "No configuration within the budgets is allowed at any of the losses."
    many = len({x.dtype for x in named}) > 1
    idle = [x for x in named if x.point is not None and x.point.family == "full"]
    lost = [x for x in named if x.static_wins and x not in idle]
    said = []
    if lost:
        said.append(
            "Static truncation (first layers only, no exit checks) is at least as fast as the "
            f"dynamic configurations at a loss of {_places(lost, many)} points."
        )
    if idle:
        said.append(
            "Nothing faster than the full network is allowed at a loss of "
            f"{_places(idle, many)} points."
        )
    if said:
        return " ".join(said)
    if all(x.static is None for x in named):
        return (
            "No static truncation (first layers only, no exit checks) is allowed at any of "
            "these losses, so there is no static rival."
        )
    return (
        "At every loss that names a configuration it is faster than the best static "
        "truncation (first layers only, no exit checks) that the same rule allows."
    )


def _places(found: list[Level], many: bool) -> str:
    return ", ".join(
        f"{x.loss * 100:g} ({x.dtype})" if many else f"{x.loss * 100:g}" for x in found
    )
