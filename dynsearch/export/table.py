"""The front as one flat table. `CSV_COLUMNS` is both the order of columns and their meaning."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dynsearch.errors import InputError
from dynsearch.export.files import write_atomic
from dynsearch.export.records import Front, FrontPoint
from search_spaces.candidate import Backbone, Candidate, Experts, Skim

Number = TypeVar("Number", int, float)

CSV_FILE = "front.csv"
METRIC_WORDS: dict[str, str] = {
    "accuracy": "share of right answers",
    "macro_f1": "mean over classes of the F1 score",
    "mcc": "Matthews correlation of answers and labels, all classes together (Gorodkin)",
    "nll": "mean negative log likelihood in nats at the configuration's temperature",
    "worst_class": "lowest share of right answers over the classes",
}


def _quality_columns() -> dict[str, str]:
    columns = {}
    for metric, words in METRIC_WORDS.items():
        columns[f"selected_{metric}"] = f"On the search rows: {words}."
        columns[f"confirmed_{metric}"] = f"On the report rows: {words}."
        columns[f"confirmed_{metric}_loss"] = (
            f"How much worse than the full network confirmed_{metric} is, same rows."
        )
        columns[f"confirmed_{metric}_loss_low"] = "Lower end of its paired 95 % interval."
        columns[f"confirmed_{metric}_loss_high"] = "Upper end of its paired 95 % interval."
    columns["length_buckets"] = (
        "Quartiles of the search rows' lengths: tokens from-to of each bucket, by spaces."
    )
    columns["selected_accuracy_by_length"] = "Accuracy on the search rows of each length bucket."
    columns["confirmed_accuracy_by_length"] = (
        "Accuracy on the report rows of each length bucket; - where it has none."
    )
    return columns


CSV_COLUMNS: dict[str, str] = {
    "id": "Short hash of the configuration; names its TOML file and its exported folder.",
    "device": "Device that the predicted figures are for.",
    "family": "Which ideas the configuration combines: exit, skim, experts, joined by +; "
    "truncated = only the first layers, full = the whole network.",
    "dtype": "Number format of weights and arithmetic.",
    "depth": "Deepest layer that exists; every input has an answer by then.",
    "exit_layers": "Layers after which an input may leave early, separated by spaces.",
    "exit_criterion": "Rule that decides whether an exit is sure enough; the score is larger "
    "when the model is surer, and the input leaves when score >= threshold.",
    "exit_thresholds": "Threshold of each early exit, in the order of exit_layers.",
    "exit_patience": "Exits in a row that must agree (criterion patience only).",
    "exit_temperature": "Divides the logits of every exit before the score.",
    "exit_batching": "What a batch does with inputs that have left: serial, wait_all, compact.",
    "skim_layers": "Layers that drop tokens, separated by spaces.",
    "keep_rate": "Share of an input's own tokens alive after each of skim_layers.",
    "expert_layers": "Layers whose feed-forward network is cut into experts.",
    "num_experts": "Experts in each of expert_layers.",
    "top_k": "Experts that run in each of expert_layers.",
    "expert_granularity": "Whether a router chooses experts per token or once per sequence.",
    "named": "Allowed losses for which this is the fastest allowed configuration of its device "
    "and dtype, chosen before the report rows were opened.",
    "dominated": "After confirmation another of its device and dtype is no worse in error "
    "and cost and better in one.",
    "fidelity": "replay = search rows only, confirmed = also report rows, certified = with a "
    "certificate, measured = also timed.",
    "ranked_by": "Metric that ranks: errors and losses are shares of wrong answers for accuracy, "
    "nats for nll, else 1 - metric.",
    "selected_error": "Error on the search rows by the metric that ranks (plain estimate).",
    "selected_loss": "selected_error minus the full network's, same rows.",
    "selected_se": "Standard error of selected_loss (paired).",
    "selected_n": "Number of search rows.",
    "confirmed_error": "The same on the report rows, which chose nothing.",
    "confirmed_loss": "confirmed_error minus the full network's, same rows.",
    "confirmed_loss_low": "Lower end of the paired 95 % interval of confirmed_loss.",
    "confirmed_loss_high": "Upper end of the paired 95 % interval of confirmed_loss.",
    "confirmed_n": "Number of report rows.",
    "error_bound": "Full network's error + expected loss + 1.28 standard errors: what ranks.",
    "predicted_latency_mean_s": "Predicted mean latency in seconds: start of its batch to an "
    "input's own answer, with the search rows' activity.",
    "predicted_latency_mean_low_s": "Lower end of its 90 % interval.",
    "predicted_latency_mean_high_s": "Upper end of its 90 % interval.",
    "predicted_time_per_sample_s": "Predicted batch time over batch; speed-ups are its ratios.",
    "predicted_latency_p95_s": "Predicted latency that 95 % of inputs do not exceed.",
    "predicted_latency_p99_s": "Predicted latency that 99 % of inputs do not exceed.",
    "predicted_latency_worst_s": "Predicted time of a full batch at the workload's longest "
    "length, every check paid, no exit taken.",
    "predicted_peak_bytes": "Predicted peak memory: weights, activations, workspace.",
    "predicted_energy_j": "Predicted energy per input in joules.",
    "predicted_flops_ideal": "Operations per input that the method asks for (multiply-add = 2).",
    "predicted_flops_executed": "Operations per input that run, padding and masks included.",
    "measured_latency_mean_s": "Measured mean latency in seconds on the machine of the bench.",
    "measured_time_per_sample_s": "Measured batch time over batch.",
    "measured_runtime": "Program that ran the model for the measurement.",
    "measured_threads": "Threads it used.",
    "measured_batch": "Batch size of the measurement.",
    "measured_n": "Report rows timed.",
} | _quality_columns()


def write_front_csv(front: Front, run_dir: Path) -> Path:
    """Write `front.csv`: one flat table, columns as `CSV_COLUMNS` has them, empty = unknown."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(CSV_COLUMNS), lineterminator="\n")
    writer.writeheader()
    buckets = _join(f"{b.shortest}-{b.longest}" for b in front.length_buckets)
    for p in front.front:
        row = csv_row(p) | {"ranked_by": front.metric, "length_buckets": buckets}
        writer.writerow({k: "" if v is None else v for k, v in row.items()})
    return write_atomic(run_dir / CSV_FILE, buffer.getvalue())


