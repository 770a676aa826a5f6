"""Where the report's figures come from: device numbers with their sources, versions, machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cost_models.device import Device
from dynsearch.report.markup import Html, tag
from dynsearch.report.sections import table
from dynsearch.report.units import percent

_NUMBER_COLUMNS = ("key", "value", "unit", "grade", "origin", "source")


def words(device: Device) -> str:
    """Where the predicted times of a device come from, in a phrase."""
    profile = device.profile
    if profile is None:
        return "datasheet, never measured"
    return (
        f"{profile.n:,} measurements with {profile.driver}, {percent(profile.mape)} off on groups "
        "left out, over the datasheet"
    )


def costs(found: Sequence[Device]) -> Html | None:
    """What each predicted cost follows from, device by device."""
    if not found:
        return None
    counted = "counted from shapes and kept tokens"
    rows = [
        tag("tr", [tag("td", cell) for cell in (d.name, words(d), _energy(d), counted)])
        for d in found
    ]
    head = ("device", "times", "energy", "peak memory, operations")
    return tag("div", tag("h3", "What each cost follows from"), table(head, rows, class_="wraps"))


def _energy(device: Device) -> str:
    """Whether its joules are of stated coefficients, of its power budget, or unknown."""
    known = device.quantities
    if not {"power.idle", "power.max"} <= set(known):
        return "unknown: no power is stated"
    stated = [known[k].grade for k in known if k.startswith("energy.")]
    if not stated:
        return "from its power budget, within the range of the literature: an estimate"
    grades = ", ".join(dict.fromkeys(stated))
    return f"{len(stated)} coefficients ({grades}), the rest from its power budget"


def devices(found: Sequence[Device]) -> Html | None:
    """One table of numbers per device, with grade and source of each, and its profile."""
    if not found:
        return None
    return tag(
        "div",
        tag("h3", "Devices and where their numbers come from"),
        tag(
            "p",
            "vendor = the maker's document, measured = here or by a named source, secondary = "
            "quoted by others, estimate = ours, with a wider interval.",
            class_="small",
        ),
        [_device(device) for device in found],
    )


def _device(device: Device) -> Html:
    profile = device.profile
    facts: dict[str, Any] = {"kind": device.kind, "what it is": device.summary}
    if profile is not None:
        facts["profile"] = {
            "fitted": profile.date,
            "with": f"{profile.tool}, {profile.runtime}, {profile.threads} thread(s)",
            "on": profile.machine,
            "measurements": profile.n,
            "error on groups left out": percent(profile.mape),
        }
    rows = device.to_rows()
    return tag(
        "details",
        tag(
            "summary",
            tag("b", device.name),
            " ",
            tag("span", "profile over datasheet" if profile else "datasheet", class_="chip"),
        ),
        _facts(facts),
        table(
            _NUMBER_COLUMNS,
            [tag("tr", [tag("td", _text(r.get(c))) for c in _NUMBER_COLUMNS]) for r in rows],
        ),
    )


def job(text: str | None) -> Html | None:
    """The resolved job file."""
    if text is None:
        return None
    return tag("details", tag("summary", "The job as it was resolved"), tag("pre", text))


def surroundings(environment: Mapping[str, Any]) -> Html | None:
    """Versions, seed, commit, machine and whatever else the run noted about itself."""
    rest = {k: v for k, v in environment.items() if k != "schema_version"}
    if not rest:
        return None
    return tag("div", tag("h3", "Environment of the run"), _facts(rest))


def warnings(log: Sequence[Mapping[str, Any]]) -> Html | None:
    """Warnings and errors of the run's log, repeated ones once with their count."""
    counts: dict[str, int] = {}
    for line in log:
        if str(line.get("level", "")).lower() in ("warning", "error"):
            message = str(line.get("message", line.get("event", "")))
            counts[message] = counts.get(message, 0) + 1
    if not counts:
        return None
    items = [tag("li", text, f" ({n} times)" if n > 1 else None) for text, n in counts.items()]
    return tag("div", tag("h3", "Warnings of the run"), tag("ul", items))


def _facts(values: Mapping[str, Any]) -> Html:
    return tag(
        "dl",
        [
            tag("div", tag("dt", str(k).replace("_", " ")), tag("dd", _value(v)))
            for k, v in values.items()
        ],
        class_="facts",
    )


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _facts(value)
    if isinstance(value, list | tuple):
        return ", ".join(_text(v) for v in value) or "\u2013"
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "\u2013"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
