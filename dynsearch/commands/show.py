"""Results of commands as text. Each function takes the object that `--json` would print."""

from __future__ import annotations

import json
from typing import Any, TextIO

from dynsearch.commands.tables import megabytes, milliseconds, percent, print_table
from dynsearch.risk.certificate import Certificate

Result = dict[str, Any]


def search(result: Result, out: TextIO) -> None:
    """The front of a search, and where its run folder is."""
    front(result, out)
    stopped = result.get("screened", 0)
    early = f", and {stopped} stopped after their first rows" if stopped else ""
    out.write(f"passes: {result['passes']}{early}\nrun: {result['run']}\n")


def front(result: Result, out: TextIO) -> None:
    """One line a configuration and device, cheapest first within a device."""
    points = sorted(
        result["front"], key=lambda p: (p["device"], _predicted(p, "latency_mean_s") or 0.0)
    )
    columns = (
        "id",
        "device",
        "family",
        "dtype",
        "depth",
        "error_bound %",
        "selected loss %",
        "confirmed loss %",
        "predicted ms",
        "measured ms",
        "peak MB",
        "named for loss %",
    )
    rows = [_front_row(p) for p in points]
    print_table(out, f"front: {len(rows)} configurations", columns, rows)
    _certificates(result, out)


def _certificates(result: Result, out: TextIO) -> None:
    """A line for each certified configuration, and for each that could not be."""
    told = {p["id"]: p["certificate"] for p in result["front"] if p.get("certificate")}
    for key, certificate in told.items():
        out.write(f"{key} certified: {Certificate(**certificate).statement}\n")
    for key, reason in result.get("uncertified", {}).items():
        out.write(f"{key} not certified: {reason}\n")


def _front_row(point: Result) -> list[str]:
    confirmed = point.get("confirmed") or {}
    measured = point.get("measured") or {}
    return [
        point["id"],
        point["device"],
        point["family"] + (" (dominated)" if point["dominated"] else ""),
        str(point["candidate"].get("dtype", "")),
        str(point["candidate"].get("depth", "")),
        percent(point["error_bound"]),
        percent(point["selected"].get("loss")),
        percent(confirmed.get("loss")),
        milliseconds(_predicted(point, "latency_mean_s")),
        milliseconds(measured.get("latency_mean_s")),
        megabytes(_predicted(point, "peak_bytes")),
        " ".join(f"{level * 100:g}" for level in point.get("named", ())) or "-",
    ]


def _predicted(point: Result, name: str) -> float | None:
    value = (point.get("predicted") or point["objectives"]).get(name)
    return None if value is None else float(value)


def files(result: Result, out: TextIO) -> None:
    """One written file a line."""
    out.writelines(f"{name}\n" for name in result["files"])


def bench(result: Result, out: TextIO) -> None:
    """Predicted beside measured, then how well the two agree."""
    columns = (
        "id",
        "family",
        "dtype",
        "batch",
        "predicted ms",
        "low ms",
        "high ms",
        "measured ms",
        "off %",
        "x full",
    )
    rows = [
        [
            row["id"],
            row["family"],
            row["dtype"],
            str(row["batch"]),
            *(milliseconds(row[key]) for key in ("predicted_s", "low_s", "high_s", "measured_s")),
            f"{(row['predicted_s'] / row['measured_s'] - 1) * 100:.1f}",
            _plain(row.get("speedup")),
        ]
        for row in result["rows"]
    ]
    print_table(out, f"predicted and measured: {len(rows)} rows", columns, rows)
    _agreement(result, out)


def shift(result: Result, out: TextIO) -> None:
    """What named points do on other texts, beside what they did on the search rows."""
    data = result["data"]
    out.write(
        f"{data['name']}: {data['rows']} texts, {data['mean_tokens']:.0f} tokens on average "
        f"(search rows {data['mean_tokens_search']:.0f}), {data['truncated']} cut to the longest "
        "input\n"
    )
    unknown = data["unknown_labels"]
    if unknown:
        shown = ", ".join(f"{name} {n}" for name, n in sorted(unknown.items())[:5])
        out.write(f"without a class that the network knows: {sum(unknown.values())} ({shown})\n")
    mixed = 0 < data["known_labels"] < data["rows"]
    columns = (
        "id",
        "family",
        "dtype",
        "mean depth",
        *(("of known", "of unknown") if mixed else ()),
        "before",
        "error %",
        "before %",
        "predicted ms",
        "before ms",
        "measured ms",
        "budgets",
    )
    rows = [
        [
            row["id"],
            row["family"],
            row["dtype"],
            f"{row['mean_depth']:.2f}",
            *((f"{row[f'mean_depth_{k}']:.2f}" for k in ("known", "unknown")) if mixed else ()),
            "-" if row["mean_depth_search"] is None else f"{row['mean_depth_search']:.2f}",
            percent(row["error"]),
            percent(row["error_search"]),
            milliseconds(row["predicted_s"]),
            milliseconds(row["predicted_search_s"]),
            milliseconds(row["measured_s"]),
            _kept(row["budgets"]),
        ]
        for row in result["rows"]
    ]
    print_table(
        out,
        "named points and the full network; before = on the search rows; budgets: share used, "
        "before -> now",
        columns,
        rows,
    )


