"""Times configurations on this machine beside their predictions, and writes `bench.json`.

Rules of the comparison: at least 24 configurations over at least 3x in predicted latency, six or
more each with skimming and with experts, the full network and static truncations timed too but
not counted, at least 400 rows, blocks interleaved over configurations, medians over repeats.
`predicted_s` uses the search rows' activity; `predicted_same_rows_s` the timed rows' own.
`speedup` is the full network's time per sample, in the row's own number format, over the row's.
`predicted_scaled_s` is `predicted_s` times one factor per number format and batch size, measured
over predicted time of the full network: what is left when the machine is faster or slower today
than when it was calibrated. The plain figure stays the one that is judged.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dynsearch.agreement import mape, rank_correlation
from dynsearch.bench_select import (
    REFERENCE_FAMILIES,
    BenchConfig,
    config_of,
    for_batch,
    references,
    select_configs,
)
from dynsearch.bench_timing import (
    Runner,
    Timings,
    encoder_runner,
    make_blocks,
    quiet_machine,
    time_interleaved,
)
from dynsearch.export.files import write_atomic
from dynsearch.export.front import BENCH_FILE, SCHEMA_VERSION
from dynsearch.models.dynamic import DynamicEncoder
from dynsearch.models.tokens import Tokens
from search_spaces.candidate import Candidate
from search_spaces.errors import InputError

MIN_ROWS = 400
RUNTIME = "torch"
F64 = NDArray[np.float64]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Mean latency in seconds of each candidate [B], with its 90 % interval."""

    mean_s: F64
    low_s: F64
    high_s: F64


class Predictor(Protocol):
    """Prices candidates of one dtype at one batch size (sorted when above 1)."""

    def __call__(self, candidates: Sequence[Candidate], batch: int) -> Predictions:
        """Predicted mean latency of each candidate."""


