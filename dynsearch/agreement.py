"""How well predictions agree with measurements: the benches of runs, by runtime and pooled.

What must be reached, and on how much, is a protocol fixed before anything was measured: every
group (runtime, number format, batch) is judged alone, and the worst counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from dynsearch.bench_select import MIN_CONFIGS, MIN_OF_FAMILY, MIN_SPAN
from dynsearch.errors import InputError
from dynsearch.export.files import write_atomic
from dynsearch.export.front import BENCH_FILE, read_front, read_json
from dynsearch.export.records import Front

MIN_ROWS, MIN_POOLED = 400, 150
MAX_MAPE, MAX_OVER = 0.10, 0.05
INSIDE_OF_24 = 19  # intervals that must hold their measurement, of each 24
POOLED = (0.85, 0.95)  # share of all intervals that may
FILE = "agreement.md"
F64 = NDArray[np.float64]
Limit = tuple[float, int]  # seconds, batch size
CALIBRATED = "it was not calibrated on this machine"


def read_benches(run_dir: Path) -> list[dict[str, Any]]:
    """What a run folder holds of measurements: torch's first, then other runtimes' by name.

    Raises:
        InputError: a file is half-written or of a newer schema.
    """
    first = run_dir / BENCH_FILE
    files = [first] if first.is_file() else []
    files += sorted(run_dir.glob(f"{first.stem}-*.json"))
    return [read_json(file, "") for file in files]


def agreement(run_dirs: Sequence[Path]) -> dict[str, Any]:
    """Judge the measurements of finished runs; the table is `agreement.md` in the first of them.

    Args:
        run_dirs: Run folders that were benched.

    Returns:
        `rows` by run, runtime, number format and batch; `runtimes` with the worst of their rows;
        `pooled`; `passed`; `files`; `warnings`, which say what the protocol lacks.

    Raises:
        InputError: a run without front or measurements, or with damaged ones.
    """
    rows: list[dict[str, Any]] = []
    warnings: list[str] = []
    for run_dir in run_dirs:
        front = read_front(run_dir)
        found = read_benches(run_dir)
        if not found:
            text = "nothing was measured yet; run: dynsearch bench RUN --runtime torch"
            raise InputError.one(run_dir, BENCH_FILE, None, text)
        for bench in found:
            rows += judged(run_dir.name, bench, limit_of(front, bench))
            if any("not calibrated" in text for text in bench["warnings"]):
                warnings.append(f"{bench['rows'][0]['runtime']}: {CALIBRATED}")
    warnings += [f"{_name(row)}: {text}" for row in rows for text in row["lacks"]]
    runtimes = [_runtime(name, rows) for name in dict.fromkeys(r["runtime"] for r in rows)]
    whole = pooled(rows)
    result: dict[str, Any] = {
        "rows": rows,
        "runtimes": runtimes,
        "pooled": whole,
        "passed": all(r["passed"] for r in rows) and whole["passed"],
        "warnings": list(dict.fromkeys(warnings)),
    }
    return result | {"files": [str(write_atomic(run_dirs[0] / FILE, markdown(result)))]}


def limit_of(front: Front, bench: Mapping[str, Any]) -> Limit | None:
    """Budget of the mean latency that a bench is held to, with the batch size it is stated for."""
    limit = front.budgets.get(str(bench.get("device")), {}).get("latency_mean_s")
    return None if limit is None else (limit, int(front.workload.get("batch", 1)))


def judged(run: str, bench: Mapping[str, Any], limit: Limit | None) -> list[dict[str, Any]]:
    """One row a number format and batch of a bench.

    Args:
        run: Name of the run.
        bench: What its bench wrote.
        limit: From `limit_of`; other batch sizes than its own are held to none.
    """
    keys = dict.fromkeys((r["runtime"], r["dtype"], r["batch"]) for r in bench["rows"])
    out = []
    for runtime, dtype, batch in keys:
        group = [r for r in bench["rows"] if (r["runtime"], r["batch"]) == (runtime, batch)]
        mine = [r for r in group if r["dtype"] == dtype and r.get("counted", True)]
        if mine:  # other formats have their full network alone beside it
            named = {"run": run, "runtime": runtime, "dtype": dtype, "batch": batch}
            limit_s = limit[0] if limit and limit[1] == batch else None
            out.append(named | _judge(mine, bench, limit_s))
    return out


def _judge(
    mine: Sequence[Mapping[str, Any]], bench: Mapping[str, Any], limit_s: float | None
) -> dict[str, Any]:
    """Figures of one group, what the protocol lacks, whether it passes."""
    predicted = np.array([r["predicted_s"] for r in mine])
    measured = np.array([r["measured_s"] for r in mine])
    own = [r.get("predicted_same_rows_s") for r in mine]
    inside = sum(r["low_s"] <= r["measured_s"] <= r["high_s"] for r in mine)
    error = mape(predicted, measured)
    over = _over(predicted, measured, limit_s)
    needed = math.ceil(INSIDE_OF_24 / 24 * len(mine) - 1e-9)
    within = error is not None and error <= MAX_MAPE and (over is None or over <= MAX_OVER)
    return {
        "n": len(mine),
        "timed_rows": bench["timed_rows"],
        "span": float(predicted.max() / predicted.min()),
        "mape": error,
        "mape_same_rows": None if None in own else mape(np.array(own), measured),
        "spearman": rank_correlation(predicted, measured),
        "over_budget": over,
        "inside": inside,
        "inside_needed": needed,
        "lacks": _lacks(mine, bench, float(predicted.max() / predicted.min())),
        "passed": within and inside >= needed,
    }


def _over(predicted: F64, measured: F64, limit_s: float | None) -> float | None:
    """Largest overrun of the budget, as a share, among those predicted to keep it."""
    if limit_s is None:
        return None
    kept = measured[predicted <= limit_s]
    return None if kept.size == 0 else max(0.0, float(kept.max() / limit_s - 1))


def _lacks(mine: Sequence[Mapping[str, Any]], bench: Mapping[str, Any], span: float) -> list[str]:
    """What the protocol asks for and a group does not have."""
    out = []
    if len(mine) < MIN_CONFIGS:
        out.append(f"{len(mine)} configurations, {MIN_CONFIGS} are asked for")
    if span < MIN_SPAN:
        out.append(f"latencies span {span:.2f}x, {MIN_SPAN:g}x is asked for")
    for part in ("skim", "experts"):
        have = sum(part in r["family"] for r in mine)
        if have < MIN_OF_FAMILY:
            out.append(f"{have} configurations with {part}, {MIN_OF_FAMILY} are asked for")
    if bench["timed_rows"] < MIN_ROWS:
        out.append(f"{bench['timed_rows']} timed rows, {MIN_ROWS} are asked for")
    return out


def _runtime(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The worst of a runtime's groups."""
    mine = [r for r in rows if r["runtime"] == name]
    over = [r["over_budget"] for r in mine if r["over_budget"] is not None]
    return {
        "runtime": name,
        "mape": max(r["mape"] for r in mine),
        "over_budget": max(over, default=None),
        "inside": sum(r["inside"] for r in mine),
        "n": sum(r["n"] for r in mine),
        "passed": all(r["passed"] for r in mine),
    }