def csv_row(p: FrontPoint) -> dict[str, Any]:
    """One point under the names of `CSV_COLUMNS`; None = unknown or not its own."""
    row: dict[str, Any] = dict.fromkeys(CSV_COLUMNS)
    row |= {"id": p.id, "device": p.device, "family": p.family, "dtype": p.dtype}
    row |= _candidate_columns(p.candidate)
    row |= {
        "named": _join(p.named),
        "dominated": int(p.dominated),
        "fidelity": p.fidelity,
        "selected_error": p.selected.error,
        "selected_loss": p.selected.loss,
        "selected_se": p.selected.se,
        "selected_n": p.selected.n,
        "error_bound": p.error_bound,
        "predicted_latency_mean_s": p.predicted.latency_mean_s,
        "predicted_latency_mean_low_s": p.predicted.low_s,
        "predicted_latency_mean_high_s": p.predicted.high_s,
        "predicted_time_per_sample_s": p.predicted.per_sample_s,
        "predicted_latency_p95_s": p.predicted.latency_p95_s,
        "predicted_latency_p99_s": p.predicted.latency_p99_s,
        "predicted_latency_worst_s": p.predicted.latency_worst_s,
        "predicted_peak_bytes": p.predicted.peak_bytes,
        "predicted_energy_j": p.predicted.energy_j,
        "predicted_flops_ideal": p.predicted.flops_ideal,
        "predicted_flops_executed": p.predicted.flops_executed,
    }
    if p.confirmed is not None:
        row |= {
            "confirmed_error": p.confirmed.error,
            "confirmed_loss": p.confirmed.loss,
            "confirmed_loss_low": p.confirmed.low,
            "confirmed_loss_high": p.confirmed.high,
            "confirmed_n": p.confirmed.n,
        }
    if p.measured is not None:
        row |= {
            "measured_latency_mean_s": p.measured.latency_mean_s,
            "measured_time_per_sample_s": p.measured.time_per_sample_s,
            "measured_runtime": p.measured.runtime,
            "measured_threads": p.measured.threads,
            "measured_batch": p.measured.batch,
            "measured_n": p.measured.n,
        }
    return row | _quality_cells(p)