def bench_run(
    run_dir: Path,
    *,
    rows: Tokens,
    configs: Sequence[BenchConfig],
    full: Candidate,
    encoder: Callable[[str], DynamicEncoder],
    predict: Predictor,
    predict_same_rows: Callable[[Sequence[Candidate], int, int], F64] | None = None,
    device: str = "local",
    batches: Sequence[int] = (1, 8),
    dtypes: Sequence[str] = ("fp32",),
    count: int = 24,
    num_rows: int = MIN_ROWS,
    repeats: int = 5,
    threads: int = 1,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Time configurations and write `bench.json` into the run folder.

    Args:
        run_dir: The run folder.
        rows: Report rows, tokenised.
        configs: Pool to choose from, of any dtype.
        full: The full network; its dtype is replaced by each of `dtypes`.
        encoder: dtype -> the runnable network with its weights in it.
        predict: Predicted latency with the search rows' activity.
        predict_same_rows: Predicted mean latency [B] of (candidates, batch, n) with the activity
            of the first n of `rows`.
        device: Device that the predictions are for: this machine.
        batches: Batch sizes; above 1 sorted by length.
        dtypes: Number formats, each a group of its own.
        count: Configurations to time per group, references not among them.
        num_rows: Rows to time.
        repeats: Repeats of everything.
        threads: Torch threads.
        seed: Of the orders in which configurations take turns.
        on_progress: Gets the share that is done.
        engine: Another runtime than torch, with a file of its own.

    Returns:
        The object that `bench.json` holds.

    Raises:
        InputError: no configuration of a dtype can be timed.
    """
    engine = engine or torch_engine(encoder)
    warnings = list(engine.notes)
    groups = []
    for dtype in dtypes:
        pool, statics = _pool_of(run_dir, configs, full, dtype)
        statics += [config_of(replace(full, dtype=other)) for other in engine.beside(dtype)]
        for batch in batches:
            group, lacks = _group(pool, statics, predict, dtype, batch, count)
            warnings += [f"{dtype}, batch {batch}: {text}" for text in lacks]
            groups.append(group)
    timed_rows = min(len(rows), num_rows)
    if timed_rows < num_rows:
        warnings.append(f"only {timed_rows} rows could be timed, {num_rows} are wanted")
    start = time.perf_counter()
    out: list[dict[str, Any]] = []
    figures: dict[str, list[dict[str, Any]]] = {"mape": [], "spearman": [], "coverage": []}
    for i, group in enumerate(groups):
        blocks = make_blocks(rows, timed_rows, batch=group.batch)
        step = _Steps(i, len(groups), len(blocks) * repeats, on_progress)
        runners = [engine.runner(c.candidate, group.batch) for c in group.configs]
        with quiet_machine(threads):
            timings = time_interleaved(runners, blocks, repeats=repeats, seed=seed, on_block=step)
        own = None
        if predict_same_rows is not None:
            own = predict_same_rows(group.run_candidates, group.batch, timed_rows)
        out += _rows(group, timings, own, threads, engine.name)
        for name, value in _figures(group, timings, own).items():
            key = {"runtime": engine.name, "dtype": group.dtype, "batch": group.batch}
            figures[name].append(key | value)
        logger.info("timed %s at batch %d: %s", group.dtype, group.batch, figures["mape"][-1])
    result = {
        "schema_version": SCHEMA_VERSION,
        "command": "bench",
        "status": "done",
        "warnings": warnings,
        "errors": [],
        "device": device,
        "threads": threads,
        "repeats": repeats,
        "timed_rows": timed_rows,
        "seconds": time.perf_counter() - start,
        "rows": out,
        **figures,
    }
    write_atomic(run_dir / engine.file, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What runs the timed configurations."""

    name: str
    file: str  # in the run folder
    runner: Callable[[Candidate, int], Runner]  # candidate, batch size
    beside: Callable[[str], Sequence[str]]  # formats whose full network is timed with a format
    notes: tuple[str, ...] = ()  # warnings about its predictions


def torch_engine(encoder: Callable[[str], DynamicEncoder]) -> Engine:
    """PyTorch, from dtype -> the runnable network."""
    return Engine(
        name=RUNTIME,
        file=BENCH_FILE,
        runner=lambda candidate, batch: encoder_runner(encoder(candidate.dtype), candidate, batch),
        beside=lambda dtype: (),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """What is timed together: one dtype and batch."""

    dtype: str
    batch: int
    configs: list[BenchConfig]  # references last
    counted: list[bool]
    predicted: Predictions

    @property
    def run_candidates(self) -> list[Candidate]:
        """The candidates as they run at this batch size."""
        return [for_batch(c.candidate, self.batch) for c in self.configs]


def _group(
    pool: Sequence[BenchConfig],
    statics: Sequence[BenchConfig],
    predict: Predictor,
    dtype: str,
    batch: int,
    count: int,
) -> tuple[_Group, list[str]]:
    everything = [*pool, *statics]
    known = predict([for_batch(c.candidate, batch) for c in everything], batch)
    chosen, lacks = select_configs(pool, known.mean_s[: len(pool)], count=count)
    take = np.array([*chosen, *range(len(pool), len(everything))], dtype=np.int64)
    group = _Group(
        dtype=dtype,
        batch=batch,
        configs=[everything[i] for i in take],
        counted=[bool(i < len(pool)) for i in take],
        predicted=Predictions(
            mean_s=known.mean_s[take], low_s=known.low_s[take], high_s=known.high_s[take]
        ),
    )
    return group, lacks


@dataclass(slots=True)
class _Steps:
    """Counts the steps of one group and reports the share of everything that is done."""

    group: int
    groups: int
    steps: int
    report: Callable[[float], None] | None
    done: int = 0

    def __call__(self) -> None:
        self.done += 1
        if self.report is not None:
            self.report((self.group + self.done / self.steps) / self.groups)


def _pool_of(
    run_dir: Path, configs: Sequence[BenchConfig], full: Candidate, dtype: str
) -> tuple[list[BenchConfig], list[BenchConfig]]:
    """Configurations of `dtype` to choose from, and the references that are always timed."""
    mine = [c for c in configs if c.candidate.dtype == dtype]
    pool = [c for c in mine if c.family not in REFERENCE_FAMILIES]
    if not pool:
        raise InputError.one(
            run_dir, "dtypes", dtype, "the front has no dynamic configuration of it; leave it out"
        )
    statics = [c for c in mine if c.family in REFERENCE_FAMILIES]
    statics += references(replace(full, dtype=dtype))
    # a network without exits is the same however its batches would treat exits
    return pool, list({c.candidate.depth: c for c in reversed(statics)}.values())[::-1]


def _full(group: _Group, dtype: str) -> int:
    """Place of the full network in a number format, which is always timed."""
    found = (i for i, c in enumerate(group.configs) if c.family == "full")
    return next(i for i in found if group.configs[i].candidate.dtype == dtype)


def _scale(group: _Group, timings: Timings) -> float:
    """Measured over predicted time of the full network."""
    i = _full(group, group.dtype)
    return float(timings.latency_median_s[i] / group.predicted.mean_s[i])


def _rows(
    group: _Group, timings: Timings, own: F64 | None, threads: int, runtime: str
) -> list[dict[str, Any]]:
    scale = _scale(group, timings)
    latency, per_sample = timings.latency_median_s, timings.per_sample_median_s
    return [
        {
            "id": c.id,
            "runtime": runtime,
            "threads": threads,
            "batch": group.batch,
            "dtype": c.candidate.dtype,
            "family": c.family,
            "counted": group.counted[i],
            "predicted_s": float(group.predicted.mean_s[i]),
            "low_s": float(group.predicted.low_s[i]),
            "high_s": float(group.predicted.high_s[i]),
            "predicted_same_rows_s": None if own is None else float(own[i]),
            "predicted_scaled_s": float(group.predicted.mean_s[i]) * scale,
            "measured_s": float(latency[i]),
            "measured_min_s": float(timings.latency_s[:, i].min()),
            "measured_max_s": float(timings.latency_s[:, i].max()),
            "time_per_sample_s": float(per_sample[i]),
            "speedup": float(per_sample[_full(group, c.candidate.dtype)] / per_sample[i]),
        }
        for i, c in enumerate(group.configs)
    ]


def _figures(group: _Group, timings: Timings, own: F64 | None) -> dict[str, dict[str, Any]]:
    """Agreement over the counted configurations."""
    use = np.array(group.counted, dtype=bool)
    p, m = group.predicted, timings.latency_median_s
    inside = (p.low_s <= m) & (m <= p.high_s)
    return {
        "mape": {
            "value": mape(p.mean_s[use], m[use]),
            "same_rows": None if own is None else mape(np.asarray(own)[use], m[use]),
            "scaled": mape(p.mean_s[use] * _scale(group, timings), m[use]),
            "n": int(use.sum()),
        },
        "spearman": {"value": rank_correlation(p.mean_s[use], m[use])},
        "coverage": {"value": float(inside[use].mean()) if use.any() else None},
    }
