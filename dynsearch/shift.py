"""What a configuration does on texts of another mix: exit rates, cost, quality, budgets.

A configuration was chosen for the search rows. On longer texts, or on texts of no known class,
fewer inputs leave early: the same network is slower, and a budget that held may break. Nothing
is chosen here: the network is run on the other texts, and every figure is given twice, for the
search rows and for those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.bench_timing import encoder_runner, make_blocks, quiet_machine, time_interleaved
from dynsearch.export.records import Front, FrontPoint
from dynsearch.models.tokens import Tokens, tokenize
from dynsearch.opened import Opened
from dynsearch.quality.data import read_unchecked
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.trace import Trace
from dynsearch.quality.training import Labelled
from dynsearch.sim.decide import exit_layers
from dynsearch.timing import local_device
from search_spaces.candidate import Candidate, policies_of
from search_spaces.codec import candidate_from_dict, candidate_hash
from search_spaces.errors import InputError

UNKNOWN = -1  # class number of a label that the network does not know
SPLIT = "shift"
COSTS = ("latency_mean_s", "time_per_sample_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherTexts:
    """Texts of another mix, with the class numbers that the network knows."""

    name: str
    rows: Labelled  # label UNKNOWN where a text has none, or one of no known class
    labels: dict[str, int]  # rows by label that the network does not know
    truncated: int  # texts longer than the workload's longest

    @property
    def known(self) -> NDArray[np.bool_]:
        """Rows whose label the network knows [N]."""
        return np.asarray(self.rows.labels != UNKNOWN)


def read_other(path: Path, opened: Opened) -> OtherTexts:
    """Texts of a file, read with the columns and the tokenizer of a run.

    Raises:
        InputError: no texts in it.
    """
    job, material = opened.job, opened.material
    texts, names = read_unchecked(path, text=job.data.text, label=job.data.label)
    index = {name: k for k, name in enumerate(material.labels)}
    labels = np.array([index.get(name, UNKNOWN) for name in names], dtype=np.int64)
    unknown: dict[str, int] = {}
    for name in names:
        if name not in index:
            unknown[name or "no label"] = unknown.get(name or "no label", 0) + 1
    longest = job.workload.max_len
    tokens = tokenize(material.tokenizer, texts, longest)
    whole = tokenize(material.tokenizer, texts, material.backbone.max_len)
    tokenize(material.tokenizer, texts[:1], longest)  # leaves the tokenizer as the run set it
    return OtherTexts(
        name=path.name,
        rows=Labelled(tokens=tokens, labels=labels),
        labels=unknown,
        truncated=int((whole.lengths > longest).sum()),
    )


def shift(
    opened: Opened,
    front: Front,
    other: OtherTexts,
    *,
    ids: Sequence[str] = (),
    rows: int,
    repeats: int,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Named points (or `ids`) and the full network on other texts.

    Args:
        opened: The run.
        front: Its front.
        other: The texts.
        ids: Configurations; empty: the named points of this machine.
        rows: How many of the texts are timed.
        repeats: Repeats of the timing.
        on_progress: Gets the share that is done.

    Returns:
        `data`, `rows`: one object a configuration, see `_row`.

    Raises:
        InputError: no such configuration, or the run was not priced for this machine.
    """
    points = _points(front, ids, opened)
    quality = SupernetQuality(
        config=opened.quality.config,
        weights=opened.quality.weights,
        splits={SPLIT: other.rows},
        weights_hash=opened.quality.weights_hash,
    )
    traces: dict[str, Trace] = {}
    found = []
    for i, point in enumerate(points):
        candidate = candidate_from_dict(point.candidate)
        outer = _outer(candidate)
        key = candidate_hash(outer)
        if key not in traces:
            traces[key] = quality.record(outer, SPLIT)
        found.append(_row(opened, front, point, candidate, traces[key], other))
        if on_progress is not None:
            on_progress(0.5 * (i + 1) / len(points))
    measured = _time(opened, quality, points, other.rows.tokens, rows, repeats)
    for row, spent in zip(found, measured, strict=True):
        row["measured_s"] = spent
    if on_progress is not None:
        on_progress(1.0)
    return {
        "data": {
            "name": other.name,
            "rows": len(other.rows.tokens),
            "known_labels": int(other.known.sum()),
            "unknown_labels": other.labels,
            "mean_tokens": float(other.rows.tokens.lengths.mean()),
            "mean_tokens_search": float(opened.quality.splits["search"].tokens.lengths.mean()),
            "truncated": other.truncated,
        },
        "rows": found,
    }


