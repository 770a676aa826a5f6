"""Inner knobs: when to stop reading a recorded trace. Replayed, never a new forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.candidate import EXIT_BATCHING, RUNNABLE_CRITERIA, PolicyBatch
from search_spaces.exits import exit_criterion

_PATIENCE = RUNNABLE_CRITERIA.index("patience")


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerSpace:
    """Every exit policy that a search may try. Layers are 1-based."""

    exit_layers: tuple[int, ...]  # allowed early exits, ascending; none at or above the depth
    min_depth: int
    max_depth: int
    criteria: tuple[str, ...] = ("max_prob",)  # of RUNNABLE_CRITERIA
    exit_batching: tuple[str, ...] = ("serial",)  # of EXIT_BATCHING
    temperatures: tuple[float, ...] = (1.0,)
    patience: tuple[int, ...] = (1,)
    max_exits: int | None = None  # early exits at most; None: no limit

    def sample(
        self, rng: np.random.Generator, n: int, *, num_layers: int, num_classes: int
    ) -> PolicyBatch:
        """`n` legal policies with every knob drawn uniformly and independently.

        Depth first, then each allowed exit below it with probability 1/2 (where that gives more
        than `max_exits`, a random subset stays), criterion, temperature, batching, and one
        threshold per exit, uniform over the scores that decide anything. A patience that could
        never fire (rule 1) is lowered; where even the lowest could not, another criterion of
        the space is drawn, and where there is none the policy has no early exit.

        Args:
            rng: Source of randomness.
            n: Policies.
            num_layers: L.
            num_classes: C, which sets the range of the scores.
        """
        depth = rng.integers(self.min_depth, self.max_depth + 1, size=n)
        exit_on = self._draw_exits(rng, depth, num_layers)
        criterion, patience, exit_on = self._draw_criterion(rng, exit_on)
        low, high = self._ranges(num_classes)
        span = (high - low)[criterion][:, None]
        thresholds = high[criterion][:, None] - span * rng.random((n, num_layers))
        used = exit_on & (criterion != _PATIENCE)[:, None]
        temperature = np.array(self.temperatures)[rng.integers(len(self.temperatures), size=n)]
        batching = np.array([EXIT_BATCHING.index(b) for b in self.exit_batching])
        return PolicyBatch(
            depth=depth.astype(np.int64),
            exit_on=exit_on,
            criterion=criterion,
            thresholds=np.where(used, thresholds, np.inf),
            patience=patience,
            temperature=np.where(exit_on.any(axis=1), temperature, 1.0),
            exit_batching=batching[rng.integers(len(batching), size=n)],
        )

    def _draw_exits(
        self, rng: np.random.Generator, depth: NDArray[Any], num_layers: int
    ) -> NDArray[np.bool_]:
        allowed = np.zeros(num_layers, dtype=bool)
        allowed[np.asarray(self.exit_layers, dtype=np.int64) - 1] = True
        below = np.arange(1, num_layers + 1) < depth[:, None]
        exit_on: NDArray[np.bool_] = allowed & below & (rng.random((len(depth), num_layers)) < 0.5)
        if self.max_exits is not None:
            order = np.where(exit_on, rng.random(exit_on.shape), 2.0)
            rank = np.argsort(np.argsort(order, axis=1), axis=1)
            exit_on &= rank < self.max_exits
        return exit_on

    def _draw_criterion(
        self, rng: np.random.Generator, exit_on: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        n, exits = len(exit_on), exit_on.sum(axis=1)
        ids = np.array([RUNNABLE_CRITERIA.index(c) for c in self.criteria], dtype=np.int64)
        criterion = ids[rng.integers(len(ids), size=n)]
        choices = np.sort(np.array(self.patience, dtype=np.int64))
        drawn = choices[rng.integers(len(choices), size=n)]
        legal = np.searchsorted(choices, exits, side="left")  # choices below the exit count
        patience = np.minimum(drawn, choices[np.maximum(legal - 1, 0)])
        dead = (criterion == _PATIENCE) & (legal == 0)
        others = ids[ids != _PATIENCE]
        if len(others):
            criterion = np.where(dead, others[rng.integers(len(others), size=n)], criterion)
        else:
            exit_on = exit_on & ~dead[:, None]
        criterion = np.where(exit_on.any(axis=1), criterion, 0)
        patience = np.where(criterion == _PATIENCE, patience, 0)
        return criterion, patience, exit_on

    @staticmethod
    def _ranges(num_classes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        ranges = [
            exit_criterion(c).legal_range(num_classes) or (0.0, 0.0) for c in RUNNABLE_CRITERIA
        ]
        return np.array([r[0] for r in ranges]), np.array([r[1] for r in ranges])
