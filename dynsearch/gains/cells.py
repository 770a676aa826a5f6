"""What a comparison found, as one record a family, number format, batch size and loss level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dynsearch.export.records import LOSS_LEVELS

Result = Mapping[str, Any]


def speed_cells(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a family, number format, batch size and level: the figures of each seed."""
    cells = []
    for result in results:
        times = {(t["dtype"], t["batch"]): t["per_sample_s"] for t in result["timings"]}
        for front in [*result["fronts"], *_static_fronts(result)]:
            key = (front["dtype"], front["batch"])
            full = times[key]["full"]["median"]
            for level in LOSS_LEVELS:
                point = next((p for p in front["points"] if level in p["levels"]), None)
                cell = {
                    "seed": result["seed"],
                    "family": front["family"],
                    "dtype": front["dtype"],
                    "batch": front["batch"],
                    "level": level,
                }
                if point is not None:
                    spent = times[key][point["id"]]["median"]
                    cell |= {
                        "id": point["id"],
                        "speed_up": full / spent,
                        "against_fp32": times[("fp32", front["batch"])]["full"]["median"] / spent,
                        "selected_loss": point["selected_loss"],
                        "confirmed_loss": point["confirmed"]["loss"],
                        "low": point["confirmed"]["low"],
                        "high": point["confirmed"]["high"],
                    }
                cells.append(cell)
    return cells


def _static_fronts(result: Result) -> list[dict[str, Any]]:
    """The fine-tuned static networks as a family: the shallowest that a level allows."""
    out = []
    static = [r for r in result["references"] if r["name"] != "conventional"]
    for group in result["timings"] if static else ():
        points = []
        for r in static:
            levels = [
                level
                for level in LOSS_LEVELS
                if r["error_bound"] <= result["full"]["selected_error"] + level + 1e-12
                and not any(
                    q["layers"] < r["layers"]
                    and q["error_bound"] <= result["full"]["selected_error"] + level + 1e-12
                    for q in static
                )
            ]
            points.append({**r, "levels": levels, "id": f"first {r['layers']} layers"})
        out.append(
            {
                "family": "static",
                "dtype": group["dtype"],
                "batch": group["batch"],
                "points": points,
            }
        )
    return out


def full_s(result: Result, dtype: str, batch: int) -> float:
    """Measured time per sample of the full network."""
    for t in result["timings"]:
        if (t["dtype"], t["batch"]) == (dtype, batch):
            return float(t["per_sample_s"]["full"]["median"])
    raise KeyError((dtype, batch))


def row(cells: Iterable[Any]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(str(c) for c in cells) + " |"
