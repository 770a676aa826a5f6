"""Tokens stay where their importance reaches a learned threshold of the layer.

LTP (Kim et al., KDD 2022): keep token i where s_i >= theta_l, s_i the mean over heads and queries
of the attention that it receives; thresholds begin at theta_l = theta_L l / L.
"""

from __future__ import annotations

from search_spaces.parts import Skim
from search_spaces.skims.base import Bool, SkimRule, Tokens, blocks


def through(skim: Skim, layer: int, tokens: Tokens) -> Bool:
    """Alive tokens whose importance (of their block) reaches the threshold, and protected ones."""
    scores = blocks(tokens.array("importance"), skim.block, tokens.own & tokens.alive)
    reached = (scores >= skim.thresholds[layer]) | tokens.protected
    return reached & tokens.alive & tokens.own


def first_thresholds(last: float, layers: int) -> tuple[float, ...]:
    """Where training begins: theta_l = theta_L l / L."""
    return tuple(last * (layer + 1) / layers for layer in range(layers))


RULE = SkimRule(kind="threshold", through=through, arrays=("importance",))
