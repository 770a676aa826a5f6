"""Predicted beside measured, on rows that no fit had seen: the table that says what to believe.

Three protocols, never mixed:

    groups left out         the device was measured; whole models, geometries or shape ranges not
    device left out         nothing of the device was measured; parameters come from its siblings
    device left out, 30     the same, and 30 rows of a family, chosen by information, are given

Intervals never come from the errors that they are scored on: known devices use the other folds,
unknown ones other devices under the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters import scan
from cost_models.calibrate.information import choose
from cost_models.calibrate.intervals import cross_conformal, scale_of_others, total_log_sd
from cost_models.calibrate.posterior import (
    LeftOut,
    Posterior,
    Prior,
    default_prior,
    fit_rows,
    left_out,
    predict_with_spread,
    prior_only,
    sibling_prior,
)
from cost_models.calibrate.subjects import Subject, gather, row_dtypes
from cost_models.measured import Measured
from cost_models.roofline import roofline_rows
from cost_models.scores import Score, agreement, mape
from search_spaces.errors import InputError, Problem

F64 = NDArray[np.float64]

KNOWN = "groups left out"
UNKNOWN = "device left out"
GIVEN = 30  # rows of an unknown device
ROWS = 2500  # that one fit looks at
UNSEEN = 0.3  # residual log error of a family that no sibling has
POOLED = "all"  # device of rows over every device of a family


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a validation found."""

    rows: tuple[Score, ...]
    read: dict[str, str]  # file -> adapter
    unrecognised: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Rows of one table with predictions that had not seen them."""

    table: Measured
    subject: Subject
    protocol: str
    rows_seen: int
    seconds: F64  # [N]
    log_sd: F64  # [N]

    @property
    def error(self) -> F64:
        """log(measured / predicted) [N]."""
        found: F64 = np.log(self.table.seconds / self.seconds)
        return found

    def take(self, rows: NDArray[np.bool_]) -> Scored:
        """Some of the rows."""
        return replace(
            self,
            table=self.table.take(rows),
            seconds=self.seconds[rows],
            log_sd=self.log_sd[rows],
        )


def validate(
    root: Path,
    *,
    unknown: bool = True,
    progress: Callable[[float, str], None] | None = None,
) -> Report:
    """Score every table that an adapter recognises in a data folder.

    Args:
        root: Folder with measured CSV files of any layout.
        unknown: Also score devices that are left out altogether.
        progress: Called with the share that is done and what is being fitted.

    Raises:
        InputError: no table was recognised, or those that were are all faulty.
    """
    found = scan(root)
    if not found.tables:
        raise InputError(found.faulty or [_nothing(root, found.unrecognised)])
    subjects, warnings = gather(found.tables)
    warnings += [str(p) for p in found.faulty]
    tell = progress or (lambda share, text: None)
    scored, errors = known_devices(subjects, lambda s, t: tell(s / (2 if unknown else 1), t))
    if unknown:
        scored += unknown_devices(subjects, errors, lambda s, t: tell(0.5 + s / 2, t))
    return Report(
        rows=tuple(scores(scored)),
        read=dict(found.read),
        unrecognised=found.unrecognised,
        warnings=tuple(warnings),
    )


def _nothing(root: Path, unrecognised: Sequence[str]) -> Problem:
    text = "no adapter knows the columns of any file; see cost_models/adapters for those it knows"
    return Problem(str(root), "columns", ", ".join(unrecognised[:5]), text)


def known_devices(
    subjects: Sequence[Subject], tell: Callable[[float, str], None]
) -> tuple[list[Scored], dict[tuple[str, str], float]]:
    """Groups left out, for every subject.

    Returns:
        Scored tables, and the residual log error by (subject, family) that siblings lend.
    """
    scored: list[Scored] = []
    residual: dict[tuple[str, str], float] = {}
    for i, subject in enumerate(subjects):
        tell(i / len(subjects), subject.name)
        try:
            found = left_out(subject.tables, subject.device, limit=ROWS)
        except InputError:  # a single row or group: nothing to leave out
            continue
        for number, table in enumerate(subject.tables):
            part = _part(found, number)
            sd = cross_conformal(part.log_error, part.parameter_log_sd, part.fold)
            scored.append(
                Scored(
                    table=table,
                    subject=subject,
                    protocol=KNOWN,
                    rows_seen=0,
                    seconds=table.seconds / np.exp(part.log_error),
                    log_sd=sd,
                )
            )
            key = (subject.name, table.family)
            residual[key] = total_log_sd(part.log_error, part.parameter_log_sd)
    return scored, residual


def _part(found: LeftOut, table: int) -> LeftOut:
    mine = found.table == table
    return LeftOut(
        log_error=found.log_error[mine],
        parameter_log_sd=found.parameter_log_sd[mine],
        fold=found.fold[mine],
        group=found.group[mine],
        table=found.table[mine],
    )


def unknown_devices(
    subjects: Sequence[Subject],
    residual: dict[tuple[str, str], float],
    tell: Callable[[float, str], None],
) -> list[Scored]:
    """Whole devices left out: with none and with GIVEN of their rows."""
    fitted = {s.name: fit_rows(s.tables, s.device, limit=ROWS) for s in subjects}
    scored: list[Scored] = []
    for i, subject in enumerate(subjects):
        tell(i / len(subjects), subject.name)
        siblings = siblings_of(subject, subjects)
        if not siblings:
            continue
        prior = sibling_prior(default_prior(subject.device), [fitted[s.name] for s in siblings])
        for table in subject.tables:
            lent = [
                residual[s.name, table.family]
                for s in siblings
                if (s.name, table.family) in residual
            ]
            own = float(np.median(lent)) if lent else UNSEEN
            scored += _left_whole(subject, table, prior, own)
    return calibrated(scored)


def siblings_of(subject: Subject, subjects: Sequence[Subject]) -> list[Subject]:
    """Subjects of the same form on other devices: under the same runtime, or else under any."""
    others = [
        s
        for s in subjects
        if s.device.kind == subject.device.kind
        and s.device.name != subject.device.name
        and s.training == subject.training
    ]
    same = [s for s in others if s.runtime == subject.runtime]
    return same or others


def _left_whole(subject: Subject, table: Measured, prior: Prior, residual: float) -> list[Scored]:
    def score(posterior: Posterior, rows: Measured, seen: int) -> Scored:
        seconds, spread = predict_with_spread([rows], subject.device, posterior)
        return Scored(
            table=rows,
            subject=subject,
            protocol=UNKNOWN,
            rows_seen=seen,
            seconds=seconds,
            log_sd=np.hypot(spread, residual),
        )

    before = prior_only(subject.device, prior)
    found = [score(before, table, 0)]
    if len(table) > GIVEN:
        chosen = choose([table], subject.device, before, GIVEN)
        given = fit_rows([table.take(chosen)], subject.device, prior=prior)
        others = np.ones(len(table), dtype=bool)
        others[chosen] = False
        found.append(score(given, table.take(others), GIVEN))
    return found


def calibrated(scored: Sequence[Scored]) -> list[Scored]:
    """Spreads scaled by how the same protocol did on other devices of the form and family."""
    found = []
    for s in scored:
        alike = [o for o in scored if _protocol(o) == _protocol(s)]
        errors = _by_device(alike, [o.error for o in alike])
        spreads = _by_device(alike, [o.log_sd for o in alike])
        factor = scale_of_others(errors, spreads, s.subject.device.name)
        found.append(replace(s, log_sd=s.log_sd * factor))
    return found


def _protocol(s: Scored) -> tuple[object, ...]:
    return s.subject.device.kind, s.table.family, s.rows_seen, s.subject.training


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
    measured = np.concatenate([s.table.seconds for s in group])
    roof = np.concatenate([roofline_rows(s.table, s.subject.device) for s in group])
    peers = {name for s in group for name in s.table.peer_s}
    silent = [np.full(len(s.table), np.nan) for s in group]
    return Score(
        source=", ".join(dict.fromkeys(s.table.source for s in group)),
        device=f"{POOLED} {first.subject.device.kind}" if pooled else first.table.device,
        runtime=POOLED if pooled else first.table.runtime,
        family=first.table.family,
        dtype=dtype,
        level="model" if first.table.family == "end_to_end" else "operator",
        training=first.table.training,
        known_device=first.protocol == KNOWN,
        protocol=first.protocol,
        rows_seen=first.rows_seen,
        **agreement(
            np.concatenate([s.seconds for s in group]),
            measured,
            np.concatenate([s.log_sd for s in group]),
        ),
        roofline_mape=mape(roof, measured),
        peer_mape={
            name: mape(
                np.concatenate(
                    [s.table.peer_s.get(name, e) for s, e in zip(group, silent, strict=True)]
                ),
                measured,
            )
            for name in sorted(peers)
        },
    )