def pooled(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Coverage over all groups: neither too narrow nor too wide, where there are enough."""
    n, inside = sum(r["n"] for r in rows), sum(r["inside"] for r in rows)
    coverage = inside / n
    enough = n >= MIN_POOLED
    low, high = POOLED
    return {
        "n": n,
        "inside": inside,
        "coverage": coverage,
        "enough": enough,
        "passed": enough and low <= coverage <= high,
    }


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['run']}, {row['runtime']} {row['dtype']} at batch {row['batch']}"


COLUMNS = (
    *("run", "runtime", "dtype", "batch", "n", "rows", "MAPE %", "own rows %", "Spearman"),
    *("over budget %", "inside", "needed", "passed"),
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row under `COLUMNS`."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    rank = "-" if row["spearman"] is None else f"{row['spearman']:.3f}"
    return [
        *(str(row[key]) for key in ("run", "runtime", "dtype", "batch", "n", "timed_rows")),
        *(share(row["mape"]), share(row["mape_same_rows"]), rank, share(row["over_budget"])),
        *(str(row["inside"]), str(row["inside_needed"]), "yes" if row["passed"] else "no"),
    ]


def sentence(whole: Mapping[str, Any]) -> str:
    """What the intervals do over everything."""
    low, high = (100 * x for x in POOLED)
    return (
        f"{whole['inside']} of {whole['n']} measurements lie inside their 90 % interval: "
        f"{100 * whole['coverage']:.1f} %, {low:g} to {high:g} % over {MIN_POOLED} or more is "
        f"asked for: {'yes' if whole['passed'] else 'no'}"
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The table as Markdown, with what is asked for and what is lacking."""
    lines = [
        "# Predicted against measured",
        "",
        f"Asked for in every row: MAPE at most {100 * MAX_MAPE:g} %, at most "
        f"{100 * MAX_OVER:g} % over the budget of the mean latency where it was predicted to be "
        f"kept (at the job's batch size), {INSIDE_OF_24} of 24 measurements inside their 90 % "
        "interval.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells(row)) + " |" for row in result["rows"]),
        "",
        sentence(result["pooled"]),
        "",
        *(f"- {text}" for text in result["warnings"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def mape(predicted: F64, measured: F64) -> float | None:
    """Mean of |predicted - measured| / measured, None of nothing."""
    if measured.size == 0:
        return None
    return float(np.mean(np.abs(predicted - measured) / measured))


def rank_correlation(predicted: F64, measured: F64) -> float | None:
    """Spearman's rank correlation, None where ranks do not differ."""
    if np.unique(predicted).size < 2 or np.unique(measured).size < 2:
        return None
    return float(spearmanr(predicted, measured).statistic)
