"""What a certificate bounds, row by row: losses of early answers against the full network.

Every loss is at most 1. Gaps are signed, because an early answer can be the better one; losses of
consistency need no labels. Brier scores lie within [0, 2] and are halved. Probabilities are the
softmax of the logits, as the runner of an export reports them.

Definitions: Jazbec et al. 2024, "Fast yet Safe: Early-Exiting with Risk Control".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

RISKS: tuple[str, ...] = ("performance_gap", "consistency", "brier_gap", "brier_consistency")
BINARY: tuple[str, ...] = ("performance_gap", "consistency")  # 0 or 1, a gain apart
MEANING: dict[str, str] = {
    "performance_gap": "error minus the full network's error",
    "consistency": "share of answers that differ from the full network's",
    "brier_gap": "half the Brier score minus half the full network's",
    "brier_consistency": "half the squared distance to the full network's probabilities",
}


def row_losses(risk: str, answers: F32, full: F32, labels: I64) -> F64:
    """Losses [T, N] of T policies on N rows.

    Args:
        risk: A name in RISKS.
        answers: Logits that each policy answers with [T, N, C].
        full: Logits of the full network [N, C].
        labels: Classes [N]; not read by risks of consistency.
    """
    if risk in BINARY:
        said, reference = answers.argmax(axis=-1), full.argmax(axis=-1)
        if risk == "consistency":
            return np.asarray(said != reference, dtype=np.float64)
        gap: F64 = np.subtract(said != labels, reference != labels, dtype=np.float64)
        return gap
    shares = softmax(answers.astype(np.float64), axis=-1)
    reference = softmax(full.astype(np.float64), axis=-1)
    if risk == "brier_consistency":
        return _half_square(shares - reference)
    truth = np.eye(full.shape[-1])[labels]
    return _half_square(shares - truth) - _half_square(reference - truth)


def _half_square(distance: F64) -> F64:
    out: F64 = 0.5 * (distance**2).sum(axis=-1)
    return out
