"""The report's section on what was measured, on every runtime that a bench has run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynsearch.agreement import judged, limit_of, sentence
from dynsearch.agreement import pooled as over_all
from dynsearch.export.records import Front
from dynsearch.report import units
from dynsearch.report.markup import Html, tag
from dynsearch.report.sections import select_button, table

Bench = Mapping[str, Any]


def measured(front: Front, device: str, benches: Sequence[Bench]) -> Html:
    """What was gained, how well predictions agree, and scatter plots, drawn by the script."""
    content = _content(front, device, benches) if benches else [_nothing()]
    return tag("section", tag("h2", "Predicted against measured"), content, id="measured")


def _nothing() -> Html:
    return tag(
        "p",
        "Nothing was measured yet: ",
        tag("code", "dynsearch bench RUN"),
        " runs configurations of this front on this machine and puts their times here.",
        class_="verdict",
    )


def _content(front: Front, device: str, benches: Sequence[Bench]) -> list[Any]:
    told = dict.fromkeys(_protocol(bench) for bench in benches)
    warnings = dict.fromkeys(w for bench in benches for w in bench.get("warnings", ()))
    return [
        tag(
            "p",
            " ".join(told),
            " Bars are predicted 90 % intervals; the band is \u00b1 15 %.",
            class_="small",
        ),
        _against_full(front, device, benches),
        _agreement(front, benches),
        tag("div", id="scatter", class_="grid wide"),
        [tag("p", w, class_="verdict warn") for w in warnings],
    ]


def _protocol(bench: Bench) -> str:
    return (
        f"{bench.get('timed_rows', 0):,} report rows, {bench.get('repeats', 0)} repeats, "
        f"{bench.get('threads', 1)} thread(s), interleaved over configurations, medians."
    )


def _agreement(front: Front, benches: Sequence[Bench]) -> Html | None:
    """A row a runtime, number format and batch."""
    rows = []
    for bench in benches:
        rows += judged(front.run, bench, limit_of(front, bench))
    if not rows:
        return None
    shown = []
    for r in rows:
        cells = (
            *(r["runtime"], r["dtype"], str(r["batch"]), str(r["n"])),
            *(units.percent(r["mape"]), units.percent(r["mape_same_rows"])),
            "\u2013" if r["spearman"] is None else units.fixed(r["spearman"], 3),
            f"{r['inside']} of {r['n']}",
            units.percent(r["over_budget"]),
        )
        shown.append(tag("tr", [tag("td", cell) for cell in cells]))
    head = (
        *("runtime", "dtype", "batch", "configurations", "MAPE", "MAPE, timed rows' own activity"),
        *("Spearman", "inside the 90 % interval", "most over the latency budget"),
    )
    note = tag("p", sentence(over_all(rows)), class_="small")
    return tag("div", tag("h3", "How well the two agree"), table(head, shown), note)


def _against_full(front: Front, device: str, benches: Sequence[Bench]) -> Html | None:
    """Chosen configurations against the full network of the same runtime and number format."""
    mine = [p for p in front.front if p.device == device]
    named = {p.id: p for p in mine if p.named or p.certificate}
    rows = []
    for bench in benches:
        for r in bench["rows"]:
            p = named.get(r["id"])
            if p is None or p.family == "full" or r.get("speedup") is None:
                continue
            levels = ", ".join(f"{x * 100:g}" for x in p.named) or "certified"
            cells = (
                *(r["runtime"], r["dtype"], str(r["batch"]), select_button(p), p.family, levels),
                f"{units.seconds(r['predicted_s'])} "
                f"[{units.seconds(r['low_s'])}, {units.seconds(r['high_s'])}]",
                units.seconds(r["measured_s"]),
                tag("b", units.times(r["speedup"])),
            )
            rows.append(tag("tr", [tag("td", cell) for cell in cells]))
    if not rows:
        return None
    head = (
        *("runtime", "dtype", "batch", "configuration", "family", "named for, points"),
        *("mean latency predicted", "measured", "speed-up over the runtime's own full network"),
    )
    return tag("div", tag("h3", "Gain on each runtime, measured"), table(head, rows))