def outer_of_row(
    row: Mapping[str, str], backbone: Backbone, *, file: Path, line: int
) -> Candidate:
    """The network of a row of `front.csv`, without its exits.

    Args:
        row: Cells by column.
        backbone: That the network was cut from; the table does not name it.
        file: For messages.
        line: Of the file, for messages.

    Raises:
        InputError: columns of the network are missing or hold something else.
    """
    try:
        skims = list(
            zip(_split(row["skim_layers"], int), _split(row["keep_rate"], float), strict=True)
        )
        parts = [(("before_layer", 1), [s for s in skims if s[0] == 0])]
        parts.append((("after_attn", 0), [s for s in skims if s[0] > 0]))
        layers = _split(row["expert_layers"], int)
        moe = Experts(
            layers=layers,
            num_experts=_split(row["num_experts"], int),
            top_k=_split(row["top_k"], int),
            granularity=row["expert_granularity"] or "sequence",
        )
        return Candidate(
            backbone=backbone,
            depth=int(row["depth"]),
            moe=moe if layers else None,
            skim=tuple(
                Skim(
                    layers=tuple(layer + shift for layer, _ in found),
                    keep_rate=tuple(rate for _, rate in found),
                    point=point,
                )
                for (point, shift), found in parts
                if found
            ),
            dtype=row["dtype"],
        )
    except (KeyError, ValueError, TypeError) as error:
        text = f"line {line} is no configuration ({error}); `dynsearch export` writes such files"
        raise InputError.one(file, "", None, text) from None


def _split(cell: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    return tuple(kind(word) for word in cell.split())


def _quality_cells(p: FrontPoint) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for rows, found in (("selected", p.selected_quality), ("confirmed", p.confirmed_quality)):
        if found is None:
            continue
        row |= {f"{rows}_{metric}": value for metric, value in found.value.items()}
        row[f"{rows}_accuracy_by_length"] = _join("-" if x is None else x for x in found.by_length)
    if p.confirmed_quality is not None:
        c = p.confirmed_quality
        row |= {f"confirmed_{metric}_loss": value for metric, value in c.loss.items()}
        row |= {f"confirmed_{metric}_loss_low": value for metric, value in c.low.items()}
        row |= {f"confirmed_{metric}_loss_high": value for metric, value in c.high.items()}
    return row


def _candidate_columns(candidate: dict[str, Any]) -> dict[str, Any]:
    exits = candidate.get("exits") or {}
    moe = candidate.get("moe") or {}
    skims = candidate.get("skim") or []
    return {
        "depth": candidate.get("depth"),
        "exit_layers": _join(exits.get("layers", ())),
        "exit_criterion": exits.get("criterion"),
        "exit_thresholds": _join(exits.get("thresholds", ())),
        "exit_patience": exits.get("patience"),
        "exit_temperature": exits.get("temperature"),
        "exit_batching": candidate.get("exit_batching"),
        "skim_layers": _join(
            x - (s["point"] == "before_layer") for s in skims for x in s["layers"]
        ),
        "keep_rate": _join(rate for s in skims for rate in s["keep_rate"]),
        "expert_layers": _join(moe.get("layers", ())),
        "num_experts": _join(moe.get("num_experts", ())),
        "top_k": _join(moe.get("top_k", ())),
        "expert_granularity": moe.get("granularity"),
    }


def _join(values: Any) -> str:
    return " ".join(str(v) for v in values)
