"""An export held to its promise: cost, exits, quality and memory measured here, beside predicted.

Times are those of `bench`: the workload's batch size, number format and threads; the worst case
is a full batch at the longest input with no exit taken. A budget of the job is met or missed by
what was measured; what cannot be measured here (energy) is neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.bench_timing import (
    Batch,
    Runner,
    make_blocks,
    quiet_machine,
    time_interleaved,
)
from dynsearch.commands.devices import is_calibrated, local_file
from dynsearch.errors import InputError
from dynsearch.export.engines import Engine, engine_of, worst_batch
from dynsearch.export.opened import OpenedExport, open_export
from dynsearch.export.promise import label_column
from dynsearch.export.resident import measure
from dynsearch.models.tokens import Tokens, tokenize
from dynsearch.quality.data import read_unchecked

UNKNOWN = -1  # class of a label that the network does not know
WORST_RUNS = 5  # of the worst case, each repeat
Z95 = 1.96
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
LATENCIES = ("latency_mean_s", "time_per_sample_s", "latency_p95_s", "latency_p99_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Tokenised texts with the classes that the network knows."""

    tokens: Tokens
    labels: I64  # [N] UNKNOWN where there is none, or none that is known
    truncated: int  # texts longer than the network reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What the network answers, and where."""

    right: NDArray[np.bool_]  # of texts whose label is known
    exits: F64  # [L] share of the texts that leave after each layer


def verify(
    folder: Path,
    *,
    data: Path | None = None,
    label: str = "label",
    device: str | None = None,
    rows: int = 400,
    repeats: int = 5,
    on_progress: Callable[[float], None] | None = None,
    runtime: str | None = None,
) -> dict[str, Any]:
    """Measure an export on this machine.

    Args:
        folder: The export.
        data: Texts to run, with the columns that the export names; None: those in the export.
        label: Column of the labels in `data`; rows without one count for cost alone.
        device: Whose prediction and budgets count; None: this machine's where the export has it.
        rows: Texts at most.
        repeats: Repeats of the timing.
        on_progress: Gets the share that is done.
        runtime: Of ONNX graphs: "onnxruntime" (also None) or "openvino".

    Returns:
        `rows` (a budget each), `figures`, `exits`, `certificate`, `passed` and more; `status` is
        "failed" when a budget is missed.

    Raises:
        InputError: the export is not what it was, there are no texts to run, or the runtime does
            not run it.
    """
    export = open_export(folder)
    runtime = runtime or export.runtime
    name, warnings = _device(export, device)
    texts = read_texts(export, data, label, rows)
    engine = engine_of(export, runtime)
    answered = answer(export, engine, texts)
    measured = time_export(export, engine, texts.tokens, repeats)
    _tell(on_progress, 0.9)
    measured["peak_bytes"] = measure(folder, runtime)
    _tell(on_progress, 1.0)
    entry = export.config["expected"]["devices"][name]
    budgets = [
        _budget(key, limit, entry["predicted"], measured)
        for key, limit in entry["budgets"].items()
    ]
    passed = all(row["passed"] is not False for row in budgets)
    warnings += _warnings(export, texts, budgets, runtime)
    return {
        "status": "done" if passed else "failed",
        "warnings": warnings,
        "export": str(folder),
        "id": export.config["id"],
        "device": name,
        "timed_rows": len(texts.tokens),
        "batch": export.workload.batch,
        "threads": export.workload.threads,
        "dtype": export.candidate.dtype,
        "runtime": runtime,
        "rows": budgets,
        "figures": [
            *_costs(entry["predicted"], measured),
            *_quality(export, answered),
        ],
        "exits": _exits(export, answered),
        "certificate": _certificate(export),
        "passed": passed,
    }


