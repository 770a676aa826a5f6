"""Exit policies to try on a trace: exit sets, criteria, and thresholds that split its scores.

A threshold is the midpoint between two neighbouring distinct scores, in float64, so that
`score >= threshold` never meets a tie on the rows that it was chosen on. Which midpoint is said
by the exit rate: the share of all rows whose score reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dynsearch.sim.replay import Replayer
from search_spaces.candidate import CRITERIA, EXIT_BATCHING, PolicyBatch
from search_spaces.inner import InnerSpace

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

PATIENCE = CRITERIA.index("patience")
# With two classes and one temperature these order all rows alike, at all exits together.
ALIKE_FOR_TWO_CLASSES = ("max_prob", "margin", "entropy", "entropy_normalized")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Thresholds that split a set of scores. M midpoints."""

    values: F64  # [M] ascending
    rates: F64  # [M] share of the scores at or above, descending

    @classmethod
    def of(cls, scores: ArrayLike) -> Cuts:
        """All midpoints of scores [N]; where all are equal, the one score itself."""
        distinct, counts = np.unique(np.asarray(scores, dtype=np.float64), return_counts=True)
        if distinct.size == 1:
            return cls(values=distinct, rates=np.ones(1))
        low, high = distinct[:-1], distinct[1:]
        middle = low + (high - low) / 2
        return cls(
            values=np.where(middle > low, middle, high),
            rates=1.0 - np.cumsum(counts)[:-1] / counts.sum(),
        )

    def at(self, rates: ArrayLike) -> F64:
        """The thresholds whose exit rate is nearest to each of `rates`, same shape."""
        wanted, ascending = np.asarray(rates, dtype=np.float64), self.rates[::-1]
        right = np.clip(np.searchsorted(ascending, wanted), 0, ascending.size - 1)
        left = np.maximum(right - 1, 0)
        nearer = wanted - ascending[left] < ascending[right] - wanted
        found: F64 = self.values[::-1][np.where(nearer, left, right)]
        return found

    def rate_of(self, values: ArrayLike) -> F64:
        """Exit rate of any thresholds, same shape."""
        above = np.searchsorted(self.values, np.asarray(values, dtype=np.float64))
        padded = np.append(self.rates, 0.0)
        rates: F64 = padded[above]
        return rates


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitSets:
    """S pairs of a depth and the early exits below it."""

    depth: I64  # [S]
    on: Bool  # [S, L]

    def __len__(self) -> int:
        return int(self.depth.size)

    def take(self, rows: NDArray[Any]) -> ExitSets:
        """The sets at `rows` (indices or mask)."""
        return ExitSets(depth=self.depth[rows], on=self.on[rows])

    def keys(self) -> list[tuple[int, bytes]]:
        """Something hashable for each set."""
        return [(int(d), on.tobytes()) for d, on in zip(self.depth, self.on, strict=True)]


