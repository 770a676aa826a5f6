"""What number formats and threads bring by themselves, and together with the joint search."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from dynsearch.gains.cells import Result, full_s, row, speed_cells
from search_spaces.candidate import DTYPES


def format_table(results: Sequence[Result]) -> list[str]:
    """What number formats and threads bring by themselves, and with the joint search."""
    shown = (0.005, 0.01)
    cells = [c for c in speed_cells(results) if c["family"] == "joint"]
    head = [
        "against the full network in fp32 on one thread",
        "full network",
        *(f"joint, loss at most {100 * level:g}" for level in shown),
    ]
    lines = [row(head), row(["---"] * len(head))]
    groups = sorted(
        {(t["batch"], t["dtype"]) for r in results for t in r["timings"]},
        key=lambda g: (g[0], DTYPES.index(g[1])),
    )
    for batch, dtype in groups:
        alone = mean(full_s(r, "fp32", batch) / full_s(r, dtype, batch) for r in results)
        texts = []
        for level in shown:
            have = [
                c["against_fp32"]
                for c in cells
                if (c["batch"], c["dtype"], c["level"]) == (batch, dtype, level)
                and "against_fp32" in c
            ]
            texts.append(f"{mean(have):.2f}x" if have else "none")
        lines.append(row([f"{dtype}, batch {batch}", f"{alone:.2f}x", *texts]))
    for batch, dtype in groups:
        found = [
            t for r in results for t in r["timings"] if (t["batch"], t["dtype"]) == (batch, dtype)
        ]
        many = [t["threads"] for t in found if t.get("threads")]
        if many:
            gain = mean(m["one_s"] / m["all_s"] for m in many)
            name = f"{dtype}, batch {batch}, {many[0]['threads']} threads"
            alone = gain * mean(
                full_s(r, "fp32", batch) / full_s(r, dtype, batch) for r in results
            )
            lines.append(row([name, f"{alone:.2f}x", *["not timed"] * len(shown)]))
    return lines
