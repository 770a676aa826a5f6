"""Mixture-of-depths: the best tokens go through a layer, the others pass by on the residual.

Raposo et al. 2024: x + r f(x) for the C = rate n tokens of each sequence with the highest router
score r. Ranking against later tokens is not causal: a decoder that writes asks a predictor for
each token by itself (`causal_predictor`, probability above 0.5), and how many go through varies.
"""

from __future__ import annotations

import numpy as np

from search_spaces.parts import Skim
from search_spaces.skims.base import Bool, SkimRule, Tokens, best
from search_spaces.skims.gate import HALF
from search_spaces.tokens import keep_counts


def through(skim: Skim, layer: int, tokens: Tokens) -> Bool:
    """The best tokens of each sample, or those that the predictor lets through."""
    scores = tokens.array("router")
    if skim.causal_predictor:
        return ((scores > HALF) | tokens.protected) & tokens.alive & tokens.own
    counts = keep_counts(tokens.lengths, np.asarray(skim.keep_rate[layer]), protected=0)
    guarded = (tokens.protected & tokens.own).sum(axis=-1)
    return best(scores, counts.clip(min=guarded), tokens)


RULE = SkimRule(kind="topk_router", through=through, arrays=("router",), fixed=True)
