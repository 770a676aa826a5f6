"""How much each outer knob mattered in the search, from the run's study."""

from __future__ import annotations

from pathlib import Path

from dynsearch.errors import InputError
from dynsearch.report import units
from dynsearch.report.markup import Html, tag
from dynsearch.search.runs import open_run


def importances(run_dir: Path) -> tuple[dict[str, float], str]:
    """Shares by knob, largest first, and why there are none (empty where there are).

    Of the mean of a pass's three anchor values; see `analysis.importances`.
    """
    try:
        run = open_run(run_dir)
    except InputError:
        return {}, "The folder holds no search."
    from dynsearch.analysis.importances import importances as asked
    from dynsearch.analysis.importances import open_study

    study = open_study(run)
    if isinstance(study, str):
        return {}, study
    found, why_not = asked(study)
    return found.get("mean of anchors", {}), why_not


def section(found: tuple[dict[str, float], str]) -> Html:
    """Bars, in the order of importance."""
    shares, why_not = found
    most = max(shares.values(), default=1.0)
    rows = [
        tag(
            "div",
            tag("dt", name.replace("_", " ")),
            tag("dd", tag("meter", min=0, max=1, value=f"{x / most:.4f}"), units.percent(x, 0)),
        )
        for name, x in shares.items()
    ]
    note = why_not or (
        "Share of what tells the better passes from all passes that a knob accounts for alone "
        "(PED-ANOVA). Knobs of exit policies are not among them: every pass tries all of those."
    )
    return tag(
        "div",
        tag("h3", "Importance of knobs"),
        tag("p", note, class_="small"),
        tag("dl", rows, class_="bars", id="importances") if rows else None,
    )
