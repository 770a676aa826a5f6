"""The report's section on certificates: what was asked for, what holds, what could not be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynsearch.export.records import Front, FrontPoint
from dynsearch.report import units
from dynsearch.report.headline import speed_of
from dynsearch.report.markup import Html, tag
from dynsearch.report.sections import select_button, table
from dynsearch.risk.certificate import Certificate


def certificates(front: Front, device: str, bench: Mapping[str, Any] | None = None) -> Html | None:
    """Certified configurations and those that are not; None where nothing was asked for.

    Args:
        front: The run's front.
        device: Whose latencies are shown; a certificate knows no device.
        bench: The run's `bench.json`, None before it was measured.
    """
    points = _once([p for p in front.front if p.certificate], device)
    if front.risk is None and not points and not front.uncertified:
        return None
    return tag(
        "section",
        tag("h2", "Certificates"),
        tag("p", _asked(front), class_="small"),
        _certified(front, points, bench)
        if points
        else tag("p", "None holds.", class_="verdict warn"),
        _missing(front, device),
        id="certificates",
    )


def _once(points: Sequence[FrontPoint], device: str) -> list[FrontPoint]:
    """One point an id: that of the device where there is one."""
    found: dict[str, FrontPoint] = {}
    for p in points:
        if p.id not in found or p.device == device:
            found[p.id] = p
    return list(found.values())


def _asked(front: Front) -> str:
    """What the job asked for, in a sentence."""
    risk = front.risk
    if risk is None:
        return "The job asks for no certificates any more; these were found before."
    chance = (
        "on average over calibration draws"
        if risk["method"] == "crc"
        else f"all together with probability {1 - risk['delta']:g}"
    )
    levels = risk.get("levels")
    which = "all named configurations"
    if levels is not None:
        which = "configurations named for " + ", ".join(f"{100 * x:g}" for x in levels) + " points"
    return (
        f"Asked for: {risk['risk'].replace('_', ' ')} of at most {risk['epsilon']:g}, {chance}, "
        f"by {risk['method']}, for {which}. The calibration rows chose nothing else. A "
        "certificate covers texts drawn as these rows were, never texts of another kind."
    )


def _certified(
    front: Front, points: Sequence[FrontPoint], bench: Mapping[str, Any] | None
) -> Html:
    by_id = {(p.id, p.device): p for p in front.front}
    rows = []
    for p in points:
        c = p.certificate
        assert c is not None
        origin = by_id.get((c.calibrated_from, p.device))
        known = origin.predicted.per_sample_s if origin else None
        speed = None if known is None else known / p.predicted.per_sample_s
        gain = speed_of(front, p, bench)
        seen = gain.measured is not None
        against_full = units.times(gain.measured if seen else gain.predicted)
        cells = (
            select_button(p),
            p.dtype,
            c.statement,
            units.digits(c.empirical),
            _bound(c),
            units.points(p.confirmed.loss if p.confirmed else None),
            select_button(origin) if origin else c.calibrated_from,
            units.seconds(p.predicted.latency_mean_s),
            units.times(speed),
            [tag("b", against_full), " measured" if seen else " predicted"],
            c.batches,
        )
        rows.append(tag("tr", [tag("td", cell) for cell in cells]))
    head = (
        *("configuration", "dtype", "certified", "mean loss of its rows", "bound"),
        *("loss on report rows, points", "calibrated from", "latency predicted"),
        *("speed against that one", "speed-up over the full network", "batches"),
    )
    return table(head, rows, class_="wraps")


def _bound(c: Certificate) -> str:
    if c.upper is not None:
        return f"risk \u2264 {units.digits(c.upper)}"
    return "\u2013" if c.p_value is None else f"p = {units.digits(c.p_value)}"


def _missing(front: Front, device: str) -> Html | None:
    """Configurations without a certificate, each with its reason."""
    if not front.uncertified:
        return None
    known = {p.id: p for p in _once(front.front, device)}
    rows = [
        tag(
            "tr",
            tag("td", select_button(known[key]) if key in known else key),
            tag("td", reason),
        )
        for key, reason in front.uncertified.items()
    ]
    return tag(
        "div",
        tag("h3", "Without a certificate"),
        table(("configuration", "why"), rows, class_="wraps"),
    )
