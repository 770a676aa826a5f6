"""Each token (or sequence) takes the k experts that score highest.

Sparsely-gated experts (Shazeer et al., ICLR 2017), GShard (Lepikhin et al., ICLR 2021), Switch
(Fedus et al., JMLR 2022), Mixtral, DeepSeekMoE. `second_expert = "random"` is GShard's: the second
one is used with probability min(1, 2 g_2). `expert_groups` is M6's prototyping (Yang et al. 2021):
the experts are parted, and each part gives its best.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.hashing import hash_words
from search_spaces.routers.base import (
    I64,
    Assignment,
    Router,
    Routing,
    gate_values,
    limit,
    ranked,
)


def select(scores: NDArray[Any], k: int) -> I64:
    """The k best experts, best first; equal scores go to the lower number.

    Args:
        scores: [..., E].
        k: Experts per row, 1 <= k <= E.

    Returns:
        Expert numbers [..., k].
    """
    return ranked(scores)[..., :k]


def assign(routing: Routing) -> Assignment:
    """Top k of the scores, of each group of experts its share."""
    scores, k, groups = routing.scores, routing.top_k, routing.moe.expert_groups
    if groups > 1:
        each = routing.num_experts // groups
        parts = scores.reshape(*scores.shape[:-1], groups, each)
        best = select(parts, k // groups) + np.arange(groups)[:, None] * each
        choices = np.swapaxes(best, -1, -2).reshape(*scores.shape[:-1], k)
    else:
        choices = select(scores, k)
    gates = gate_values(scores, choices, routing.moe.gate_norm)
    if routing.moe.second_expert == "random" and k == 2:
        choices = _second_at_random(choices, gates, routing.seed)
        gates = np.where((choices[..., None] == np.arange(scores.shape[-1])).any(-2), gates, 0.0)
    if routing.moe.overflow == "reroute" and groups == 1:
        choices = ranked(scores)
        gates = gate_values(scores, choices, "softmax_all")
    return limit(choices, gates, routing)


def _second_at_random(choices: I64, gates: NDArray[np.float64], seed: int) -> I64:
    """Choices with the second one left out where a uniform draw is at least 2 g_2."""
    second = np.take_along_axis(gates, choices[..., 1:2], axis=-1)[..., 0]
    place = np.arange(second.size).reshape(second.shape)
    drawn = hash_words(place, seed).astype(np.float64) / 2.0**64
    kept = choices.copy()
    kept[..., 1] = np.where(drawn < 2.0 * second, choices[..., 1], -1)
    return kept


ROUTER = Router(kind="token_choice", assign=assign, select=select, reads=("scores", "seed"))
