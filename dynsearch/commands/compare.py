"""`dynsearch compare`: two runs side by side, where their figures mean the same."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from dynsearch.commands.tables import milliseconds, percent, print_table
from dynsearch.export.front import read_front
from dynsearch.export.records import LOSS_LEVELS, Front, FrontPoint
from dynsearch.quality.trace import trace_header
from dynsearch.search.runs import Run, open_run
from search_spaces.errors import InputError

Result = dict[str, Any]


def compare(first: Path, second: Path) -> Result:
    """What differs between two runs, and what each reached.

    Args:
        first: Run folder with a front.
        second: Another.

    Returns:
        `runs` (two records: folder, passes, hypervolume, full network's error), `settings` that
        differ, `configurations` (ids in both, and in one alone), `front`: one row for each
        device, number format and allowed loss with the point that each run named.

    Raises:
        InputError: no run or no front there, or the two ranked by different metrics or on
            different rows.
    """
    runs = open_run(first), open_run(second)
    fronts = read_front(first), read_front(second)
    _check_comparable(runs, fronts)
    ids = [{p.id for p in front.front} for front in fronts]
    jobs = [dict(_flat(_job_table(run))) for run in runs]
    keys = dict.fromkeys([*jobs[0], *jobs[1]])
    return {
        "runs": [_summary(run, front) for run, front in zip(runs, fronts, strict=True)],
        "settings": [
            {"key": key, "first": jobs[0].get(key), "second": jobs[1].get(key)}
            for key in keys
            if jobs[0].get(key) != jobs[1].get(key)
        ],
        "configurations": {
            "both": sorted(ids[0] & ids[1]),
            "first_only": sorted(ids[0] - ids[1]),
            "second_only": sorted(ids[1] - ids[0]),
        },
        "front": _side_by_side(*fronts),
    }


def _check_comparable(runs: tuple[Run, Run], fronts: tuple[Front, Front]) -> None:
    one, two = fronts
    place = runs[1].path
    if one.metric != two.metric:
        text = f"ranks by another metric than {runs[0].path} ({one.metric}); losses of two "
        text += "metrics are not comparable: compare runs whose jobs have the same quality.metric"
        raise InputError.one(place, "metric", two.metric, text)
    rows = [(f.reference.selected_n, f.reference.confirmed_n) for f in fronts]
    splits = [_split(run) for run in runs]
    known = None not in splits
    same = rows[0] == rows[1] and (splits[0] == splits[1] if known else True)
    if not same:
        found = f"{rows[1][0]} search rows, {rows[1][1] or 0} report rows"
        text = f"was searched on other rows than {runs[0].path} ({rows[0][0]} search rows, "
        text += f"{rows[0][1] or 0} report rows); compare runs of the same data and splits"
        raise InputError.one(place, "split", found, text)


def _split(run: Run) -> str | None:
    """Hash of the search rows, from the first trace; None where none is left."""
    path = next(iter(sorted((run.path / "traces").glob("*.npz"))), None)
    found = None if path is None else trace_header(path).get("split_hash")
    return None if found is None else str(found)


def _job_table(run: Run) -> dict[str, Any]:
    try:
        return tomllib.loads(run.job_file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        text = f"is not valid TOML ({error}); restore it from a copy"
        raise InputError.one(run.job_file, "", None, text) from None


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _summary(run: Run, front: Front) -> Result:
    last = front.hypervolume[-1] if front.hypervolume else None
    return {
        "run": str(run.path),
        "job": front.job,
        "metric": front.metric,
        "passes": last.passes if last else 0,
        "seconds": last.seconds if last else 0.0,
        "hypervolume": last.mean if last else 0.0,
        "hypervolume_by_device": dict(last.devices) if last else {},
        "configurations": len({p.id for p in front.front}),
        "full_error_selected": front.reference.selected_error,
        "full_error_confirmed": front.reference.confirmed_error,
    }


def _side_by_side(one: Front, two: Front) -> list[Result]:
    """A row for each device, format and level that either run names a point for."""
    places = dict.fromkeys((p.device, p.dtype) for f in (one, two) for p in f.front)
    rows = []
    for device, dtype in places:
        for level in LOSS_LEVELS:
            named = [_named(front, device, dtype, level) for front in (one, two)]
            if any(named):
                place = {"device": device, "dtype": dtype, "level": level}
                rows.append(place | {"first": named[0], "second": named[1]})
    return rows


def _named(front: Front, device: str, dtype: str, level: float) -> Result | None:
    for p in front.front:
        if (p.device, p.dtype) == (device, dtype) and level in p.named:
            return _point(front, p)
    return None


def _point(front: Front, p: FrontPoint) -> Result:
    full = front.reference.cost(p.device, p.dtype)
    return {
        "id": p.id,
        "family": p.family,
        "selected_loss": p.selected.loss,
        "confirmed": asdict(p.confirmed) if p.confirmed else None,
        "latency_mean_s": p.predicted.latency_mean_s,
        "low_s": p.predicted.low_s,
        "high_s": p.predicted.high_s,
        "speed_up": full.per_sample_s / p.predicted.per_sample_s if full else None,
    }


def show(result: Result, out: TextIO) -> None:
    """Runs, differing settings, configurations and fronts as tables."""
    one, two = result["runs"]
    rows = [
        ["run", one["run"], two["run"]],
        ["passes", str(one["passes"]), str(two["passes"])],
        ["hypervolume", f"{one['hypervolume']:.4f}", f"{two['hypervolume']:.4f}"],
    ]
    for name in dict.fromkeys([*one["hypervolume_by_device"], *two["hypervolume_by_device"]]):
        found = [r["hypervolume_by_device"].get(name) for r in (one, two)]
        rows.append([f"on {name}", *("-" if v is None else f"{v:.4f}" for v in found)])
    print_table(out, "two runs", ("", "first", "second"), rows)
    settings = [[s["key"], _value(s["first"]), _value(s["second"])] for s in result["settings"]]
    out.write("\n")
    if settings:
        print_table(out, "settings that differ", ("setting", "first", "second"), settings)
    else:
        out.write("no setting differs\n")
    ids = result["configurations"]
    out.write(f"\nconfigurations in both: {len(ids['both'])}\n")
    for name, key in (("first", "first_only"), ("second", "second_only")):
        out.write(f"only in the {name}: {len(ids[key])}  {' '.join(ids[key])}".rstrip() + "\n")
    columns = ("device", "dtype", "loss %", "first", "ms", "loss % confirmed")
    lines = [
        [
            r["device"],
            r["dtype"],
            f"{r['level'] * 100:g}",
            *_cells(r["first"]),
            *_cells(r["second"]),
        ]
        for r in result["front"]
    ]
    out.write("\n")
    heads = (*columns, "second", "ms", "loss % confirmed")
    print_table(out, "named configurations, predicted latency", heads, lines)


def _cells(point: Result | None) -> list[str]:
    if point is None:
        return ["-", "-", "-"]
    confirmed = point["confirmed"] or {}
    return [point["id"], milliseconds(point["latency_mean_s"]), percent(confirmed.get("loss"))]


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