def _points(front: Front, ids: Sequence[str], opened: Opened) -> list[FrontPoint]:
    device = local_device(opened)
    mine = [p for p in front.front if p.device == device]
    for key in ids:
        if key not in {p.id for p in mine}:
            text = f"no such configuration; `dynsearch front {opened.run.path}` lists them"
            raise InputError.one(opened.run.path, "id", key, text)
    wanted = [p for p in mine if p.id in ids] if ids else [p for p in mine if p.named]
    full = [p for p in mine if p.family == "full" and p not in wanted]
    return wanted + full


def _outer(candidate: Candidate) -> Candidate:
    """The candidate without its exits, at its depth: what a recording pass runs."""
    return replace(candidate, exits=None)


def _row(
    opened: Opened,
    front: Front,
    point: FrontPoint,
    candidate: Candidate,
    trace: Trace,
    other: OtherTexts,
) -> dict[str, Any]:
    """Figures of one configuration: on the search rows, as chosen, and on the other texts."""
    scene = opened.scene
    whole = replace(candidate, depth=candidate.backbone.num_layers, exits=None)
    policies = policies_of([candidate])
    replayer = scene.replayer(whole, trace, None)
    replayed = replayer.run(policies, list(COSTS))
    known = other.known
    where = exit_layers(trace.logits, policies)[0]  # [N] 0-based
    answers = trace.logits[np.arange(where.size), where].argmax(axis=-1)
    reach = replayed.reach[0]
    d = [device.name for device in scene.devices].index(point.device)
    latencies = replayer.latencies(policies)[d, 0]  # [N]
    moved = {name: float(replayed.cost(name)[d, 0]) for name in COSTS}
    moved |= {
        "latency_p95_s": float(np.percentile(latencies, 95)),
        "latency_p99_s": float(np.percentile(latencies, 99)),
    }
    return {
        "id": point.id,
        "family": point.family,
        "dtype": point.dtype,
        "named": list(point.named),
        "reach_search": list(point.reach) if point.reach is not None else None,
        "reach": [float(x) for x in reach],
        "mean_depth_search": float(sum(point.reach)) if point.reach is not None else None,
        "mean_depth": float(reach.sum()),
        "mean_depth_known": _mean(where[known] + 1.0),
        "mean_depth_unknown": _mean(where[~known] + 1.0),
        "error_search": point.selected.error,
        "error": float((answers != trace.labels)[known].mean()) if known.any() else None,
        "predicted_search_s": point.predicted.latency_mean_s,
        "predicted_s": moved["latency_mean_s"],
        "budgets": _budgets(front.budgets.get(point.device, {}), moved, point),
    }


def _budgets(
    limits: Mapping[str, float], moved: Mapping[str, float], point: FrontPoint
) -> list[dict[str, Any]]:
    """Each budget of the job, what the configuration needs on these texts, whether it holds.

    Means and percentiles of the latency move with the texts. The worst latency and the memory
    do not: they are those of the workload's longest input.
    """
    out = []
    for name, limit in limits.items():
        before = float(getattr(point.predicted, name))
        value = moved.get(name, before)
        out.append(
            {
                "budget": name,
                "limit": limit,
                "value_search": before,
                "value": value,
                "holds": value <= limit,
            }
        )
    return out


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean, None of nothing."""
    return float(values.mean()) if values.size else None


def _time(
    opened: Opened,
    quality: SupernetQuality,
    points: Sequence[FrontPoint],
    tokens: Tokens,
    rows: int,
    repeats: int,
) -> list[float]:
    """Median seconds per input of each point at the workload's batch size."""
    batch = opened.scene.workload.batch
    blocks = make_blocks(tokens, min(rows, len(tokens)), batch=batch)
    runners = [
        encoder_runner(quality.encoder(p.dtype), candidate_from_dict(p.candidate), batch)
        for p in points
    ]
    with quiet_machine(opened.scene.workload.threads):
        timings = time_interleaved(runners, blocks, repeats=repeats, seed=0)
    return [float(x) for x in timings.latency_median_s]
