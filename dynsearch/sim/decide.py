"""Who stays at an exit: decisions of policies as sets of samples, and sample by sample.

`exit_layers` is the plain form, a loop over exits for each policy. The rules give the same
decisions for many policies at once as sets in a `Layout`, which is what replay needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.layout import Layout
from search_spaces.candidate import CRITERIA, PolicyBatch
from search_spaces.errors import InputError
from search_spaces.exits import exit_score
from search_spaces.exits.decisions import gather_evidence, leaves
from search_spaces.exits.patience import agreement_counts

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

PATIENCE = CRITERIA.index("patience")


def scores_of(logits: NDArray[np.float32], criterion: int, temperature: float) -> F64:
    """Scores [N, L] of the exits.

    Args:
        logits: [N, L, C].
        criterion: Index into CRITERIA; not patience.
        temperature: Divides the logits.

    Raises:
        InputError: the criterion has no score.
    """
    name = CRITERIA[criterion]
    scores = exit_score(name, logits, temperature)
    if scores is None:
        raise InputError.one("arguments", "criterion", name, "has no score to compare")
    return scores


def exit_layers(
    logits: NDArray[np.float32],
    policies: PolicyBatch,
    aux: Mapping[str, NDArray[Any]] | None = None,
) -> I64:
    """0-based layer after which each sample leaves, [P, N].

    Args:
        logits: [N, L, C].
        policies: P policies.
        aux: Named arrays [N, L], for the criteria that need more than logits (`named_arrays`).

    Raises:
        InputError: a criterion needs an array that is missing.
    """
    predicted = logits.argmax(axis=-1)
    out = np.repeat(policies.depth[:, None] - 1, logits.shape[0], axis=1)
    for p in range(len(policies)):
        criterion = int(policies.criterion[p])
        active = np.flatnonzero(policies.exit_on[p])
        if policies.records[p] is not None:
            exits = policies.records[p]
            seen = gather_evidence(exits, logits, aux or {}, int(policies.depth[p]))
            gone = leaves(exits, seen)
        elif criterion == PATIENCE:
            gone = agreement_counts(predicted[:, active]) >= int(policies.patience[p])
        else:
            scores = scores_of(logits, criterion, float(policies.temperature[p]))
            gone = scores[:, active] >= policies.thresholds[p, active]
        found = gone.any(axis=1)
        out[p, found] = active[gone.argmax(axis=1)[found]] if active.size else 0
    return out


class Rule(Protocol):
    """Decisions of one group of policies, block by block."""

    def begin(self, block: I64) -> None:
        """Start the policies `block` [R] (rows of the group)."""

    def stay(self, which: int, layer: int, rows: I64) -> U8:
        """Sets [r, num_bytes] in layout `which` that do not leave at the exit after `layer`.

        Args:
            which: Number of the layout.
            layer: 0-based.
            rows: Rows of the block [r] that have this exit.
        """


class ThresholdRule:
    """Samples stay where their score is below the policy's threshold of that exit."""

    def __init__(self, scores: F64, policies: PolicyBatch, layouts: list[Layout]) -> None:
        """Tabulate the sets that these thresholds cut, per layout and layer.

        Args:
            scores: [N, L].
            policies: P policies of one criterion and temperature.
            layouts: Where bits stand.
        """
        n, num_layers = scores.shape
        self._row = np.zeros(policies.exit_on.shape, dtype=np.int64)
        self._tables: list[list[U8]] = [[] for _ in layouts]
        for layer in range(num_layers):
            order = np.argsort(scores[:, layer], kind="stable")
            position = np.empty(n, dtype=np.int32)
            position[order] = np.arange(n, dtype=np.int32)
            on = policies.exit_on[:, layer]
            cuts = np.searchsorted(scores[order, layer], policies.thresholds[on, layer])
            used = np.zeros(n + 1, dtype=bool)
            used[cuts] = True
            self._row[on, layer] = (np.cumsum(used) - 1)[cuts]
            for tables, layout in zip(self._tables, layouts, strict=True):
                tables.append(layout.below(position, np.flatnonzero(used)))

    def begin(self, block: I64) -> None:
        """See `Rule`."""
        self._block = self._row[block]

    def stay(self, which: int, layer: int, rows: I64) -> U8:
        """See `Rule`."""
        sets: U8 = np.take(self._tables[which][layer], self._block[rows, layer], axis=0)
        return sets


class PatienceRule:
    """Samples leave at the P-th check in a row that agrees with the active exit before it."""

    def __init__(self, predicted: I64, policies: PolicyBatch, layouts: list[Layout]) -> None:
        """Tabulate which samples agree between any two layers, per layout.

        Args:
            predicted: Arg max of the logits [N, L].
            policies: P policies of criterion patience.
            layouts: Where bits stand.
        """
        num_layers = predicted.shape[1]
        agree = predicted.T[:, None] == predicted.T[None]  # [L, L, N]
        never = np.zeros((1, num_layers, predicted.shape[0]), dtype=bool)
        self._agree = [layout.pack(np.concatenate([never, agree])) for layout in layouts]
        self._patience = policies.patience

    def begin(self, block: I64) -> None:
        """See `Rule`."""
        self._goal = self._patience[block]
        longest = int(self._goal.max(initial=1))
        self._previous = [np.zeros(block.size, dtype=np.int64) for _ in self._agree]  # 0: none
        self._run = [
            np.zeros((block.size, longest + 1, table.shape[-1]), dtype=np.uint8)
            for table in self._agree
        ]  # bit set: at least that many agreements in a row; index 0 is always true
        for run in self._run:
            run[:, 0] = 0xFF

    def stay(self, which: int, layer: int, rows: I64) -> U8:
        """See `Rule`."""
        previous, run = self._previous[which], self._run[which]
        agree = self._agree[which][previous[rows], layer]
        previous[rows] = layer + 1
        longer = run[rows, :-1] & agree[:, None]
        run[rows, 1:] = longer
        leave: U8 = longer[np.arange(rows.size), self._goal[rows] - 1]
        return ~leave
