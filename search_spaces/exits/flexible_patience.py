"""Exits in a row whose probabilities barely differ from those before.

F-PABEE (Gao et al., ICASSP 2023) counts where D(p_{l-1}, p_l) < theta, so the score is -D and the
threshold -theta; a sample leaves when the count reaches the patience.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from search_spaces.exits.base import F64, Evidence, ExitCriterion, log_softmax
from search_spaces.parts import Exits


def kl(p: F64, q: F64) -> F64:
    """KL(p || q) = sum_c p_c (ln p_c - ln q_c) in nats [...], from log-probabilities [..., C]."""
    divergence: F64 = (np.exp(p) * (p - q)).sum(axis=-1)
    return divergence


def js(p: F64, q: F64) -> F64:
    """Jensen-Shannon: (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in [0, ln 2]."""
    middle = np.logaddexp(p, q) - np.log(2.0)
    return 0.5 * (kl(p, middle) + kl(q, middle))


DIVERGENCES: dict[str, Callable[[F64, F64], F64]] = {  # of log p_{l-1}, log p_l
    "kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "sym_kl": lambda p, q: kl(p, q) + kl(q, p),
    "js": js,
}


def trail(exits: Exits, seen: Evidence) -> F64:
    """-D(p_{l-1}, p_l) <= 0, [N, X]; -inf at the first exit, which has nothing before it."""
    logs = log_softmax(seen.logits, 1.0)
    closeness = np.full(logs.shape[:-1], -np.inf)
    divergence = DIVERGENCES[exits.similarity or "js"]
    closeness[..., 1:] = -np.maximum(divergence(logs[..., :-1, :], logs[..., 1:, :]), 0.0)
    return closeness


CRITERION = ExitCriterion(
    kind="flexible_patience",
    trail=trail,
    highest=0.0,
    counts=True,
    compares=True,
    fields={"similarity": "js"},
)
