"""Policies whose exits are told by a record: their decisions as sets, and what they answer.

Criteria with a history, trace arrays, temperatures per exit or aggregated answers do not fit the
arrays of a `PolicyBatch`. Scores are computed once for all policies that differ in thresholds and
patience alone; decisions are exact, as everywhere in replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.quality.trace import Trace
from dynsearch.sim.layout import Layout
from search_spaces.candidate import PolicyBatch
from search_spaces.exits.base import Evidence
from search_spaces.exits.decisions import (
    answered_logits,
    decided,
    exit_scores,
    gather_evidence,
)
from search_spaces.parts import Exits

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]


def named_arrays(trace: Trace) -> dict[str, NDArray[Any]]:
    """Recorded arrays [N, L], and what follows from the labels: whether each exit is right."""
    right = trace.logits.argmax(axis=-1) == trace.labels[:, None]
    return {"correct": right.astype(np.float32), **trace.aux}


def answer_key(exits: Exits | None, depth: int) -> tuple[Any, ...]:
    """Equal for policies whose exits answer alike, so that they can be replayed together."""
    if exits is None:
        return ()
    if exits.aggregator == "none" and not exits.temperatures:
        return ("record",)
    wanted = (exits.aggregator, exits.temperature, exits.temperatures, exits.poe_floor)
    return (*wanted, exits.layers, depth)


def answering_trace(trace: Trace, exits: Exits, depth: int) -> Trace:
    """The trace with the logits that this policy's exits, and the one at its depth, answer."""
    if exits.aggregator == "none" and not exits.temperatures:
        return trace
    layers = np.array([*exits.layers, depth], dtype=np.int64)
    logits = trace.logits.copy()
    logits[:, layers - 1] = answered_logits(exits, trace.logits[:, layers - 1], layers, depth)
    return replace(trace, logits=logits)


class RecordRule:
    """Decisions of policies that have records, block by block (`decide.Rule`)."""

    def __init__(
        self,
        trace: Trace,
        arrays: Mapping[str, NDArray[Any]],
        policies: PolicyBatch,
        layouts: list[Layout],
    ) -> None:
        """Keep what decides.

        Args:
            trace: As recorded.
            arrays: `named_arrays` of it.
            policies: P policies, each with a record.
            layouts: Where bits stand.
        """
        self._trace, self._arrays = trace, arrays
        self._policies, self._layouts = policies, layouts
        self._scored: tuple[Exits, int, Evidence, F64] | None = None

    def begin(self, block: I64) -> None:
        """See `decide.Rule`; decides for the whole block."""
        size, num_layers = block.size, self._trace.num_layers
        self._stay = [
            np.zeros((size, num_layers, layout.num_bytes), dtype=np.uint8)
            for layout in self._layouts
        ]
        for r, p in enumerate(block):
            exits, depth = self._policies.records[p], int(self._policies.depth[p])
            seen, scores = self._scores(exits, depth)
            stays = ~decided(exits, seen, scores)
            for sets, layout in zip(self._stay, self._layouts, strict=True):
                sets[r, seen.layers - 1] = layout.pack(stays.T)

    def stay(self, which: int, layer: int, rows: I64) -> U8:
        """See `decide.Rule`."""
        sets: U8 = self._stay[which][rows, layer]
        return sets

    def _scores(self, exits: Exits, depth: int) -> tuple[Evidence, F64]:
        """Evidence and scores; those of the policy before are used again where they are alike."""
        alike = replace(exits, thresholds=(), patience=None, paper_threshold=None)
        if self._scored is None or self._scored[:2] != (alike, depth):
            seen = gather_evidence(exits, self._trace.logits, self._arrays, depth)
            self._scored = (alike, depth, seen, exit_scores(exits, seen))
        return self._scored[2], self._scored[3]
