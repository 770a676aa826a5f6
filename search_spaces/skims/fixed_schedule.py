"""Each layer keeps a given number of tokens: those that matter most.

PoWER-BERT (Goyal et al., ICML 2020: counts per layer, significance = attention received, before
the feed-forward network); Length-Adaptive Transformer (Kim and Cho, ACL 2021: l_{j+1} =
ceil((1 - p_j) l_j), dropped tokens return for the last layer); SpAtten (Wang et al., HPCA 2021:
importance summed over the layers so far).
"""

from __future__ import annotations

import math

import numpy as np

from search_spaces.parts import Skim
from search_spaces.skims.base import Bool, SkimRule, Tokens, best
from search_spaces.tokens import keep_counts


def through(skim: Skim, layer: int, tokens: Tokens) -> Bool:
    """The best tokens: a share of the sample's own, or a count, protected ones included."""
    guarded = (tokens.protected & tokens.own).sum(axis=-1)
    if skim.keep_count:
        counts = np.maximum(np.minimum(skim.keep_count[layer], tokens.lengths), guarded)
    else:
        rate = np.asarray(skim.keep_rate[layer])
        counts = np.maximum(keep_counts(tokens.lengths, rate), guarded)
    return best(tokens.array("importance"), counts, tokens)


def drop_ratios(ratios: tuple[float, ...], length: int) -> tuple[int, ...]:
    """Counts of a Length-Adaptive Transformer: l_{j+1} = ceil((1 - p_j) l_j) from l_0 = length."""
    counts, left = [], length
    for ratio in ratios:
        left = math.ceil((1.0 - ratio) * left - 1e-9)
        counts.append(left)
    return tuple(counts)


def ramp(final: float, layers: int) -> tuple[float, ...]:
    """Rates of SpAtten: 1 in the first max(3, ceil(0.15 L)) layers, then a straight line down."""
    first = min(max(3, math.ceil(0.15 * layers)), layers)
    falling = np.linspace(1.0, final, layers - first + 1)[1:]
    return (1.0,) * first + tuple(float(x) for x in falling)


RULE = SkimRule(kind="fixed_schedule", through=through, arrays=("importance",), fixed=True)
