"""The result of `dynsearch explain` as text."""

from __future__ import annotations

from typing import Any, TextIO

from dynsearch.commands.tables import milliseconds, percent, print_table


def explain(result: dict[str, Any], out: TextIO) -> None:
    """Ideal against predicted speed, the waterfall between them, then what would help."""
    share = result["flops_share"]
    out.write(
        "configuration {id} ({family}, {dtype}) on {device}, batch {batch}, {rows} rows\n".format(
            **result
        )
    )
    ideal = "any speed" if share <= 0 else f"{1 / share:.2f}x"
    out.write(
        f"asks for {percent(share)} % of the full network's FLOPs, which would make it {ideal} "
        f"as fast; predicted is {result['speed_up']:.2f}x\n\n"
    )
    print_table(
        out,
        "from ideal to predicted time, ms per input",
        ("step", "adds", "reaches", "pays", "full network pays"),
        _rows(result),
    )
    out.write("\n")
    print_table(
        out,
        "what would help most",
        ("if there were", "saves ms", "then ms", "speed-up", "error change, points"),
        [
            [
                one["label"],
                _signed(one["saved_s"]),
                milliseconds(one["seconds"]),
                f"{result['full_s'] / one['seconds']:.2f}" if one["seconds"] > 0 else "-",
                f"{one['error_change'] * 100:+.2f}" if one["error_change"] else "-",
            ]
            for one in result["helps"]
        ],
    )


def _rows(result: dict[str, Any]) -> list[list[str]]:
    at = result["start_s"]
    rows = [
        ["full network", "-", milliseconds(result["full_s"]), "-", "-"],
        ["its time, if it followed the FLOPs", "-", milliseconds(at), "-", "-"],
    ]
    for step in result["steps"]:
        at += step["seconds"]
        if not (step["seconds"] or step["own_s"] or step["full_s"]):
            continue
        paid = [milliseconds(step[key]) for key in ("own_s", "full_s")]
        rows.append([step["label"], _signed(step["seconds"]), milliseconds(at), *paid])
    rows.append(["predicted", "-", milliseconds(result["total_s"]), "-", "-"])
    return rows


def _signed(seconds: float) -> str:
    return f"{seconds * 1e3:+.3g}"
