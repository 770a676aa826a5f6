"""Predictions beside what was measured, and the rows of the validation table made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models.calibrate.intervals import Own, scale_of_others
from cost_models.calibrate.subjects import Subject, row_dtypes
from cost_models.measured import Measured
from cost_models.scores import Score, agreement, mape

F64 = NDArray[np.float64]

KNOWN = "groups left out"
ROW = "row left out"  # energy, where a device has a handful of rows
UNKNOWN = "device left out"
TASK = "task left out"
RELATIVE = "beside relatives"
POOLED = "all"  # device of rows over every device of a family


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Rows of one table with predictions that had not seen them.

    Attributes:
        table: The rows.
        subject: Their device and runtime.
        protocol: What was left out.
        rows_seen: Rows of an unknown device that the fit was given.
        measured: Seconds, or joules in the family "energy" [N].
        predicted: The same of the model [N].
        plain: The same of the datasheet alone [N]: a roofline; joules at full board power.
        log_sd: Claimed standard deviation of log(measured / predicted) [N].
        own: How the rows of an unknown device that the fit was given do when left out.
    """

    table: Measured
    subject: Subject
    protocol: str
    rows_seen: int
    measured: F64
    predicted: F64
    plain: F64
    log_sd: F64
    own: Own | None = None

    @property
    def error(self) -> F64:
        """log(measured / predicted) [N]."""
        found: F64 = np.log(self.measured / self.predicted)
        return found

    def take(self, rows: NDArray[np.bool_]) -> Scored:
        """Some of the rows."""
        return replace(
            self,
            table=self.table.take(rows),
            measured=self.measured[rows],
            predicted=self.predicted[rows],
            plain=self.plain[rows],
            log_sd=self.log_sd[rows],
        )


def calibrated(scored: Sequence[Scored]) -> list[Scored]:
    """Spreads scaled by how the same protocol did on other devices of the form and family."""
    alike: dict[tuple[object, ...], list[Scored]] = {}
    for s in scored:
        alike.setdefault(_protocol(s), []).append(s)
    found = []
    for part in alike.values():
        errors = _by_device(part, [o.error for o in part])
        spreads = _by_device(part, [o.log_sd for o in part])
        for s in part:
            factor = scale_of_others(errors, spreads, s.subject.device.name, s.own)
            found.append(replace(s, log_sd=s.log_sd * factor))
    return found


def _protocol(s: Scored) -> tuple[object, ...]:
    return s.protocol, s.subject.device.kind, s.table.family, s.rows_seen, s.subject.training


def _by_device(scored: Sequence[Scored], values: Sequence[F64]) -> dict[str, F64]:
    names = dict.fromkeys(s.subject.device.name for s in scored)
    return {
        name: np.concatenate(
            [v for s, v in zip(scored, values, strict=True) if s.subject.device.name == name]
        )
        for name in names
    }


def scores(scored: Iterable[Scored]) -> list[Score]:
    """A row a device, runtime, family, format and protocol; then those pooled over devices."""
    parts: dict[tuple[object, ...], list[Scored]] = {}
    pooled: dict[tuple[object, ...], list[Scored]] = {}
    for s in scored:
        dtypes = row_dtypes(s.table)
        for dtype in np.unique(dtypes):
            mine = s.take(dtypes == dtype)
            key = (s.protocol, s.rows_seen, s.table.family, s.table.training, str(dtype))
            parts.setdefault((*key, s.table.device, s.table.runtime), []).append(mine)
            pooled.setdefault((*key[:4], s.subject.device.kind), []).append(mine)
    rows = [_score(group, dtype=str(key[4]), pooled=False) for key, group in sorted_parts(parts)]
    rows += [_score(group, dtype=POOLED, pooled=True) for _, group in sorted_parts(pooled)]
    return rows


def sorted_parts(
    parts: dict[tuple[object, ...], list[Scored]],
) -> list[tuple[tuple[object, ...], list[Scored]]]:
    """By protocol, family and device, so that tables compare like with like."""
    return sorted(parts.items(), key=lambda item: tuple(str(v) for v in item[0]))


def _score(group: Sequence[Scored], *, dtype: str, pooled: bool) -> Score:
    first = group[0]
    measured = np.concatenate([s.measured for s in group])
    roof = np.concatenate([s.plain for s in group])
    peers = {name for s in group for name in s.table.peer_s}
    silent = [np.full(len(s.table), np.nan) for s in group]
    said = {
        name: mape(
            np.concatenate(
                [s.table.peer_s.get(name, e) for s, e in zip(group, silent, strict=True)]
            ),
            measured,
        )
        for name in sorted(peers)
    }
    return Score(
        source=", ".join(dict.fromkeys(s.table.source for s in group)),
        device=f"{POOLED} {first.subject.device.kind}" if pooled else first.table.device,
        runtime=POOLED if pooled else first.table.runtime,
        family=first.table.family,
        dtype=dtype,
        level="model" if first.table.family == "end_to_end" else "operator",
        training=first.table.training,
        known_device=first.protocol in (KNOWN, ROW),
        protocol=first.protocol,
        rows_seen=first.rows_seen,
        **agreement(
            np.concatenate([s.predicted for s in group]),
            measured,
            np.concatenate([s.log_sd for s in group]),
        ),
        roofline_mape=mape(roof, measured),
        peer_mape={name: value for name, value in said.items() if np.isfinite(value)},
    )