def exit_sets(
    sites: Sequence[int], depths: Sequence[int], num_layers: int, max_exits: int
) -> ExitSets:
    """All sets of at most `max_exits` early exits among `sites` (1-based) for each depth."""
    depth, rows = [], []
    for d in depths:
        below = [s for s in sites if s < d]
        for size in range(min(len(below), max_exits) + 1):
            for chosen in combinations(below, size):
                on = np.zeros(num_layers, dtype=bool)
                on[[s - 1 for s in chosen]] = True
                depth.append(d)
                rows.append(on)
    on_rows = np.array(rows, dtype=bool).reshape(-1, num_layers)
    return ExitSets(depth=np.array(depth, dtype=np.int64), on=on_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """One criterion at one temperature, with the thresholds that the trace allows."""

    criterion: int  # index into CRITERIA
    temperature: float
    cuts: tuple[Cuts, ...]  # [L] by layer
    pooled: Cuts  # over all allowed exits together


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyMaker:
    """Builds policies on a trace from exit sets."""

    scorers: tuple[Scorer, ...]
    patience: tuple[int, ...]  # empty where the space has no such criterion
    modes: I64  # indices into EXIT_BATCHING
    num_layers: int
    find: dict[tuple[int, float], Scorer] = field(default_factory=dict)

    @classmethod
    def of(cls, replayer: Replayer, space: InnerSpace) -> PolicyMaker:
        """What the space allows on this trace, each kind of decision once.

        With two classes, criteria that decide alike are represented by the first one named and
        by the first temperature (unless the metric that ranks depends on it); with a batch of 1,
        all ways of batching by the first one.
        """
        L, classes = replayer.trace.logits.shape[1:]
        names = [c for c in space.criteria if c != "patience"]
        temperatures = space.temperatures
        if classes == 2:
            first = next((c for c in names if c in ALIKE_FOR_TWO_CLASSES), None)
            names = [c for c in names if c == first or c not in ALIKE_FOR_TWO_CLASSES]
            if set(names) <= {first} and not replayer.temperature_matters:
                temperatures = temperatures[:1]
        sites = np.asarray(space.exit_layers, dtype=np.int64) - 1
        scorers = []
        for name in names if sites.size else ():
            for temperature in temperatures:
                scores = replayer.scores(CRITERIA.index(name), temperature)
                scorers.append(
                    Scorer(
                        criterion=CRITERIA.index(name),
                        temperature=temperature,
                        cuts=tuple(Cuts.of(scores[:, x]) for x in range(L)),
                        pooled=Cuts.of(scores[:, sites].ravel()),
                    )
                )
        modes = [EXIT_BATCHING.index(m) for m in space.exit_batching]
        alone = all(load.batch == 1 for load in replayer.workloads)
        return cls(
            scorers=tuple(scorers),
            patience=tuple(space.patience) if "patience" in space.criteria else (),
            modes=np.array(modes[:1] if alone else modes, dtype=np.int64),
            num_layers=int(L),
            find={(s.criterion, s.temperature): s for s in scorers},
        )

    def grid(self, sets: ExitSets, num_rates: int) -> PolicyBatch:
        """Every exit set with every rule.

        For each scorer: one threshold for all exits of the set, at `num_rates` rates over the
        pooled scores, and one exit rate for all exits, each with its own threshold. With one
        exit the two are the same and the second stands for both.

        Args:
            sets: S depths and exits.
            num_rates: Exit rates tried for each.
        """
        rates = np.arange(1, num_rates + 1) / (num_rates + 1)
        size = sets.on.sum(axis=1)
        none = np.full((1, self.num_layers), np.inf)
        parts = [self._thresholds(sets.take(size == 0), 0, 1.0, none)]
        for s in self.scorers:
            own = np.stack([c.at(rates) for c in s.cuts], axis=1)  # [rates, L]
            shared = np.repeat(s.pooled.at(rates)[:, None], self.num_layers, axis=1)
            parts.append(self._thresholds(sets.take(size > 1), s.criterion, s.temperature, shared))
            parts.append(self._thresholds(sets.take(size > 0), s.criterion, s.temperature, own))
        for patience in self.patience:
            parts.append(self._patience(sets.take(size > patience), patience))
        one = PolicyBatch.concat(parts)
        return self._in_modes(one)

    def moved(self, policies: PolicyBatch, steps: Sequence[float]) -> PolicyBatch:
        """Neighbours that differ in the threshold of one exit, by `steps` in its exit rate.

        Args:
            policies: P policies; those without thresholds yield nothing.
            steps: Differences of exit rates.
        """
        rows, columns = np.nonzero(policies.exit_on & np.isfinite(policies.thresholds))
        made = policies.take(np.repeat(rows, len(steps)))
        for i, (row, x) in enumerate(zip(rows, columns, strict=True)):
            key = int(policies.criterion[row]), float(policies.temperature[row])
            cuts = self.find[key].cuts[x]
            rate = cuts.rate_of(policies.thresholds[row, x])
            at = slice(i * len(steps), (i + 1) * len(steps))
            made.thresholds[at, x] = cuts.at(rate + np.asarray(steps))
        changed = made.thresholds != np.repeat(policies.thresholds[rows], len(steps), axis=0)
        return made.take(changed.any(axis=1))

    def _thresholds(
        self, sets: ExitSets, criterion: int, temperature: float, values: F64
    ) -> PolicyBatch:
        """Each set with each row of `values` [V, L]."""
        on = np.repeat(sets.on, len(values), axis=0)
        count = len(on)
        return PolicyBatch(
            depth=np.repeat(sets.depth, len(values)),
            exit_on=on,
            criterion=np.full(count, criterion, dtype=np.int64),
            thresholds=np.where(on, np.tile(values, (len(sets), 1)), np.inf),
            patience=np.zeros(count, dtype=np.int64),
            temperature=np.full(count, temperature),
            exit_batching=np.zeros(count, dtype=np.int64),
        )

    def _patience(self, sets: ExitSets, patience: int) -> PolicyBatch:
        made = self._thresholds(sets, PATIENCE, 1.0, np.full((1, self.num_layers), np.inf))
        made.patience[:] = patience
        return made

    def _in_modes(self, policies: PolicyBatch) -> PolicyBatch:
        """Each policy under each exit batching; those without exits under the first alone."""
        parts = []
        for i, mode in enumerate(self.modes):
            wanted = policies.exit_on.any(axis=1) | (i == 0)
            part = policies.take(np.flatnonzero(wanted))
            part.exit_batching[:] = mode
            parts.append(part)
        return PolicyBatch.concat(parts)