def _kept(budgets: list[Result]) -> str:
    told = (
        f"{b['budget']} {100 * b['value_search'] / b['limit']:.0f} -> "
        f"{100 * b['value'] / b['limit']:.0f} %{'' if b['holds'] else ' (broken)'}"
        for b in budgets
    )
    return ", ".join(told) or "none"


def _agreement(result: Result, out: TextIO) -> None:
    names = ("mape", "spearman", "coverage")
    groups: dict[tuple[str, str, str], dict[str, float | None]] = {}
    for name in names:
        for entry in result.get(name, ()):
            group = (str(entry["runtime"]), str(entry["dtype"]), str(entry["batch"]))
            groups.setdefault(group, {})[name] = entry["value"]
            if name == "mape":
                groups[group]["mape scaled"] = entry.get("scaled")
    shown = ("mape", "mape scaled", "spearman", "coverage")
    rows = [
        [*group, *(_plain(values.get(name)) for name in shown)] for group, values in groups.items()
    ]
    print_table(out, "agreement", ("runtime", "dtype", "batch", *shown), rows)


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def dry_run(result: Result, out: TextIO) -> None:
    """What a search would take, step by step."""
    rows = [[s["step"], f"{s['seconds']:.0f}", s["why"]] for s in result["estimates"]]
    rows.append(["in all", f"{result['seconds']:.0f}", "estimated from a forward pass timed now"])
    print_table(out, f"{result['passes']} passes", ("step", "seconds", "estimated from"), rows)
    memory, disk = result["memory_bytes"] / 1e9, result["disk_bytes"] / 1e9
    out.write(f"memory: about {memory:.1f} GB over all processes; disk: about {disk:.2f} GB\n")
    for name, there in result["cached"].items():
        out.write(f"{name}: {'cached' if there else 'not cached yet'}\n")
    for device, limits in result["budgets"].items():
        for name, limit in limits.items():
            out.write(f"budget on {device}: {name} <= {limit:.4g}, can be met\n")
    for device in result["unpriced"]:
        out.write(f"{device}: not calibrated yet, so its budgets cannot be checked\n")


def schema(result: Result, out: TextIO) -> None:
    """The JSON Schema itself."""
    out.write(json.dumps(result["schema"], indent=1) + "\n")


def doctor(result: Result, out: TextIO) -> None:
    """One line a check, and what to do about those that are not ok."""
    rows = [[row["check"], row["state"], row["found"]] for row in result["checks"]]
    print_table(out, "this machine", ("check", "state", "found"), rows)
    for row in result["checks"]:
        if row["advice"]:
            out.write(f"{row['check']}: {row['advice']}\n")


def calibrate(result: Result, out: TextIO) -> None:
    """Where the profile is and how well it fits."""
    out.write("device: {device}\nprofile: {profile}\nmeasurements: {n}\n".format(**result))
    out.write(f"error on groups left out of the fit: {percent(result['error'])} %\n")


def devices(result: Result, out: TextIO) -> None:
    """A line a device, or every number of one device with its origin and source."""
    entries = result["devices"]
    if len(entries) == 1 and "numbers" in entries[0]:
        out.write("{name} ({kind}): {summary}\n".format(**entries[0]))
        for runtime in entries[0]["profiles"]:
            out.write(f"profile: {entries[0]['name']}@{runtime}\n")
        print_table(out, "", _NUMBER_COLUMNS, [_number_row(row) for row in entries[0]["numbers"]])
    else:
        print_table(out, "", _DEVICE_COLUMNS, [_device_row(entry) for entry in entries])


_NUMBER_COLUMNS = ("key", "value", "unit", "grade", "origin", "source")
_DEVICE_COLUMNS = (
    "name",
    "kind",
    "fp32 TFLOP/s",
    "bf16 TFLOP/s",
    "GB/s",
    "GB",
    "origin",
    "profiles",
    "summary",
)


def _number_row(row: Result) -> list[str]:
    return [f"{row[c]:.4g}" if c == "value" else str(row[c]) for c in _NUMBER_COLUMNS]


def _device_row(entry: Result) -> list[str]:
    return [
        entry["name"],
        entry["kind"],
        *(f"{entry['peak_flops_per_s'][dtype] / 1e12:.4g}" for dtype in ("fp32", "bf16")),
        f"{entry['bandwidth_bytes_per_s'] / 1e9:.4g}",
        f"{entry['capacity_bytes'] / 1e9:.4g}",
        entry["origin"],
        " ".join(entry["profiles"]) or "-",
        entry["summary"],
    ]


def cost(result: Result, out: TextIO) -> None:
    """Every quantity with its 90 % interval and where it comes from."""
    rows = [
        [
            name,
            *(_quantity(name, result[name][end]) for end in ("value", "low", "high")),
            unit,
            result[name]["origin"],
        ]
        for name, unit in COST_UNITS.items()
        if name in result
    ]
    print_table(out, "", ("quantity", "value", "low", "high", "unit", "origin"), rows)


COST_UNITS = {
    "mean": "ms",
    "p50": "ms",
    "p95": "ms",
    "p99": "ms",
    "best": "ms",
    "worst": "ms",
    "energy_j": "J",
    "peak_bytes": "MB",
    "flops_ideal": "FLOP",
    "flops_executed": "FLOP",
}


def _quantity(name: str, value: float | None) -> str:
    if COST_UNITS[name] == "ms":
        return milliseconds(value)
    if COST_UNITS[name] == "MB":
        return megabytes(value)
    return "-" if value is None else f"{value:.4g}"
