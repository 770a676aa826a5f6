"""From one frozen exit policy to a path of policies, from no early exit to the earliest.

Nothing but one knob moves. Thresholds all move by one common shift (larger = later exits), whose
grid comes from the search rows; a policy with patience moves its patience; a network without
early exits is a path of one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.quality.trace import Trace
from dynsearch.sim.decide import PATIENCE, exit_layers, scores_of
from search_spaces.candidate import PolicyBatch

STEPS = 200  # of the grid of shifts


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """T policies from careful to bold, and the knob that tells them apart."""

    policies: PolicyBatch  # [T]
    knob: tuple[float | None, ...]  # [T] shift or patience; None: no early exit


def path_of(policy: PolicyBatch, search: Trace, *, steps: int = STEPS) -> Path:
    """The path that a policy lies on.

    Args:
        policy: One policy; it is part of its own path.
        search: Trace of its outer setting on the search rows, whose scores give the grid.
        steps: Shifts at most, besides no early exit and the policy itself.
    """
    static = replace(
        policy,
        exit_on=np.zeros_like(policy.exit_on),
        thresholds=np.full_like(policy.thresholds, np.inf),
        criterion=np.zeros_like(policy.criterion),
        patience=np.zeros_like(policy.patience),
        temperature=np.ones_like(policy.temperature),
    )
    active = np.flatnonzero(policy.exit_on[0])
    if not active.size:
        return Path(policies=static, knob=(None,))
    if int(policy.criterion[0]) == PATIENCE:  # agreements: one fewer than there are exits
        patience = np.arange(active.size - 1, 0, -1)
        bold = replace(_repeat(policy, patience.size), patience=patience)
        knob: list[float] = [float(p) for p in patience]
    else:
        shifts = _shifts(policy, search, active, steps)
        bold = _repeat(policy, shifts.size)
        bold = replace(bold, thresholds=bold.thresholds + shifts[:, None])
        knob = [float(s) for s in shifts]
    return Path(policies=PolicyBatch.concat([static, bold]), knob=(None, *knob))


def answers_of(trace: Trace, policies: PolicyBatch) -> NDArray[np.float32]:
    """Logits [P, N, C] that P policies answer with."""
    rows = np.arange(trace.num_samples)
    answers: NDArray[np.float32] = trace.logits[rows, exit_layers(trace.logits, policies)]
    return answers


def _repeat(policy: PolicyBatch, times: int) -> PolicyBatch:
    return policy.take(np.zeros(times, dtype=np.int64))


def _shifts(
    policy: PolicyBatch, search: Trace, active: NDArray[np.int64], steps: int
) -> NDArray[np.float64]:
    """Common shifts of all thresholds, descending, 0 among them.

    Midpoints between neighbouring distances of scores to their thresholds, so that none lies on a
    score of the search rows; evenly spread over all pairs of row and exit.
    """
    scores = scores_of(search.logits, int(policy.criterion[0]), float(policy.temperature[0]))
    apart = np.unique(scores[:, active] - policy.thresholds[0, active])
    middle = 0.5 * (apart[:-1] + apart[1:])
    if middle.size > steps:
        middle = middle[np.unique(np.linspace(0, middle.size - 1, steps).round().astype(np.int64))]
    lowest = np.array([apart[0] - 1e-3])  # below every score: all leave at the first exit
    return np.unique(np.concatenate([lowest, [0.0], middle]))[::-1]
