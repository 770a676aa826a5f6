"""Free energy of the logits, negated: larger = surer.

Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.parts import Exits


def score(logits: NDArray[Any], temperature: float = 1.0) -> F64:
    """-E = T ln sum_c exp(z_c / T), any number, shape [...] for logits z [..., C]."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    highest = scaled.max(axis=-1)
    energy: F64 = temperature * (highest + np.log(np.exp(scaled - highest[..., None]).sum(-1)))
    return energy


def trail(exits: Exits, seen: Evidence) -> F64:
    """`score` at every exit [N, X]; the evidence is divided by its temperatures already."""
    return seen.temperature * score(seen.logits)


CRITERION = ExitCriterion(kind="energy", score=score, trail=trail)
