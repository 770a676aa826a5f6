"""Predicted beside measured, on rows that no fit had seen: the table that says what to believe.

Protocols, never mixed; a number is how many rows, chosen by information, a fit was given:

    groups left out         the device was measured; whole models, geometries or shape ranges not
    device left out, 0      nothing of the device was measured; parameters come from its siblings
    device left out, 30     the same, and 30 rows of a family; of whole networks 10 and 20, too
    task left out, 50       50 networks of other tasks were measured on the device, nothing else
    beside relatives, 10    10 networks set a factor on what devices of the same runtime took

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
from cost_models.calibrate.intervals import Own, cross_conformal, total_log_sd
from cost_models.calibrate.posterior import (
    LeftOut,
    Posterior,
    Prior,
    default_prior,
    fit_few,
    fit_rows,
    left_out,
    predict_with_spread,
    prior_only,
    sibling_prior,
)
from cost_models.calibrate.sibling import Sibling, sibling_of, transfer
from cost_models.calibrate.solve import design_effect
from cost_models.calibrate.subjects import FIT_ROWS, Subject, gather
from cost_models.device import Device
from cost_models.measured import Measured
from cost_models.roofline import roofline_rows
from cost_models.score_others import other_families
from cost_models.scored import (
    KNOWN,
    POOLED,
    RELATIVE,
    TASK,
    UNKNOWN,
    Scored,
    calibrated,
    scores,
)
from cost_models.scores import Score
from search_spaces.errors import InputError, Problem

F64 = NDArray[np.float64]

GIVEN = 30  # rows of an unknown device
NETWORKS = "end_to_end"
NETWORKS_GIVEN = (10, 20, GIVEN)  # the same of whole networks, each the first of one order
TASK_GIVEN = 50  # networks of other tasks
RELATIVE_GIVEN = (5, 10)  # networks beside measured relatives
__all__ = ["GIVEN", "KNOWN", "POOLED", "RELATIVE", "TASK", "UNKNOWN", "Report", "validate"]

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
            found = left_out(subject.tables, subject.device, limit=FIT_ROWS, learning=True)
        except InputError:  # a single row or group: nothing to leave out
            continue
        for number, table in enumerate(subject.tables):
            part = _part(found, number)
            sd = cross_conformal(part.log_error, part.parameter_log_sd, part.fold, part.group)
            predicted = table.seconds / np.exp(part.log_error)
            scored.append(_scored(subject, table, predicted, sd, KNOWN, 0))
            key = (subject.name, table.family)
            residual[key] = total_log_sd(part.form_log_error, np.zeros(len(table)), part.group)
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
    """Whole devices left out, with none and with few of their rows; and whole tasks."""
    fitted = {s.name: fit_rows(s.tables, s.device, limit=FIT_ROWS) for s in subjects}
    kin = {s.name: relative_of(s) for s in subjects}
    scored: list[Scored] = []
    for i, subject in enumerate(subjects):
        tell(i / len(subjects), subject.name)
        siblings = siblings_of(subject, subjects)
        if not siblings:
            continue
        prior = sibling_prior(default_prior(subject.device), [fitted[s.name] for s in siblings])
        relatives = [
            k for s in siblings if s.runtime == subject.runtime and (k := kin[s.name]) is not None
        ]
        for table in subject.tables:
            lent = [
                residual[s.name, table.family]
                for s in siblings
                if (s.name, table.family) in residual
            ]
            own = float(np.median(lent)) if lent else UNSEEN
            scored += _left_whole(subject, table, prior, own)
            scored += _left_tasks(subject, table, prior, own)
            if table.family == NETWORKS and relatives:
                scored += _beside_relatives(subject, table, prior, relatives, own)
    return calibrated(scored)


def relative_of(subject: Subject) -> Sibling | None:
    """A subject as a relative of others: its whole networks; None where it has none."""
    networks = [t for t in subject.tables if t.family == NETWORKS]
    return sibling_of(networks, subject.device) if networks else None


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
    before = prior_only(subject.device, prior)
    found = [_predicted(subject, table, before, residual, UNKNOWN, 0)]
    wanted = NETWORKS_GIVEN if table.family == NETWORKS else (GIVEN,)
    counts = [count for count in wanted if count < len(table)]
    if counts:
        order = choose([table], subject.device, before, max(counts))
    for count in counts:
        given, own = fit_few(table.take(order[:count]), subject.device, prior)
        others = np.setdiff1d(np.arange(len(table)), order[:count])
        rows = table.take(others)
        found.append(_predicted(subject, rows, given, residual, UNKNOWN, count, own))
    return found


def _left_tasks(subject: Subject, table: Measured, prior: Prior, residual: float) -> list[Scored]:
    """Each task of a table left out in turn, TASK_GIVEN rows of the others given."""
    found = []
    for name in () if table.task is None else np.unique(table.task):
        others = table.take(table.task != name)
        if len(others) < TASK_GIVEN:
            continue
        before = prior_only(subject.device, prior)
        chosen = choose([others], subject.device, before, TASK_GIVEN)
        given, own = fit_few(others.take(chosen), subject.device, prior)
        own = _between_tasks(subject.device, others.take(chosen), prior) or own
        rows = table.take(table.task == name)
        found.append(_predicted(subject, rows, given, residual, TASK, TASK_GIVEN, own))
    return found


def _between_tasks(device: Device, given: Measured, prior: Prior) -> Own | None:
    """How each task of the given rows does when the others are fitted; None of a single one.

    Rows of a task err together: they count as independent as far as analysis of variance has them.
    """
    assert given.task is not None
    task, number = np.unique(given.task, return_inverse=True)
    if task.size < 2:
        return None
    error, spread = np.empty((2, len(given)))
    for out in range(task.size):
        rows = given.take(number == out)
        fitted = fit_few(given.take(number != out), device, prior)[0]
        seconds, spread[number == out] = predict_with_spread([rows], device, fitted)
        error[number == out] = np.log(rows.seconds / seconds)
    return Own(log_error=error, log_sd=spread, count=len(given) / design_effect(error, number))


def _beside_relatives(
    subject: Subject,
    table: Measured,
    prior: Prior,
    relatives: Sequence[Sibling],
    residual: float,
) -> list[Scored]:
    """A few networks, and what relatives took; no row shares a group with them."""
    order = choose([table], subject.device, prior_only(subject.device, prior), max(RELATIVE_GIVEN))
    found = []
    for count in RELATIVE_GIVEN:
        chosen = order[:count]
        others = ~np.isin(table.group, table.group[chosen])
        if len(chosen) < count or not others.any():
            continue
        rows = table.take(others)
        moved = transfer(table.take(chosen), relatives)
        spread, own = np.full(len(rows), residual), moved.own(residual)
        seconds = moved.predict(rows)
        found.append(_scored(subject, rows, seconds, spread, RELATIVE, count, own))
    return found


def _predicted(
    subject: Subject,
    rows: Measured,
    posterior: Posterior,
    residual: float,
    protocol: str,
    seen: int,
    own: Own | None = None,
) -> Scored:
    seconds, spread = predict_with_spread([rows], subject.device, posterior)
    own = None if own is None else own.beside(residual)
    return _scored(subject, rows, seconds, np.hypot(spread, residual), protocol, seen, own)


def _scored(
    subject: Subject,
    rows: Measured,
    seconds: F64,
    log_sd: F64,
    protocol: str,
    seen: int,
    own: Own | None = None,
) -> Scored:
    return Scored(
        table=rows,
        subject=subject,
        protocol=protocol,
        rows_seen=seen,
        measured=rows.seconds,
        predicted=seconds,
        plain=roofline_rows(rows, subject.device),
        log_sd=log_sd,
        own=own,
    )
