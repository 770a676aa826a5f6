"""A small network gives each token the probability that a layer works on it.

TR-BERT (Ye et al., NAACL 2021: at two layers, p >= 0.5), Transkimmer (Guan et al., ACL 2022: every
layer, skimmed tokens jump to the output), Block-Skim (Guan et al., AAAI 2022: blocks of 32 tokens,
`block`), SeqBoat / SMA (Ren et al., NeurIPS 2023: attention alone, `module = "attn"`), and the
recurrent Skip RNN, Skim-RNN and Leap-LSTM (`accumulated` is Skip RNN's).
"""

from __future__ import annotations

import numpy as np

from search_spaces.parts import Skim
from search_spaces.skims.base import F64, Bool, SkimRule, Tokens, blocks

HALF = 0.5  # where the record names no threshold


def through(skim: Skim, layer: int, tokens: Tokens) -> Bool:
    """Alive tokens whose probability (mean of their block) reaches the threshold, or protected."""
    threshold = skim.thresholds[layer] if skim.thresholds else HALF
    probability = blocks(tokens.array("probability"), skim.block, tokens.own & tokens.alive)
    reached = (probability >= threshold) | tokens.protected
    return reached & tokens.alive & tokens.own


def accumulated(increments: F64) -> Bool:
    """Steps at which Skip RNN (Campos et al., ICLR 2018) updates its state [B, n].

    u_t = round(v_t); v_{t+1} = u_t D_t + (1 - u_t) min(1, v_t + D_t) with v_0 = 1 and the
    increments D_t = sigmoid(W s_t + b), as recorded [B, n].
    """
    updates = np.zeros(increments.shape, dtype=bool)
    v = np.ones(increments.shape[:-1])
    for t in range(increments.shape[-1]):
        u = v >= HALF
        updates[..., t] = u
        v = np.where(u, increments[..., t], np.minimum(1.0, v + increments[..., t]))
    return updates


RULE = SkimRule(kind="gate", through=through, arrays=("probability",))
