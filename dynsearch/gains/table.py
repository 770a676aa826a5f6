"""What a comparison found, over seeds, as Markdown: nothing is computed that was not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from dynsearch.export.records import LOSS_LEVELS
from dynsearch.gains.cells import Result, row, speed_cells
from dynsearch.gains.formats import format_table
from search_spaces.candidate import DTYPES


def markdown(results: Sequence[Result]) -> str:
    """Tables of one job; `results` are its `result.json` contents, one a seed."""
    first = results[0]
    seeds = ", ".join(str(r["seed"]) for r in results)
    machine, commit, rows, passes = (
        _by_seed([text(r) for r in results]) for text in (_machine, _commit, _rows, _passes)
    )
    lines = [
        f"## {first['job']}",
        "",
        f"{machine}; commit {commit}; seeds {seeds}. {rows}. Passes, all number formats "
        f"together: {passes}.",
        "",
        "Measured speed-up against the full network of the same number format at the same batch "
        "size (8: sorted by length); in brackets the loss in points, confirmed on the report "
        "rows. Each point is the fastest whose `error_bound` on the search rows allows the "
        "level, named before the report rows were opened. *missed*: its confirmed loss is above "
        "the level. Where there are several seeds, speed-ups and losses are means, in square "
        "brackets stand the least and the largest speed-up, and *missed in* counts seeds."
        + _not_searched(first),
        "",
        *_speed_table(results),
        "",
        *format_table(results),
        "",
        *_reference_table(results),
        "",
        *_volume_table(results),
        "",
        *_agreement(results),
    ]
    return "\n".join(lines) + "\n"


def _machine(result: Result) -> str:
    return f"{result['processor']}, {result['threads']} thread of {result['cores']} cores"


def _commit(result: Result) -> str:
    return f"`{(result['commit'] or 'unknown')[:7]}`"


def _rows(result: Result) -> str:
    rows = result["rows"]
    timed = f"{rows['timed']} timed x {rows['repeats']} repeats"
    return f"{rows['search']:,} search rows, {rows['report']:,} report rows, {timed}"


def _passes(result: Result) -> str:
    return ", ".join(f"{family} {number}" for family, number in result["passes"].items())


def _by_seed(texts: Sequence[str]) -> str:
    """One text where all seeds have the same, else those of all seeds in their order."""
    return texts[0] if len(set(texts)) == 1 else "; ".join(texts)


def _not_searched(result: Result) -> str:
    names = result.get("not_searched", [])
    if not names:
        return ""
    return f" Not searched, the full and the static networks alone are timed: {', '.join(names)}."


def _speed_table(results: Sequence[Result]) -> list[str]:
    cells = speed_cells(results)
    head = [f"loss at most {100 * level:g}" for level in LOSS_LEVELS]
    lines = [row(["batch", "format", "family", *head]), row(["---"] * (3 + len(head)))]
    keys = dict.fromkeys((c["batch"], c["dtype"], c["family"]) for c in cells)
    for batch, dtype, family in sorted(keys, key=lambda k: (k[0], DTYPES.index(k[1]))):
        texts = []
        for level in LOSS_LEVELS:
            mine = [
                c
                for c in cells
                if (c["batch"], c["dtype"], c["family"], c["level"])
                == (batch, dtype, family, level)
            ]
            texts.append(_cell(mine, level, len(results)))
        lines.append(row([batch, dtype, family, *texts]))
    return lines


def _cell(mine: Sequence[Mapping[str, Any]], level: float, seeds: int) -> str:
    have = [c for c in mine if "speed_up" in c]
    if not have:
        return "none"
    speeds = [c["speed_up"] for c in have]
    loss = 100 * mean(c["confirmed_loss"] for c in have)
    missed = sum(c["confirmed_loss"] > level + 1e-12 for c in have)
    if len(have) == 1:
        text = f"{speeds[0]:.2f}x ({loss:+.2f})" + (" *missed*" if missed else "")
    else:
        text = f"{mean(speeds):.2f}x [{min(speeds):.2f}, {max(speeds):.2f}] ({loss:+.2f})"
        text += f" *missed in {missed}*" if missed else ""
    if len(have) < seeds:
        text += f" [{len(have)} of {seeds} seeds]"
    return text


def _reference_table(results: Sequence[Result]) -> list[str]:
    lines = [
        row(["network", "error on report rows", "loss against the full network, points"]),
        row(["---"] * 3),
    ]
    errors = [r["full"]["confirmed_error"] for r in results]
    lines.append(row(["full network", _points(errors), "0"]))
    references = [reference for r in results for reference in r["references"]]
    for name in dict.fromkeys(reference["name"] for reference in references):
        found = [reference["confirmed"] for reference in references if reference["name"] == name]
        loss = [100 * f["loss"] for f in found]
        spread = f"{mean(loss):+.2f} [{min(f['low'] for f in found) * 100:+.2f}, "
        spread += f"{max(f['high'] for f in found) * 100:+.2f}]"
        lines.append(row([name, _points([f["error"] for f in found]), spread]))
    return lines


def _volume_table(results: Sequence[Result]) -> list[str]:
    fronts = [f for r in results for f in r["fronts"]]
    families = list(dict.fromkeys(f["family"] for f in fronts))
    groups = list(dict.fromkeys((f["dtype"], f["batch"]) for f in fronts))
    head = [f"{dtype}, batch {batch}" for dtype, batch in groups]
    lines = [row(["hypervolume (search rows, predicted)", *head])]
    lines.append(row(["---"] * (1 + len(head))))
    for family in families:
        texts = []
        for group in groups:
            values = [
                f["hypervolume"]
                for f in fronts
                if (f["family"], f["dtype"], f["batch"]) == (family, *group)
            ]
            few = f" [{len(values)} of {len(results)} seeds]" if len(values) < len(results) else ""
            texts.append(f"{mean(values):.4f}{few}" if values else "none")
        lines.append(row([family, *texts]))
    return lines


def agreement(results: Sequence[Result]) -> dict[str, Any]:
    """How selected figures agree with confirmed ones, and predicted with measured ones."""
    gaps = [100 * (p["confirmed"]["loss"] - p["selected_loss"]) for p in _points_of(results)]
    errors = [100 * (p["confirmed"]["error"] - p["selected_error"]) for p in _points_of(results)]
    groups = []
    for dtype, batch in dict.fromkeys((t["dtype"], t["batch"]) for t in results[0]["timings"]):
        predicted, scaled, measured, speed, over = [], [], [], [], []
        own: list[tuple[float, float]] = []
        for result in results:
            timed = next(
                t for t in result["timings"] if (t["dtype"], t["batch"]) == (dtype, batch)
            )
            times = timed["per_sample_s"]
            for front in result["fronts"]:
                if (front["dtype"], front["batch"]) != (dtype, batch):
                    continue
                for p in front["points"]:
                    if p["levels"] and p["id"] not in timed["same"]:
                        predicted.append(p["predicted_s"])
                        scaled.append(p["predicted_s"] * timed["scale"])
                        measured.append(times[p["id"]]["median"])
                        gain = times["full"]["median"] / measured[-1]
                        speed.append(front["full_predicted_s"] / predicted[-1] / gain)
                        if p.get("predicted_same_rows_s") is not None:
                            own.append((p["predicted_same_rows_s"], measured[-1]))
                        over.append(measured[-1] > p["predicted_high_s"])
        if not predicted:
            continue
        ratio = np.array(predicted) / np.array(measured)
        enough = len(set(measured)) > 2 and len(set(predicted)) > 1
        rank = float(spearmanr(predicted, measured).statistic) if enough else None
        groups.append(
            {
                "dtype": dtype,
                "batch": batch,
                "n": len(predicted),
                "mape": float(np.abs(ratio - 1).mean()),
                "scaled": float(np.abs(np.array(scaled) / np.array(measured) - 1).mean()),
                "same_rows": float(np.mean([abs(p / m - 1) for p, m in own])) if own else None,
                "same_rows_n": len(own),
                "speed_up": float(np.abs(np.array(speed) - 1).mean()),
                "spearman": rank,
                "over": float(np.mean(over)),
            }
        )
    return {
        "loss_gap_points": {
            "mean": float(np.mean(gaps)),
            "worst": float(np.max(gaps)),
            "se": float(np.std(gaps, ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else 0.0,
            "n": len(gaps),
        },
        "accuracy_gap_points": {"mean": float(np.mean(errors)), "worst": float(np.max(errors))},
        "predicted": groups,
    }


def _points_of(results: Sequence[Result]) -> Iterable[Mapping[str, Any]]:
    for result in results:
        seen = set()
        for front in result["fronts"]:
            for p in front["points"]:
                if p["id"] not in seen:
                    seen.add(p["id"])
                    yield p


def _agreement(results: Sequence[Result]) -> list[str]:
    found = agreement(results)
    gap, accuracy = found["loss_gap_points"], found["accuracy_gap_points"]
    lines = [
        f"Confirmed minus selected loss over {gap['n']} points: mean {gap['mean']:+.2f} points "
        f"(standard error {gap['se']:.2f}), worst {gap['worst']:+.2f}. Selected minus confirmed "
        f"accuracy, which also holds what separates the two splits: mean "
        f"{accuracy['mean']:+.2f}, worst {accuracy['worst']:+.2f}.",
        "",
        "Predicted times with *one scale a group* are multiplied by measured over predicted time "
        "of the full network on a few search rows, by number format and batch size. All know the "
        "search rows alone, but those *of the timed rows* how far each of these went. *Over "
        "budget*: points slower than the upper end of their predicted 90 % interval, the budget "
        "that a cautious search would have given them.",
        "",
        row(
            [
                "predicted against measured, named points",
                "points",
                "MAPE",
                "MAPE, one scale a group",
                "MAPE, of the timed rows",
                "error of speed-up",
                "Spearman",
                "over budget",
            ]
        ),
        row(["---"] * 8),
    ]
    for g in found["predicted"]:
        lines.append(
            row(
                [
                    f"{g['dtype']}, batch {g['batch']}",
                    g["n"],
                    f"{100 * g['mape']:.1f} %",
                    f"{100 * g['scaled']:.1f} %",
                    _same_rows(g),
                    f"{100 * g['speed_up']:.1f} %",
                    "too few" if g["spearman"] is None else f"{g['spearman']:.3f}",
                    f"{100 * g['over']:.0f} %",
                ]
            )
        )
    return lines


def _same_rows(group: Mapping[str, Any]) -> str:
    """Of how many points, where older results know no such predictions."""
    if group["same_rows"] is None:
        return "-"
    few = f" ({group['same_rows_n']} of {group['n']})" if group["same_rows_n"] < group["n"] else ""
    return f"{100 * group['same_rows']:.1f} %{few}"


def _points(errors: Sequence[float]) -> str:
    return " / ".join(f"{100 * e:.2f} %" for e in errors)
