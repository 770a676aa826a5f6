"""Predicted beside measured, on rows that no fit had seen: the table that says what to believe.

Three protocols, never mixed:

    groups left out         the device was measured; whole models, geometries or shape ranges not
    device left out         nothing of the device was measured; parameters come from its siblings
    device left out, 30     the same, and 30 rows of a family, chosen by information, are given

Intervals never come from the errors that they are scored on: known devices use the other folds,
unknown ones other devices under the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters import scan
from cost_models.calibrate.information import choose
from cost_models.calibrate.intervals import cross_conformal, total_log_sd
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
from cost_models.calibrate.subjects import Subject, gather
from cost_models.measured import Measured
from cost_models.roofline import roofline_rows
from cost_models.score_others import other_families
from cost_models.scored import KNOWN, POOLED, UNKNOWN, Scored, calibrated, scores
from cost_models.scores import Score
from search_spaces.errors import InputError, Problem

F64 = NDArray[np.float64]

GIVEN = 30  # rows of an unknown device
__all__ = ["GIVEN", "KNOWN", "POOLED", "UNKNOWN", "Report", "validate"]

ROWS = 2500  # that one fit looks at
LARGEST = 3000  # rows of a table that are scored; more are thinned
UNSEEN = 0.3  # residual log error of a family that no sibling has


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a validation found."""

    rows: tuple[Score, ...]
    read: dict[str, str]  # file -> adapter
    unrecognised: tuple[str, ...]
    warnings: tuple[str, ...]


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
    subjects, warnings = gather(thinned_table(table) for table in found.tables)
    warnings += [str(p) for p in found.faulty]
    tell = progress or (lambda share, text: None)
    scored, errors = known_devices(subjects, lambda s, t: tell(s / (2 if unknown else 1), t))
    if unknown:
        scored += unknown_devices(subjects, errors, lambda s, t: tell(0.5 + s / 2, t))
    others, silent = other_families(found.tables, unknown=unknown)
    scored += others
    warnings += silent
    return Report(
        rows=tuple(scores(scored)),
        read=dict(found.read),
        unrecognised=found.unrecognised,
        warnings=tuple(warnings),
    )


def thinned_table(table: Measured) -> Measured:
    """At most LARGEST rows of a table, drawn with a fixed seed, in their order."""
    if len(table) <= LARGEST:
        return table
    kept = np.random.default_rng(0).permutation(len(table))[:LARGEST]
    return table.take(np.sort(kept))


def _nothing(root: Path, unrecognised: Sequence[str]) -> Problem:
    text = "no adapter knows the columns of any file; see cost_models/adapters for those it knows"
    return Problem(str(root), "columns", ", ".join(unrecognised[:5]), text)


def known_devices(
    subjects: Sequence[Subject], tell: Callable[[float, str], None]
) -> tuple[list[Scored], dict[tuple[str, str], float]]:
    """Groups left out, for every subject.

    Returns:
        Scored tables, and the log error of the form by (subject, family) that siblings lend.
    """
    scored: list[Scored] = []
    residual: dict[tuple[str, str], float] = {}
    for i, subject in enumerate(subjects):
        tell(i / len(subjects), subject.name)
        try:
            found = left_out(subject.tables, subject.device, limit=ROWS, learning=True)
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
                    measured=table.seconds,
                    predicted=table.seconds / np.exp(part.log_error),
                    plain=roofline_rows(table, subject.device),
                    log_sd=sd,
                )
            )
            key = (subject.name, table.family)
            residual[key] = total_log_sd(part.form_log_error, np.zeros(len(table)))
    return scored, residual


def _part(found: LeftOut, table: int) -> LeftOut:
    mine = found.table == table
    return LeftOut(
        log_error=found.log_error[mine],
        form_log_error=found.form_log_error[mine],
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
            measured=rows.seconds,
            predicted=seconds,
            plain=roofline_rows(rows, subject.device),
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