def read_texts(export: OpenedExport, data: Path | None, label: str, rows: int) -> Texts:
    """Texts that are given, else those in the export.

    Raises:
        InputError: there are none, or they do not fit the export.
    """
    path = data if data is not None else export.rows_file
    if path is None:
        text = "holds no texts; give --data FILE, or export with --rows 400"
        raise InputError.one(export.folder, "", None, text)
    columns = export.config["text_columns"]
    wanted = columns[0] if len(columns) == 1 else (columns[0], columns[1])
    column = label if data is not None else label_column(columns)
    texts, names = read_unchecked(path, text=wanted, label=column)
    texts, names = texts[:rows], names[:rows]
    index = {name: k for k, name in enumerate(export.labels)}
    longest = export.config["max_len"]
    whole = tokenize(export.tokenizer, texts, export.network.max_len)
    return Texts(
        tokens=tokenize(export.tokenizer, texts, longest),
        labels=np.array([index.get(name, UNKNOWN) for name in names], dtype=np.int64),
        truncated=int((whole.lengths > longest).sum()),
    )


def answer(export: OpenedExport, engine: Engine, texts: Texts) -> Answered:
    """Run the texts in the workload's batches."""
    size = len(texts.tokens)
    said, left = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    load = export.workload
    for part in texts.tokens.batches(batch=load.batch, sort=load.sort):
        result = engine.answer((*texts.tokens.batch(part), texts.tokens.batch_types(part)))
        said[part], left[part] = result.prediction, result.exit_layer
    known = texts.labels != UNKNOWN
    layers = np.arange(1, export.candidate.depth + 1)
    return Answered(
        right=(said == texts.labels)[known],
        exits=np.asarray((left[:, None] == layers).mean(axis=0), dtype=np.float64),
    )


def time_export(
    export: OpenedExport, engine: Engine, tokens: Tokens, repeats: int
) -> dict[str, float | None]:
    """Seconds by the names of the costs: medians over the repeats."""
    batch = export.workload.batch
    blocks = make_blocks(tokens, len(tokens), batch=batch, sort=export.workload.sort)
    own = _Recorder(engine.runner)
    with quiet_machine(export.workload.threads):
        timings = time_interleaved([own.run], blocks, repeats=repeats, seed=0)
        longest = time_interleaved(
            [engine.worst_runner],
            [[worst_batch(export)] * WORST_RUNS],
            repeats=repeats,
            seed=0,
        )
    latencies = own.of_repeats(len(blocks[0]), repeats)
    return {
        "latency_mean_s": float(timings.latency_median_s[0]),
        "time_per_sample_s": float(timings.per_sample_median_s[0]),
        "latency_p95_s": float(np.median(np.percentile(latencies, 95, axis=1))),
        "latency_p99_s": float(np.median(np.percentile(latencies, 99, axis=1))),
        "latency_worst_s": float(longest.per_sample_median_s[0]) * batch,
    }


