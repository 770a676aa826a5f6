"""Which tokens reach which layer and which expert: arrays between simulation and lowering."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Activity of B candidates over L layers and E experts."""

    reach: F64  # [B, L] share of samples that enter a layer
    tokens: F64  # [B, L, 2] E[n], E[n^2] of tokens entering layer l, given that it is reached
    expert_load: F64  # [B, L, E] share of routed tokens, sums to 1 over E


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What inputs do where no trace says: an assumption for checks and examples, never measured.

    Shares of tokens that skims keep stand in the candidate (`keep_rate`).
    """

    exit_share: tuple[float, ...] = ()  # inputs or tokens that leave at each exit; rest: at depth
    answer_share: tuple[float, ...] = ()  # inputs that each stage but the last answers
    acceptance: float | None = None  # of a drafted token
    read_share: float = 1.0  # steps of a recurrent reader that are run
    branch_share: tuple[float, ...] = ()  # steps by width of the updated state (branch_widths)
    width_share: float = 1.0  # of the state that a step of any width updates


def tokens_per_cycle(acceptance: ArrayLike, drafted: ArrayLike, batch: ArrayLike = 1) -> F64:
    """Mean tokens that a cycle of self-speculative decoding adds to each row.

    A cycle drafts d tokens, each accepted with probability a, independent, up to the first that
    is not, and yields A = 1 + a + ... + a^d = (1 - a^(d + 1)) / (1 - a) (Leviathan, Kalman and
    Matias 2023, "Fast Inference from Transformers via Speculative Decoding"). Rows of a batch
    that stay in step advance by the least of their yields; all B rows accept j tokens with
    probability a^(B j), so a^B takes the place of a.

    Args:
        acceptance: Probability that the network agrees with a drafted token, 0..1, any shape.
        drafted: Tokens drafted in a cycle d, broadcasts.
        batch: Rows that advance in step, broadcasts.
    """
    rate = np.asarray(acceptance, np.float64) ** np.asarray(batch)
    count = np.asarray(drafted, np.float64) + 1.0
    safe = np.where(rate < 1.0, rate, 0.0)
    mean: F64 = np.where(rate < 1.0, (1.0 - safe**count) / (1.0 - safe), count)
    return mean
