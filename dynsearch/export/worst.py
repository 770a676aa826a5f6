"""The worst case of an export: a full batch of the longest input, every check paid, no exit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from search_spaces.candidate import Candidate

if TYPE_CHECKING:
    from dynsearch.bench_timing import Batch
    from dynsearch.export.opened import OpenedExport


def no_exit(candidate: Candidate) -> Candidate:
    """The candidate with exits that are checked and never taken."""
    exits = candidate.exits
    if exits is None:
        return candidate
    if exits.criterion == "patience":
        return replace(candidate, exits=replace(exits, patience=len(exits.layers)))
    never = tuple(float("inf") for _ in exits.layers)
    return replace(candidate, exits=replace(exits, thresholds=never))


def worst_batch(export: OpenedExport) -> Batch:
    """Ids [B, T] of any words at the longest input, lengths [B], no types.

    What the words are changes no time but that of experts chosen by token, and never the memory.
    """
    batch, longest = export.workload.batch, int(export.config["max_len"])
    size = min(export.network.vocab_size, export.tokenizer.get_vocab_size())
    ids = np.random.default_rng(0).integers(0, size, (batch, longest))
    return torch.from_numpy(ids), np.full(batch, longest, dtype=np.int64), None
