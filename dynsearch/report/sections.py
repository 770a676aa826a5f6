"""The report's sections that are text and tables. Charts are drawn by the script in `assets`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynsearch.export.records import Front, FrontPoint
from dynsearch.report import glossary, units
from dynsearch.report.headline import STATIC_FAMILIES, Level, levels, speed_of, verdict
from dynsearch.report.markup import Html, tag
from dynsearch.report.view import COSTS, cost_values, exit_rule

STATES = {
    "held": "held on the report rows",
    "missed": "missed on the report rows",
    "unconfirmed": "not confirmed yet",
    "none": "nothing allowed",
}


def result(front: Front, device: str, bench: Mapping[str, Any] | None) -> Html:
    """Cards of the first dtype, the table of all dtypes, the verdict on static truncation."""
    found = levels(front, device, bench)
    first = found[0].dtype if found else "fp32"
    few = front.reference.confirmed_n is not None and front.reference.confirmed_n < 2000
    return tag(
        "section",
        tag("h2", "Result"),
        tag("p", _sentence(found, first, device), class_="lead"),
        tag("div", [_card(x) for x in found if x.dtype == first], class_="cards"),
        tag(
            "p",
            verdict(found),
            class_="verdict warn" if any(x.static_wins for x in found) else "verdict",
        ),
        tag(
            "p",
            "Fewer than 2,000 report rows: read the intervals before the values.",
            class_="verdict warn",
        )
        if few
        else None,
        _level_table(found),
        _other_devices(front, device, bench),
        id="result",
    )


def _loss_words(loss: float) -> str:
    if loss == 0:
        return "no loss"
    return "1 point" if loss == 0.01 else f"{loss * 100:g} points"


def _sentence(found: Sequence[Level], dtype: str, device: str) -> str:
    one = next((x for x in found if x.loss == 0.01 and x.dtype == dtype), None)
    if one is None or one.point is None or one.speed.best is None:
        return f"On {device} in {dtype} no configuration is allowed at a loss of 1 point."
    how = "measured" if one.speed.measured is not None else "predicted"
    text = (
        f"{units.times(one.speed.best)} the speed of the full network ({how}, {device}, {dtype}) "
        "for an allowed loss of 1 point"
    )
    c = one.point.confirmed
    if c is None:
        return f"{text}; not confirmed on the report rows yet."
    word = "held" if one.state == "held" else "missed"
    return (
        f"{text}; {word}: the loss is {units.points(c.loss)} points on {c.n:,} unseen rows "
        f"(95 % interval {units.points(c.low)} to {units.points(c.high)})."
    )


def _card(x: Level) -> Html:
    title = tag("h3", "Allowed loss: ", tag("b", _loss_words(x.loss).replace("no loss", "none")))
    if x.point is None:
        return tag(
            "article",
            title,
            tag("p", "\u2013", class_="big muted"),
            tag("p", "No configuration within the budgets is allowed.", class_="small"),
            class_="card",
        )
    measured = x.speed.measured is not None
    c = x.point.confirmed
    loss: list[Html] = [_pair("selected loss", units.points(x.point.selected.loss))]
    if c is not None:
        interval = f"{units.points(c.loss)} [{units.points(c.low)}, {units.points(c.high)}]"
        loss.append(_pair("confirmed loss", interval))
    static = "none allowed" if x.static is None else units.times(x.static_speed.best)
    rival = (
        _pair("this is", "full network" if x.point.family == "full" else "a static truncation")
        if x.point.family in STATIC_FAMILIES
        else _pair("best static", static)
    )
    return tag(
        "article",
        title,
        tag(
            "p",
            units.times(x.speed.best),
            tag("span", "measured" if measured else "predicted", class_="unit"),
            class_="big",
        ),
        tag(
            "dl",
            _pair("predicted", units.times(x.speed.predicted)) if measured else None,
            loss,
            rival,
            _pair("configuration", select_button(x.point), x.point.family),
        ),
        tag("p", STATES[x.state], class_=f"state {x.state}"),
        class_="card",
    )


def _pair(term: str, *value: Any) -> Html:
    separated = [value[0], *(part for v in value[1:] for part in (" \u00b7 ", v))]
    return tag("div", tag("dt", term), tag("dd", separated))


def select_button(p: FrontPoint) -> Html:
    """The id of a configuration, which selects it in all charts."""
    return tag("button", p.id, class_="pick", type="button", data_id=p.id, data_device=p.device)


def _level_table(found: Sequence[Level]) -> Html:
    many = len({x.dtype for x in found}) > 1
    head = [
        "allowed loss",
        "dtype",
        "configuration",
        "family",
        "speed-up predicted",
        "speed-up measured",
        "loss selected",
        "loss confirmed, 95 % interval",
        "level",
        "best static truncation",
        *(["dtype alone, against fp32"] if many else []),
    ]
    rows = []
    for x in found:
        p, c = x.point, x.point.confirmed if x.point else None
        cells: list[Any] = [
            _loss_words(x.loss),
            x.dtype,
            select_button(p) if p else "\u2013",
            p.family if p else "\u2013",
            units.times(x.speed.predicted),
            units.times(x.speed.measured),
            units.points(p.selected.loss) if p else "\u2013",
            f"{units.points(c.loss)} [{units.points(c.low)}, {units.points(c.high)}]"
            if c
            else "\u2013",
            tag("span", x.state, class_=f"state {x.state}"),
            _static_cell(x),
            *([units.times(x.dtype_speed)] if many else []),
        ]
        rows.append(tag("tr", [tag("td", cell) for cell in cells]))
    return tag(
        "details",
        tag("summary", "All levels and number formats"),
        table(head, rows),
        tag(
            "p",
            "Speed-ups compare with the full network in the same number format; what the "
            "format alone gains stands in its own column.",
            class_="small",
        )
        if many
        else None,
    )


def _static_cell(x: Level) -> Any:
    if x.static is None:
        return "none allowed"
    text = units.times(x.static_speed.best)
    return tag("b", f"{text} (faster)") if x.static_wins and x.point is not x.static else text


def _other_devices(front: Front, device: str, bench: Mapping[str, Any] | None) -> Html | None:
    rows = []
    for other in front.devices:
        if other == device:
            continue
        found = levels(front, other, bench)
        for dtype in dict.fromkeys(x.dtype for x in found):
            mine = [x for x in found if x.dtype == dtype]
            cells = [units.times(x.speed.best) for x in mine]
            rows.append(tag("tr", [tag("td", cell) for cell in (other, dtype, *cells)]))
    if not rows:
        return None
    head = ["device", "dtype", *(f"speed-up at {_loss_words(x.loss)}" for x in found[:4])]
    return tag(
        "details",
        tag("summary", "The same job on the other devices (predicted)"),
        table(head, rows),
    )


def table(
    head: Sequence[Any], rows: Sequence[Html], *, box: str = "scroll", **attributes: str
) -> Html:
    """A table that scrolls sideways by itself on narrow screens."""
    return tag(
        "div",
        tag(
            "table",
            tag(
                "thead",
                tag("tr", [h if isinstance(h, Html) else tag("th", h, scope="col") for h in head]),
            ),
            tag("tbody", rows),
            **attributes,
        ),
        class_=box,
        tabindex="0",
    )


def configurations(front: Front, bench: Mapping[str, Any] | None) -> Html:
    """Every point of every device, sortable by each column."""
    costs = [
        name
        for name in ("latency_mean_s", "latency_worst_s", "peak_bytes", "energy_j")
        if any(cost_values(p.predicted)[name] is not None for p in front.front)
    ]
    head = [
        "id",
        "device",
        "family",
        "dtype",
        "depth",
        "exits",
        "error selected",
        "loss selected",
        "loss confirmed",
        "speed-up predicted",
        "speed-up measured",
        *(f"{COSTS[name].lower()} predicted" for name in costs),
        "mean latency measured",
        "named for",
    ]
    heads = [
        tag("th", tag("button", name, type="button", class_="sort"), scope="col") for name in head
    ]
    rows = [_configuration_row(front, p, costs, bench) for p in front.front]
    choice = tag(
        "label",
        "Device ",
        tag(
            "select",
            tag("option", "all", value=""),
            [tag("option", d) for d in front.devices],
            id="table-device",
        ),
    )
    hollow = tag("label", tag("input", type="checkbox", id="table-dominated"), " hide dominated")
    return tag(
        "section",
        tag("h2", "Configurations"),
        tag(
            "p",
            "Click a column to sort, an id to select. Each id has a file configurations/ID.toml ",
            "that ",
            tag("code", "dynsearch cost"),
            " reads; ",
            tag("code", "dynsearch export"),
            " turns it into a model that runs.",
            class_="small",
        ),
        tag("div", choice, hollow, class_="controls"),
        table(heads, rows, box="scroll tall", id="configurations"),
        id="configurations-section",
    )


def _configuration_row(
    front: Front, p: FrontPoint, costs: Sequence[str], bench: Mapping[str, Any] | None
) -> Html:
    speed, c, known = speed_of(front, p, bench), p.confirmed, cost_values(p.predicted)
    exits = (p.candidate.get("exits") or {}).get("layers", ())
    measured = p.measured.latency_mean_s if p.measured else None
    cells: list[tuple[Any, float | str | None]] = [
        (select_button(p), p.id),
        (p.device, p.device),
        (p.family, p.family),
        (p.dtype, p.dtype),
        (str(p.candidate.get("depth", "")), p.candidate.get("depth")),
        (
            tag("span", " ".join(str(x) for x in exits) or "\u2013", title=exit_rule(p.candidate)),
            len(exits),
        ),
        (units.percent(p.selected.error), p.selected.error),
        (units.points(p.selected.loss), p.selected.loss),
        (units.points(c.loss if c else None), c.loss if c else None),
        (units.times(speed.predicted), speed.predicted),
        (units.times(speed.measured), speed.measured),
        *((units.quantity(name, known[name]), known[name]) for name in costs),
        (units.seconds(measured), measured),
        (", ".join(f"{x * 100:g}" for x in p.named) or "\u2013", len(p.named)),
    ]
    return tag(
        "tr",
        [
            tag(
                "td",
                shown,
                data_v="" if value is None else value,
                class_=None if isinstance(value, str) else "num",
            )
            for shown, value in cells
        ],
        data_id=p.id,
        data_device=p.device,
        class_="dominated" if p.dominated else None,
    )


def budgets(front: Front) -> Html | None:
    """Limits, the full network's own cost, and how much of the space each limit rejects."""
    rows = []
    for device, limits in front.budgets.items():
        full = next((c.predicted for c in front.reference.costs if c.device == device), None)
        for name, limit in limits.items():
            own = cost_values(full).get(name) if full else None
            share = front.budget_rejection.get(device, {}).get(name)
            cells = [
                device,
                COSTS.get(name, name),
                units.quantity(name, limit),
                units.quantity(name, own),
                units.percent(share, 0),
            ]
            rows.append(tag("tr", [tag("td", cell) for cell in cells]))
    if not rows:
        return None
    head = ["device", "quantity", "limit", "full network", "rejects, of what the others admit"]
    return tag("div", tag("h3", "Budgets"), table(head, rows))


def glossary_section() -> Html:
    """Words and columns."""
    return tag(
        "section",
        tag("h2", "Glossary"),
        tag(
            "dl",
            [tag("div", tag("dt", k), tag("dd", v)) for k, v in glossary.entries().items()],
            class_="glossary",
        ),
        id="glossary",
    )
