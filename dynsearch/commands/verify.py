"""`dynsearch verify EXPORT|RUN`: what exports do here, beside what was promised."""

from __future__ import annotations

from typing import Any, TextIO

from dynsearch.commands.tables import megabytes, milliseconds, percent, print_table

Result = dict[str, Any]
SHOWN = ("predicted", "low", "high", "measured")
LIMITS = ("limit", "predicted", "measured")
PASSED = {True: "met", False: "MISSED", None: "not measured"}


def show(result: Result, out: TextIO) -> None:
    """Each export that was measured, with an empty line between two."""
    for n, one in enumerate(result.get("verified", [result])):
        if n:
            out.write("\n")
        _export(one, out)


def _export(result: Result, out: TextIO) -> None:
    """Figures, exits, budgets and the certificate."""
    out.write(
        "{id} ({dtype} on {runtime}, batch {batch}, {threads} threads) on {timed_rows} texts; "
        "predicted for {device}\n".format(**result)
    )
    figures = [
        [f["quantity"], *(_value(f["quantity"], f[k]) for k in SHOWN), _inside(f["inside"])]
        for f in result["figures"]
    ]
    print_table(out, "", ("", "predicted", "low", "high", "measured", "interval"), figures)
    exits = [
        [str(e["layer"]), percent(e["predicted"]), percent(e["measured"])] for e in result["exits"]
    ]
    print_table(out, "inputs that leave after a layer, %", ("layer", "search rows", "here"), exits)
    if result["rows"]:
        rows = [
            [r["budget"], *(_value(r["budget"], r[k]) for k in LIMITS), PASSED[r["passed"]]]
            for r in result["rows"]
        ]
        print_table(out, "budgets", ("", "limit", "predicted", "measured", ""), rows)
    if result["certificate"] is not None:
        _certificate(result["certificate"], out)


def _certificate(certificate: Result, out: TextIO) -> None:
    if certificate["valid"]:
        out.write(f"certificate: {certificate['statement']}\n")
    else:
        out.write(f"certificate: VOID, {'; '.join(certificate['void'])}\n")


def _value(quantity: str, value: float | None) -> str:
    """A number with its unit; `-` where there is none."""
    if value is None:
        return "-"
    if quantity.endswith("_s"):
        return f"{milliseconds(value)} ms"
    if quantity == "peak_bytes":
        return f"{megabytes(value)} MB"
    return f"{percent(value)} %" if quantity == "error" else f"{value:.4g}"


def _inside(inside: bool | None) -> str:
    return {True: "inside", False: "outside", None: "-"}[inside]
