"""What binds, as `dynsearch analyse` left it in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynsearch.report import units
from dynsearch.report.markup import Html, tag
from dynsearch.report.sections import table
from dynsearch.report.view import COSTS


def section(analysis: Mapping[str, Any] | None) -> Html | None:
    """Budgets by what more of them would gain; None where nothing was analysed, or has budgets."""
    if not analysis or not analysis["binds"]:
        return None
    rows = [
        tag(
            "tr",
            [
                tag("td", cell)
                for cell in (
                    one["device"],
                    COSTS.get(one["budget"], one["budget"]),
                    units.percent(one["rejected"]["all"], 0),
                    units.percent(one["rejected"]["alone"], 0),
                    units.percent(one["slack_least"], 1),
                    f"+{units.digits(one['gain'])}" if one["gain"] > 0 else "nothing",
                )
            ],
        )
        for one in analysis["binds"]
    ]
    more = units.percent(analysis["relaxed_by"], 0)
    head = ["device", "quantity", "rejects", "alone", "nearest point", f"{more} more would add"]
    note = (
        "Of exit policies drawn on the passes that ran: the share that a budget rejects, and that "
        "it alone rejects of those that the others admit. How far the nearest configuration is "
        "from it; and the hypervolume that more of it would add at least."
    )
    return tag("div", tag("h3", "What binds"), tag("p", note, class_="small"), table(head, rows))
