"""How far a predicted gain over exits alone is to be trusted, from finished comparisons.

Run: python tests/bench/joint_over_exits.py [FOLDER]; FOLDER holds results of `dynsearch gains`
(`*/result.json`), docs/gains unless given. Each cell of their tables (number format, batch size,
level) in which joint search named another point than exits alone is one pair, predicted and
measured. Prints a table by predicted gain, asserts nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[2] / "docs" / "gains"
EDGES = (0.0, 1.03, 1.1, 1.25, np.inf)


def main() -> int:
    """Print how many pairs were slower than exits alone, and mean gains."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    files = sorted(folder.glob("*/result.json"))
    found = np.array([pair for file in files for pair in pairs(json.loads(file.read_text()))])
    print(f"{len(files)} comparisons, {len(found)} pairs")
    print("| predicted, times as fast as exits alone | pairs | predicted | measured | slower |")
    print("| --- | --- | --- | --- | --- |")
    for low, high in pairwise(EDGES):
        mine = found[(found[:, 0] >= low) & (found[:, 0] < high)]
        means = " | ".join(f"{x:.2f}" for x in mine.mean(axis=0)) if len(mine) else "- | -"
        what = f"{low:g} to {high:g}" if low and high < np.inf else f"below {high:g}"
        what = f"{low:g} or more" if high == np.inf else what
        print(f"| {what} | {len(mine)} | {means} | {(mine[:, 1] < 1.0).sum()} |")
    return 0


def pairs(result: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """Time of exits alone over that of joint search, predicted and measured, by cell."""
    timed = {(g["dtype"], g["batch"]): g["per_sample_s"] for g in result["timings"]}
    named = {
        (f["family"], f["dtype"], f["batch"], level): point
        for f in result["fronts"]
        for point in f["points"]
        for level in point["levels"]
    }
    for (family, dtype, batch, level), joint in named.items():
        exits = named.get(("exit-only", dtype, batch, level))
        if family != "joint" or exits is None or exits["id"] == joint["id"]:
            continue
        seconds = timed[dtype, batch]
        if joint["id"] in seconds and exits["id"] in seconds:
            measured = seconds[exits["id"]]["median"] / seconds[joint["id"]]["median"]
            yield exits["predicted_s"] / joint["predicted_s"], measured


if __name__ == "__main__":
    sys.exit(main())
