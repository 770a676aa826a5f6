"""The stopwatch: every named point and reference of a number format and batch size, in turns.

It runs in a process of its own, so that nothing that training or searching left behind (threads,
caches, memory) is timed with it. A static network costs the same whatever its weights are, so
the layers of the supernet stand for those of a fine-tuned one.

Timed are report rows at even ranks of length. Of 200 rows drawn at random the mean length alone
would have a standard error of 2 % on long reviews and 3 % on short sentences.

First of all a few whole forward passes of the full network over search rows are timed in each
group. Measured over predicted, they are the group's `scale`: how much faster or slower the
machine is today than when it was calibrated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.calibrate.host import usable_cores
from dynsearch.bench_timing import (
    Runner,
    encoder_runner,
    make_blocks,
    quiet_machine,
    time_interleaved,
)
from dynsearch.export.files import write_atomic
from dynsearch.opened import reopen
from dynsearch.quality.batches import take
from dynsearch.search.runs import open_run
from search_spaces.codec import candidate_from_dict

WHOLE_ROWS = 64


def time_apart(
    progress: Callable[[float, str], None],
    path: Path,
    plan_file: Path,
    run: Path,
) -> None:
    """Time the groups of `plan_file` on the report rows of a run; writes `path`.

    Args:
        progress: Gets the share that is done.
        path: Gets `timings`, a list by group of seconds per sample by entry.
        plan_file: Threads, `rows` to time, `repeats` of everything, and groups of `dtype`,
            `batch`, `entries` (name -> candidate), `same` (name -> entry that is the same network)
            and `whole_predicted_s`, time per sample of the full network over `WHOLE_ROWS`.
        run: Run folder that holds the supernet.
    """
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    quality = reopen(open_run(run)).quality
    tokens, known = (quality.splits[name].tokens for name in ("report", "search"))
    chosen = take(tokens, timed_rows(tokens.lengths, plan["rows"]))
    timings, repeats = [], plan["repeats"]
    for i, group in enumerate(plan["groups"]):
        blocks = make_blocks(chosen, len(chosen), batch=group["batch"])
        few = make_blocks(known, whole_rows(len(known)), batch=group["batch"])
        counter = _Counter(progress, i, len(plan["groups"]), len(blocks) * repeats)
        timings.append(_time_group(quality, group, blocks, few, plan["threads"], repeats, counter))
    text = json.dumps({"timings": timings}, indent=1, allow_nan=False)
    write_atomic(path, text + "\n")


def timed_rows(lengths: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """At most `rows` of the rows with these lengths [N], at even ranks of length, in order.

    A systematic sample (Cochran 1977, Sampling Techniques, 3rd ed., ch. 8): its mean length is
    that of all rows, but for what one rank in N / rows makes.
    """
    total = int(lengths.size)
    number = min(rows, total)
    ranks = (2 * np.arange(number, dtype=np.int64) + 1) * total // (2 * number)
    return np.sort(np.argsort(lengths, kind="stable")[ranks])


def whole_rows(rows: int) -> int:
    """Search rows, the first of `rows`, that the full network is timed on for the scale."""
    return min(WHOLE_ROWS, rows)


def _time_group(
    quality: Any,
    group: Mapping[str, Any],
    blocks: list[list[Any]],
    few: list[list[Any]],
    threads: int,
    repeats: int,
    on_block: Callable[[], None],
) -> dict[str, Any]:
    entries: Mapping[str, Any] = group["entries"]
    encoder = quality.encoder(group["dtype"])
    runners = [
        encoder_runner(encoder, candidate_from_dict(c, file="to-time.json"), group["batch"])
        for c in entries.values()
    ]
    full = runners[list(entries).index("full")]
    with quiet_machine(threads):
        whole = time_interleaved([full], few, repeats=repeats, seed=0).per_sample_median_s[0]
        found = time_interleaved(runners, blocks, repeats=repeats, seed=0, on_block=on_block)
    spent, middle = found.per_sample_s, found.per_sample_median_s  # [R, C], [C]
    timed = {
        name: {
            "median": float(middle[i]),
            "least": float(spent[:, i].min()),
            "most": float(spent[:, i].max()),
        }
        for i, name in enumerate(entries)
    }
    return {
        "dtype": group["dtype"],
        "batch": group["batch"],
        "same": group["same"],
        "scale": float(whole) / group["whole_predicted_s"],
        "per_sample_s": timed | {name: timed[other] for name, other in group["same"].items()},
        "threads": _all_threads(full, blocks, threads),
    }


def _all_threads(full: Runner, blocks: list[list[Any]], threads: int) -> dict[str, float] | None:
    """Time per sample of the full network on all cores beside that on the job's threads.

    The two take turns; None where there are no more cores than threads.
    """
    cores = usable_cores()
    if cores <= threads:
        return None
    few, found = blocks[: max(1, len(blocks) // 4)], []
    for _ in range(3):
        for number in (threads, cores):
            with quiet_machine(number):
                one = time_interleaved([full], few, repeats=1, seed=0)
            found.append(float(one.per_sample_median_s[0]))
    return {"threads": cores, "one_s": median(found[::2]), "all_s": median(found[1::2])}


class _Counter:
    """Counts blocks and reports the share of everything that is done."""

    def __init__(
        self, progress: Callable[[float, str], None], group: int, groups: int, steps: int
    ) -> None:
        self._progress, self._group, self._groups, self._steps = progress, group, groups, steps
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        self._progress((self._group + self._done / self._steps) / self._groups, "")
