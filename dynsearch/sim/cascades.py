"""Cascades: a model answers what it is sure of and hands the rest to the next, larger one.

Model i answers where its score reaches its threshold (Wang, Luo, Crankshaw, Tumanov, Yu and
Gonzalez 2017, "IDK Cascades"; Li et al. 2021, "CascadeBERT"). A cascade is a network with early
exits whose layers are whole models: with `model_stages`, `batched_exits` gives the mean time of
batches, in which the second model sees as many rows as the first hands over, and draws latencies.
An ensemble in which every model runs is a cascade with infinite thresholds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.layer_cost import StageTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


def answered_by(scores: F64, thresholds: F64) -> I64:
    """0-based model that answers each sample [P, N].

    Args:
        scores: Of the models but the last, on each sample [M - 1, N].
        thresholds: Of P cascades [P, M - 1]; a model answers where score >= threshold.
    """
    sure = scores[None] >= thresholds[:, :, None]
    first: I64 = np.where(sure.any(axis=1), sure.argmax(axis=1), scores.shape[0])
    return first


def answered_share(answered: I64, num_models: int) -> F64:
    """Share of samples that each model answers [P, M], from `answered_by` [P, N]."""
    counts = (answered[:, None] == np.arange(num_models)[:, None]).sum(axis=2)
    share: F64 = counts / answered.shape[1]
    return share


def expected_cost(share: F64, cost: F64) -> F64:
    """Mean cost of a sample [D, P]: c_1 + P(handed on by 1) c_2 + ...

    Args:
        share: Samples that each model answers [P, M].
        cost: Mean cost of each model, any unit [D, M]; where it depends on the length, of the
            samples that it sees.
    """
    seen = np.cumsum(share[:, ::-1], axis=1)[:, ::-1]
    mean: F64 = cost @ seen.T
    return mean


def sample_costs(answered: I64, cost: F64) -> F64:
    """Cost of each sample [D, P, N]: all models up to the one that answers.

    Args:
        answered: [P, N] from `answered_by`.
        cost: Of each model on each sample [D, M, N]; [D, M, 1] where all samples cost the same.
    """
    upto = np.broadcast_to(np.cumsum(cost, axis=1), (*cost.shape[:2], answered.shape[1]))
    found: F64 = upto[:, answered, np.arange(answered.shape[1])]
    return found


def cascade_right(answered: I64, correct: Bool) -> F64:
    """Share of right answers [P], from who answers [P, N] and who is right [M, N]."""
    right: F64 = correct[answered, np.arange(answered.shape[1])].mean(axis=1)
    return right


def model_stages(seconds: F64) -> StageTable:
    """A cascade's models as the layers of a network with an exit after each.

    Args:
        seconds: Of each model at live batches 1..B and K lengths [D, M, B, K].
    """
    free = np.zeros_like(seconds)
    return StageTable(embed=free[:, 0], layer=seconds, check=free, head=free, compact=free)
