"""The report's section on quality: every metric of every configuration, and by length of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynsearch.export.records import Front, FrontPoint, QualityFigures
from dynsearch.export.table import METRIC_WORDS
from dynsearch.report import units
from dynsearch.report.markup import Html, tag
from dynsearch.report.sections import select_button, table

NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "mcc": "MCC",
    "nll": "NLL, nats",
    "worst_class": "worst class",
}


def ranking_note(front: Front) -> Html | None:
    """What errors and losses are where another metric than the error ranks."""
    if front.metric == "accuracy":
        return None
    name = NAMES[front.metric].partition(",")[0]
    what = (
        "the negative log likelihood: 1 % and 1 point are 0.01 nats"
        if front.metric == "nll"
        else f"1 \u2212 {name}: 1 % and 1 point are 0.01 of {name}"
    )
    return tag("p", f"This job ranks by {name}. Errors and losses here are of {what}.")


def quality(front: Front, device: str) -> Html | None:
    """Metrics of the configurations of `device`; they are the same on every device."""
    points = [p for p in front.front if p.device == device and p.selected_quality is not None]
    if not points:
        return None
    return tag(
        "section",
        tag("h2", "Quality"),
        tag(
            "p",
            "Unseen report rows where they are known, else search rows. In brackets how much "
            "worse than the full network, same rows, paired 95 % interval: positive is worse. "
            "In points for shares and MCC, in nats for NLL.",
            class_="small",
        ),
        _metrics(points, confirmed=any(p.confirmed_quality for p in points)),
        tag(
            "details",
            tag("summary", "The same on the search rows, which chose (a little too good)"),
            _metrics(points, confirmed=False),
        )
        if any(p.confirmed_quality for p in points)
        else None,
        _by_length(front, points),
        tag(
            "dl",
            [tag("div", tag("dt", NAMES[m]), tag("dd", w)) for m, w in METRIC_WORDS.items()],
            class_="glossary",
        ),
        id="quality",
    )


def _metrics(points: Sequence[FrontPoint], *, confirmed: bool) -> Html:
    rows = []
    for p in points:
        found = p.confirmed_quality if confirmed else p.selected_quality
        if found is not None:
            rows.append(_row(p, [_figure(found, metric) for metric in NAMES]))
    return table([*_HEAD, *NAMES.values()], rows)


_HEAD = ("id", "family", "dtype")


def _row(p: FrontPoint, cells: Sequence[Any]) -> Html:
    shown = (select_button(p), p.family, p.dtype)
    return tag("tr", [tag("td", c) for c in shown], [tag("td", c, class_="num") for c in cells])


def _figure(found: QualityFigures, metric: str) -> Html:
    """Value, then the interval of its loss below it."""
    low, high = found.low[metric], found.high[metric]
    if metric == "nll":
        value, ends = units.fixed(found.value[metric], 3), (_signed(low, 3), _signed(high, 3))
    else:
        value, ends = _share(metric, found.value[metric]), (units.points(low), units.points(high))
    return tag("span", value, " ", tag("small", f"[{ends[0]}, {ends[1]}]"))


def _share(metric: str, value: float) -> str:
    return _signed(value, 3) if metric == "mcc" else units.percent(value)


def _signed(value: float, places: int) -> str:
    return units.fixed(value, places).replace("-", "\u2212")


def _by_length(front: Front, points: Sequence[FrontPoint]) -> Html | None:
    if not front.length_buckets:
        return None
    head = [
        f"{b.shortest}\u2013{b.longest} tokens (n = {b.selected_n:,}"
        + ("" if b.confirmed_n is None else f" / {b.confirmed_n:,}")
        + ")"
        for b in front.length_buckets
    ]
    rows = []
    for p in points:
        chosen, seen = p.selected_quality, p.confirmed_quality
        assert chosen is not None
        cells = [units.percent(x) for x in chosen.by_length]
        if seen is not None:
            cells = [
                f"{a} / {units.percent(b)}" for a, b in zip(cells, seen.by_length, strict=True)
            ]
        rows.append(_row(p, cells))
    return tag(
        "div",
        tag("h3", "Accuracy by length of the text"),
        tag(
            "p",
            "Search rows / report rows; buckets are quartiles of the search rows' lengths.",
            class_="small",
        ),
        table([*_HEAD, *head], rows),
    )
