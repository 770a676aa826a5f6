"""Exit criteria, one file each, found by scanning this folder."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from search_spaces.exits.base import ExitCriterion
from search_spaces.records import require_known
from search_spaces.registry import scan


@cache
def exit_criteria() -> dict[str, ExitCriterion]:
    """All criteria by kind."""
    return scan("search_spaces.exits", "CRITERION")


def exit_criterion(kind: str) -> ExitCriterion:
    """The criterion of this kind.

    Raises:
        InputError: there is none; the message has the nearest name.
    """
    known = exit_criteria()
    require_known(kind, known, "exits.criterion", "criterion")
    return known[kind]


def exit_score(
    kind: str, logits: NDArray[np.floating], temperature: float = 1.0
) -> NDArray[np.float64] | None:
    """Score [...] of the criterion on logits [..., C], or None where it has no score.

    Raises:
        InputError: unknown criterion.
    """
    score = exit_criterion(kind).score
    return None if score is None else score(logits, temperature)
