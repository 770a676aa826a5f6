"""Collectives and energy scored: families whose form is a link's or a board's, not a device's.

Collectives are left out by groups; of an unknown device its link's rate alone is known, then
some evenly spread rows. Energy is scored given the measured time, each row left out in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cost_models.calibrate import energy_fit, link_fit
from cost_models.calibrate.intervals import Own, cross_conformal
from cost_models.calibrate.posterior import FOLDS, deal
from cost_models.calibrate.solve import design_effect
from cost_models.calibrate.subjects import Subject
from cost_models.device import device_names, load_device
from cost_models.energy import coefficients, idle_of
from cost_models.links import Link, link_of
from cost_models.measured import Measured
from cost_models.scored import KNOWN, ROW, UNKNOWN, Scored, calibrated

F64 = NDArray[np.float64]

GIVEN = 30
UNSEEN = 0.3  # log error of a device before others of the protocol scale it
EXCHANGES = "deepep"  # runtimes whose rows `calibrate.exchange_fit` scores


def other_families(tables: Iterable[Measured], *, unknown: bool) -> tuple[list[Scored], list[str]]:
    """Scored collectives and energy, and warnings about tables that are not scored."""
    known = set(device_names())
    named = [t for t in tables if t.device in known]
    energy = [t for t in named if t.family == "energy"]
    linked: list[tuple[Measured, Link]] = []
    warnings = []
    for table in named:
        if table.family != "collective":
            continue
        link = link_of(table.device)
        if link is None:
            warnings.append(f"no link file names {table.device}: its collectives are not scored")
        elif table.runtime.startswith(EXCHANGES):
            text = "dispatch and combine are scored by cost_models.calibrate.exchange_fit"
            warnings.append(f"{table.device}, {table.runtime}: {text}")
        else:
            linked.append((table, link))
    scored = _collectives(linked, unknown) + _energy(energy, unknown)
    return scored, list(dict.fromkeys(warnings))


def _made(
    table: Measured,
    predicted: F64,
    plain: F64,
    log_sd: F64,
    protocol: str,
    seen: int = 0,
    own: Own | None = None,
) -> Scored:
    subject = Subject(
        device=load_device(table.device),
        runtime=table.runtime,
        training=table.training,
        tables=(table,),
    )
    return Scored(
        table=table,
        subject=subject,
        protocol=protocol,
        rows_seen=seen,
        measured=table.seconds if table.energy is None else table.energy.joules,
        predicted=predicted,
        plain=plain,
        log_sd=log_sd,
        own=own,
    )


def _collectives(linked: Sequence[tuple[Measured, Link]], unknown: bool) -> list[Scored]:
    scored: list[Scored] = []
    fresh: list[Scored] = []
    fitted = [link_fit.fit_link(link, table) for table, link in linked] if unknown else []
    for table, link in linked:
        fold = deal(np.unique(table.group, return_inverse=True)[1], FOLDS)
        error = -link_fit.left_out(link, table, fold.astype(str))
        sd = cross_conformal(error, np.zeros(error.size), fold)
        plain = table.ops.m / link.bandwidth.value
        scored.append(_made(table, table.seconds / np.exp(error), plain, sd, KNOWN))
        if not unknown:
            continue
        rest = [f for j, f in enumerate(fitted) if linked[j][0].device != table.device]
        if not rest:
            continue
        prior = link_fit.pooled([f for f in rest if f.name == link.name] or rest)
        bare = link.with_parameters(prior, "pooled")
        sd = np.full(len(table), UNSEEN)
        fresh.append(_made(table, link_fit.predicted_s(bare, table), plain, sd, UNKNOWN))
        if len(table) > GIVEN:
            some = np.linspace(0, len(table) - 1, GIVEN).astype(np.int64)
            out = np.setdiff1d(np.arange(len(table)), some)
            fitted_link = link_fit.fit_link(link, given := table.take(some), prior)
            found, left = link_fit.predicted_s(fitted_link, table.take(out)), table.take(out)
            error = np.log(given.seconds / link_fit.predicted_s(fitted_link, given))
            own = Own(
                log_error=error,
                log_sd=sd[some],
                count=GIVEN / design_effect(error, np.unique(given.group, return_inverse=True)[1]),
            )
            fresh.append(_made(left, found, plain[out], sd[out], UNKNOWN, GIVEN, own))
    return scored + calibrated(fresh)


def _energy(tables: Sequence[Measured], unknown: bool) -> list[Scored]:
    scored: list[Scored] = []
    fresh: list[Scored] = []
    for table in tables:
        device = energy_fit.unfitted(load_device(table.device))
        prior = coefficients(device, idle_w=idle_of(table))
        assert table.energy is not None
        joules, plain = table.energy.joules, prior.max_w * table.seconds * table.energy.devices
        found = energy_fit.left_out(table, prior, device.kind)
        there = np.isfinite(found.row_left_out)
        if there.any():
            part, error = table.take(there), found.row_left_out[there]
            log_error = -np.log1p(error)
            sd = cross_conformal(log_error, np.zeros(error.size), np.arange(error.size))
            scored.append(_made(part, joules[there] * (1 + error), plain[there], sd, ROW))
        there = np.isfinite(found.nothing_fitted)
        if unknown and there.any():
            part, error = table.take(there), found.nothing_fitted[there]
            sd = np.full(error.size, UNSEEN)
            fresh.append(_made(part, joules[there] * (1 + error), plain[there], sd, UNKNOWN))
    return scored + calibrated(fresh)
