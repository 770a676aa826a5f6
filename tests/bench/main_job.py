"""What the newest run of the shipped job reached: speed, agreement with predictions, budgets.

Figures come from the run folder that `make search` leaves (`dynsearch bench RUN` for the full
comparison); nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dynsearch.export.front import BENCH_FILE, read_front, read_json
from dynsearch.report.headline import levels

ROOT = Path(__file__).resolve().parents[2]


def newest(folder: Path) -> Path | None:
    runs = [p.parent for p in folder.glob("short-sentences-*/front.json")]
    return max(runs, key=lambda p: (p / "front.json").stat().st_mtime, default=None)


def speed_rows(run: Path, bench: dict[str, Any] | None) -> list[dict[str, Any]]:
    front = read_front(run)
    device = front.devices[0]
    rows = []
    for level in levels(front, device, bench):
        if level.point is None or level.point.confirmed is None:
            continue
        confirmed = level.point.confirmed
        rows.append(
            {
                "allowed loss": level.loss,
                "dtype": level.dtype,
                "configuration": level.point.id,
                "family": level.point.family,
                "selected loss": level.point.selected.loss,
                "confirmed loss": confirmed.loss,
                "low": confirmed.low,
                "high": confirmed.high,
                "state": level.state,
                "predicted speed-up": level.speed.predicted,
                "measured speed-up": level.speed.measured,
                "static layers": level.static.candidate["depth"] if level.static else "",
                "static measured": level.static_speed.measured,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "out")
    run = newest(parser.parse_args().runs)
    if run is None:
        print("no run of short-sentences yet; `make search` leaves one")
        return
    bench = read_json(run / BENCH_FILE, "") if (run / BENCH_FILE).exists() else None
    rows = speed_rows(run, bench)
    if bench is not None:
        for kind in ("mape", "spearman", "coverage"):
            print(f"{kind} of predictions: " + agreement(bench[kind]))
        print(f"timed: {bench['timed_rows']} rows, {bench['repeats']} repeats, one thread")
    front = read_front(run)
    for device, shares in front.budget_rejection.items():
        told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        print(f"rejected of what the other budgets admit on {device}: {told}")
    print(f"passes: {front.hypervolume[-1].passes} in {front.hypervolume[-1].seconds:.0f} s")
    for row in rows:
        print(json.dumps({k: "" if v is None else v for k, v in row.items()}))


def agreement(entries: list[dict[str, Any]]) -> str:
    return ", ".join(f"{e['dtype']} batch {e['batch']}: {e['value']:.3f}" for e in entries)


if __name__ == "__main__":
    main()