class _Recorder:
    """A runner that keeps each sample's latency."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._seen: list[F64] = []

    def run(self, batch: Batch) -> F64:
        """As the runner inside."""
        start = time.perf_counter()
        answered = self._runner(batch)
        self._seen.append(answered - start)
        return answered

    def of_repeats(self, warm_up: int, repeats: int) -> F64:
        """Latencies [R, N], without those of the first `warm_up` batches."""
        kept = np.concatenate(self._seen[warm_up:])
        return kept.reshape(repeats, -1)


def _device(export: OpenedExport, asked: str | None) -> tuple[str, list[str]]:
    """Whose prediction counts, and what is to be said about it."""
    names = list(export.config["expected"]["devices"])
    if asked is not None:
        if asked not in names:
            text = f"no prediction for it in the export; it has: {', '.join(names)}"
            raise InputError.one("command line", "--device", asked, text)
        return asked, []
    threads = export.workload.threads
    here = _here(threads) if is_calibrated(threads) else None
    if here in names:
        return str(here), []
    text = (
        f"nothing was predicted for this machine; the prediction beside it is for {names[0]} "
        "(--device names another)"
    )
    return names[0], [text]


def _here(threads: int) -> str:
    from cost_models.device import load_device

    return load_device(local_file(threads)).name


def _budget(
    name: str, limit: float, predicted: dict[str, Any], measured: dict[str, float | None]
) -> dict[str, Any]:
    value = measured.get(name)
    return {
        "budget": name,
        "limit": limit,
        "predicted": predicted.get(name),
        "measured": value,
        "passed": None if value is None else value <= limit,
    }


def _figure(
    quantity: str, predicted: Any, low: Any, high: Any, measured: float | None
) -> dict[str, Any]:
    inside = None
    if measured is not None and low is not None:
        inside = bool(low <= measured <= high)
    return {
        "quantity": quantity,
        "predicted": predicted,
        "low": low,
        "high": high,
        "measured": measured,
        "inside": inside,
    }


def _costs(predicted: dict[str, Any], measured: dict[str, float | None]) -> list[dict[str, Any]]:
    """Costs beside their predictions; the mean latency has a 90 % interval."""
    found = []
    for name, value in measured.items():
        ends = (predicted["low_s"], predicted["high_s"])
        low, high = ends if name == "latency_mean_s" else (None, None)
        found.append(_figure(name, predicted.get(name), low, high, value))
    return found


def _quality(export: OpenedExport, answered: Answered) -> list[dict[str, Any]]:
    """Error beside the one that was confirmed (else selected).

    The interval holds 95 % of what as many new rows of the same kind would show, by the normal
    approximation: p +- 1.96 sqrt(p (1 - p) (1 / n + 1 / m)), n rows before and m now.
    """
    now = answered.right.size
    before = export.config["confirmed"] or export.config["selected"]
    if not now or export.config["expected"]["metric"] != "accuracy":
        return []
    p = float(before["error"])
    spread = Z95 * float(np.sqrt(p * (1 - p) * (1 / before["n"] + 1 / now)))
    measured = 1.0 - float(answered.right.mean())
    return [_figure("error", p, max(p - spread, 0.0), min(p + spread, 1.0), measured)]


def _exits(export: OpenedExport, answered: Answered) -> list[dict[str, Any]]:
    """Share of inputs that leave after each layer, beside the search rows'."""
    reach = export.config["expected"]["reach"]
    told: Sequence[float | None] = [None] * answered.exits.size
    if reach is not None:
        entering = np.append(np.asarray(reach, dtype=np.float64), 0.0)
        told = [float(x) for x in (entering[:-1] - entering[1:])[: answered.exits.size]]
    return [
        {"layer": i + 1, "predicted": told[i], "measured": float(share)}
        for i, share in enumerate(answered.exits)
    ]


def _certificate(export: OpenedExport) -> dict[str, Any] | None:
    if export.certificate is not None:
        return {"valid": True, "statement": export.certificate.statement, "void": []}
    return {"valid": False, "statement": None, "void": list(export.void)} if export.void else None


def _warnings(
    export: OpenedExport, texts: Texts, budgets: Sequence[dict[str, Any]], runtime: str
) -> list[str]:
    told = [f"the certificate is void: {reason}" for reason in export.void]
    if runtime != export.workload.runtime:
        told.append(
            f"costs were predicted for {export.workload.runtime}, this export runs on {runtime}"
        )
    if export.changed:
        told.append(
            f"the configuration is not the one exported as {export.config['id']}: predictions "
            "and figures are of that one"
        )
    if texts.truncated:
        told.append(
            f"{texts.truncated} texts are longer than {export.config['max_len']} tokens and were "
            "cut"
        )
    told += [
        f"budget {row['budget']} cannot be measured here"
        for row in budgets
        if row["passed"] is None
    ]
    return told


def _tell(on_progress: Callable[[float], None] | None, share: float) -> None:
    if on_progress is not None:
        on_progress(share)
