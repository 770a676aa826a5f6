"""An export of either format as `dynsearch verify` runs it: answers, stopwatch, worst case.

The worst case is a full batch of the longest input, every check paid, no exit taken.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dynsearch.bench_onnx import onnx_runner
from dynsearch.bench_timing import Batch, Runner, encoder_runner
from dynsearch.export.onnx_engine import OnnxEncoder, Opener, opener_of
from dynsearch.export.opened import OpenedExport
from dynsearch.models.dynamic import plan_of
from search_spaces.candidate import Candidate
from search_spaces.errors import InputError

Answer = Callable[[Batch], Any]  # batch -> prediction [B], exit_layer [B], logits [B, C]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A loaded export."""

    answer: Answer
    worst: Answer  # takes no exit
    runner: Runner
    worst_runner: Runner


def engine_of(export: OpenedExport, runtime: str | None = None) -> Engine:
    """Load an export on a runtime; None: the one of its format.

    Raises:
        InputError: the runtime does not run it, is not installed, or cannot read it.
    """
    runtime = runtime or export.runtime
    if export.runtime == "onnxruntime":
        return _onnx(export, opener_of(runtime))
    if runtime != export.runtime:
        text = "runs ONNX graphs; this is a torch model: export it with --format onnx"
        raise InputError.one(export.folder, "runtime", runtime, text)
    return _torch(export)


def _torch(export: OpenedExport) -> Engine:
    encoder, batch = export.encoder(), export.workload.batch
    own, slowest = export.candidate, no_exit(export.candidate)
    plan, longest = plan_of(own), plan_of(slowest)
    return Engine(
        answer=lambda one: encoder.run(plan, *one),
        worst=lambda one: encoder.run(longest, *one),
        runner=encoder_runner(encoder, own, batch),
        worst_runner=encoder_runner(encoder, slowest, batch),
    )


def _onnx(export: OpenedExport, opener: Opener) -> Engine:
    encoder = OnnxEncoder(
        export.config["onnx"],
        lambda name: str(export.folder / name),
        threads=export.workload.threads,
        opener=opener,
    )
    slowest = without_exit(encoder)
    return Engine(
        answer=_of_arrays(encoder),
        worst=_of_arrays(slowest),
        runner=onnx_runner(encoder),
        worst_runner=onnx_runner(slowest),
    )


def _of_arrays(encoder: OnnxEncoder) -> Answer:
    def answer(one: Batch) -> Any:
        ids, lengths, types = one
        return encoder.run(ids.numpy(), lengths, None if types is None else types.numpy())

    return answer


def no_exit(candidate: Candidate) -> Candidate:
    """The candidate with exits that are checked and never taken."""
    exits = candidate.exits
    if exits is None:
        return candidate
    if exits.criterion == "patience":
        return replace(candidate, exits=replace(exits, patience=len(exits.layers)))
    never = tuple(float("inf") for _ in exits.layers)
    return replace(candidate, exits=replace(exits, thresholds=never))


def without_exit(encoder: OnnxEncoder) -> OnnxEncoder:
    """The same graphs under a rule that is asked and never lets go."""
    found = copy(encoder)
    found.rule = replace(encoder.rule, patience=len(encoder.stages))
    found.stages = [
        stage if stage.threshold is None else replace(stage, threshold=float("inf"))
        for stage in encoder.stages
    ]
    return found


def worst_batch(export: OpenedExport) -> Batch:
    """Ids [B, T] of any words at the longest input, lengths [B], types where pairs are read.

    What the words are changes no time but that of experts chosen by token, and never the memory.
    """
    batch, longest = export.workload.batch, int(export.config["max_len"])
    size = min(export.network.vocab_size, export.tokenizer.get_vocab_size())
    drawn = np.random.default_rng(0).integers(0, size, (batch, longest))
    ids, lengths = torch.from_numpy(drawn), np.full(batch, longest, dtype=np.int64)
    pairs = len(export.config["text_columns"]) == 2
    return ids, lengths, torch.zeros_like(ids) if pairs else None
