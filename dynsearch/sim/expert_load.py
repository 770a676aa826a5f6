"""How many tokens each expert gets: expected and drawn, by how routers choose.

A token of popularity p takes k different experts one after another, each in proportion to what
is left (Plackett-Luce), the law of a top-k over log p plus Gumbel noise (Kool, van Hoof and
Welling 2019, "Stochastic Beams and Where to Find Them"). Tokens are independent, so the load of
expert e is binomial, m_e ~ Bin(T, q_e), with q_e the probability that a token takes e; means of
anything that depends on one expert's load are exact. What depends on all loads at once (their
maximum, the slowest rank) is drawn. Real batches vary more: popularity itself is then a Dirichlet
draw around its mean.

- token choice, with noise or without, random: as above, `popularity` flat or from a trace.
- second = random: the second expert is kept with probability min(1, 2 g2) (Lepikhin et al. 2020,
  "GShard"), see `kept_second`.
- k groups of one choice each (Yang et al. 2021, "M6-T"): `groups`.
- hash: popularity is what tokens fall into a bucket of the router's (Roller et al. 2021, "Hash
  Layers").
- expert choice: every expert takes T c / E tokens (Zhou et al. 2022, "Mixture-of-Experts with
  Expert Choice Routing"); `choices_per_token` says how unevenly.
- balanced assignment: T / E tokens for every expert (Lewis et al. 2021, "BASE Layers"); at test
  time its greedy choice is a token choice.
- task: a whole sequence goes to one expert: draw loads of sequences, times their tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_NODES = 128  # of Gauss and Legendre
_AT_ONCE = 1 << 22  # noise values held at a time


def inclusion(popularity: F64, top_k: int) -> F64:
    """Probability that a token takes each expert [E]; sums to k.

    With exponential arrivals of rate p_e, the first k to arrive are the chosen ones: expert e at
    time t is among them if fewer than k others are there already,

        q_e = E[P(sum_(j != e) Bernoulli(1 - exp(-p_j t)) < k)],  t ~ Exp(p_e).

    Args:
        popularity: Weights, any scale [E], none negative.
        top_k: k, 1..E.
    """
    E = popularity.size
    share = popularity / popularity.sum()
    if top_k == 1 or top_k == E:
        return share if top_k == 1 else np.ones(E)
    used = share > 0
    p = share[used]
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    log_u = np.log((nodes + 1) / 2)
    absent = np.exp(log_u * (p[:, None, None] / p[None, :, None]))  # [j, e, nodes]
    absent[np.arange(p.size), np.arange(p.size)] = 1.0
    there = np.zeros((top_k, p.size, _NODES))  # so many others have arrived, up to k - 1
    there[0] = 1.0
    for missing in absent:
        more = there[:-1] * (1.0 - missing)
        there *= missing
        there[1:] += more
    out = np.zeros(E)
    out[used] = there.sum(axis=0) @ weights / 2
    taken: F64 = out * (min(top_k, p.size) / out.sum())
    return taken


def expected_of_load(values: F64, taken: F64, tokens: int) -> F64:
    """Mean of a function of each expert's load [..., E].

    Args:
        values: The function at loads 0..T [..., T + 1]; the same for all experts.
        taken: Probability that a token takes each expert [E], see `inclusion`.
        tokens: Independent tokens T.
    """
    loads = np.arange(tokens + 1)
    mean: F64 = values @ binom.pmf(loads[:, None], tokens, taken)
    return mean


def expected_touched(taken: F64, tokens: int) -> float:
    """Experts that get at least one of T independent tokens: sum of 1 - (1 - q_e)^T."""
    return float((1.0 - (1.0 - np.clip(taken, 0.0, 1.0)) ** tokens).sum())


def draw_loads(
    rng: np.random.Generator,
    popularity: F64,
    tokens: int,
    top_k: int,
    draws: int,
    *,
    groups: int = 1,
) -> I64:
    """Tokens that each expert gets [draws, E].

    Args:
        rng: Draws the choices.
        popularity: Weights [E], or of each draw [draws, E].
        tokens: T.
        top_k: Experts per token k; within each group.
        draws: Batches.
        groups: Experts stand in so many equal groups; a token chooses in each.
    """
    weights = np.broadcast_to(popularity, (draws, popularity.shape[-1]))
    if groups > 1:
        parts = np.split(weights, groups, axis=1)
        return np.concatenate([draw_loads(rng, p, tokens, top_k, draws) for p in parts], axis=1)
    share = weights / weights.sum(axis=1, keepdims=True)
    if top_k == 1:
        return rng.multinomial(tokens, share).astype(np.int64)
    E = share.shape[1]
    with np.errstate(divide="ignore"):
        logs = np.log(share)
    out = np.zeros((draws, E), dtype=np.int64)
    step = max(1, _AT_ONCE // E)
    for draw in range(draws):
        for first in range(0, tokens, step):
            noisy = logs[draw] + rng.gumbel(size=(min(step, tokens - first), E))
            chosen = np.argpartition(-noisy, top_k - 1, axis=1)[:, :top_k]
            out[draw] += np.bincount(chosen.ravel(), minlength=E)
    return out


def trace_loads(expert_tokens: NDArray[np.integer], batches: I64) -> I64:
    """Tokens that each expert gets in batches of a trace [M, L, E].

    Args:
        expert_tokens: Of each sample [N, L, E].
        batches: Row numbers [M, B], -1 where a batch is short.
    """
    padded = np.concatenate([expert_tokens, np.zeros_like(expert_tokens[:1])])
    loads: I64 = padded[batches].sum(axis=1, dtype=np.int64)
    return loads


def fit_concentration(loads: NDArray[np.integer]) -> float:
    """Concentration of the Dirichlet law behind loads of batches [S, E]; inf where none is needed.

    Shares x of T choices have variance p (1 - p) (1/T + (1 - 1/T) r) with r = 1 / (1 + kappa)
    (Mosimann 1962); r is solved from the sum over experts and batches.
    """
    total = loads.sum(axis=1, keepdims=True).astype(np.float64)
    p = loads.sum(axis=0) / total.sum()
    spread = (loads / total - p) ** 2 * loads.shape[0] / (loads.shape[0] - 1)
    plain = p * (1 - p)
    excess = (spread - plain / total).sum() / (plain * (1 - 1 / total)).sum()
    return float(np.inf) if excess <= 0 else float(1 / excess - 1)


def draw_popularity(rng: np.random.Generator, mean: F64, concentration: float, draws: int) -> F64:
    """Popularity of each batch [draws, E]: Dirichlet around `mean` [E]; inf: always the mean.

    Tokens of one text choose alike: one draw for each text, and loads summed over texts.
    """
    share = mean / mean.sum()
    if np.isinf(concentration):
        return np.tile(share, (draws, 1))
    return rng.dirichlet(concentration * share, draws)


def kept_second(second_gate: ArrayLike) -> F64:
    """Mean share of second choices that GShard sends on: the mean of min(1, 2 g2).

    Args:
        second_gate: Weight of each token's second expert, both weights summing to 1 [..., T].
    """
    kept = np.minimum(1.0, 2.0 * np.asarray(second_gate, np.float64))
    return np.asarray(kept.mean(axis=-1))


def choices_per_token(tokens: int, num_experts: int, capacity: int) -> F64:
    """Probability that 0..E experts choose a token [E + 1], experts independent of each other."""
    chance: F64 = binom.pmf(np.arange(num_experts + 1), num_experts, min(1.0, capacity / tokens))
    return chance


def hash_popularity(frequency: F64, bucket: I64, num_experts: int) -> F64:
    """Share of tokens that fall into each bucket [E].

    Args:
        frequency: How often each entry of the vocabulary occurs [V].
        bucket: Expert of each entry [V].
        num_experts: E.
    """
    share: F64 = np.bincount(bucket, weights=frequency, minlength=num_experts) / frequency.sum()
    return share


def zipf(vocabulary: int, exponent: float = 1.0) -> F64:
    """Frequencies of entries by rank, r^-exponent, summing to 1 [V] (Zipf 1949)."""
    weights = np.arange(1.0, vocabulary + 1) ** -exponent
    return np.asarray(weights / weights.sum())
