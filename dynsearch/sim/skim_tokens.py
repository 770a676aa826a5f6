"""Tokens that reach each layer of a skimming encoder, and those that a batch layout runs.

- Counts or shares fixed for each layer: `search_spaces.lowering.skimmed.stated_counts`.
- Thresholds and learned gates (Kim et al. 2022, "Learned Token Pruning"; Guan et al. 2022,
  "Transkimmer") and gates of blocks (Guan et al. 2022, "Block-Skim"): `ShareLaw`, from a trace or
  from stated means.

Attention needs the second moment: a layer costs a E[n] + b E[n^2], and E[n^2] is more than
E[n]^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, ndtri
from scipy.stats import rankdata

from search_spaces.skims.layouts import executed

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

_CELLS = 512  # of ranks, for means over texts of one length


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareLaw:
    """Share of a text's tokens that are alive in each layer, as a draw for each text.

    Shares of a text are quantiles of Beta(mean_l, spread_l) at one latent rank, so that they fall
    from layer to layer where means do and spreads are equal; alive tokens are a binomial draw
    among those of the layer before. The latent correlates with the rank of the length.
    """

    mean: F64  # [L] share of tokens, protected ones aside
    spread: F64  # [L] 0..1: variance of the share is spread * mean * (1 - mean)
    with_length: float = 0.0  # correlation of the latent with the normal score of the length
    protected: int = 1  # tokens that are never dropped

    @classmethod
    def fit(
        cls, tokens: NDArray[np.integer], lengths: NDArray[np.integer], protected: int
    ) -> Self:
        """From counts of a trace, by moments.

        With m = n - protected, a count k of a beta-binomial has E[k / m] = r and
        E[k (k - 1) / (m (m - 1))] = r^2 + spread r (1 - r). The correlation with length is that
        of normal scores; the binomial part of the counts makes it a little too small.

        Args:
            tokens: Alive in each layer [N, L].
            lengths: Of each text [N].
            protected: Tokens that are never dropped.
        """
        m = (lengths - protected)[:, None].astype(np.float64)
        k = np.clip(tokens - protected, 0, m)
        some, several = m[:, 0] > 0, m[:, 0] > 1
        mean = _mean_share(k[some], m[some])
        pairs = _mean_share(k[several] * (k[several] - 1), m[several] * (m[several] - 1))
        plain = mean * (1 - mean)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.where(plain > 0, (pairs - mean**2) / plain, 0.0)
        busiest = int(plain.argmax())
        score = _normal_scores(k[:, busiest] / np.maximum(m[:, 0], 1))
        together = float(score @ _normal_scores(lengths)) / lengths.size
        variance = float(score @ score) / lengths.size
        return cls(
            mean=mean,
            spread=np.clip(spread, 0.0, 1.0),
            with_length=float(np.clip(together / variance, -1, 1)) if variance > 0 else 0.0,
            protected=protected,
        )

    def moments(self, lengths: NDArray[np.integer]) -> F64:
        """E[n] and E[n^2] of the tokens alive in each layer, over these texts [L, 2]."""
        m = np.maximum(lengths - self.protected, 0)[:, None].astype(np.float64)
        kept = lengths[:, None] - m
        first, second = self._share_moments(lengths)
        squares = m * first + m * (m - 1) * second
        parts = kept + m * first, kept**2 + 2 * kept * m * first + squares
        return np.stack([part.mean(axis=0) for part in parts], axis=1)

    def draw(self, rng: np.random.Generator, lengths: NDArray[np.integer]) -> I64:
        """Tokens alive in each layer, one draw for each text [N, L]."""
        part = np.sqrt(1 - self.with_length**2)
        latent = self.with_length * _normal_scores(lengths) + part * rng.normal(size=lengths.size)
        share = _beta_quantiles(ndtr(latent)[:, None], self.mean, self.spread)
        alive = np.maximum(lengths - self.protected, 0)
        kept = lengths - alive
        before = np.ones(lengths.size)
        out = np.empty((lengths.size, self.mean.size), dtype=np.int64)
        for layer, now in enumerate(share.T):
            with np.errstate(divide="ignore", invalid="ignore"):
                stay = np.where(before > 0, np.minimum(now / before, 1.0), 0.0)
            alive = rng.binomial(alive, stay)
            out[:, layer] = kept + alive
            before = np.minimum(before, now)
        return out

    def _share_moments(self, lengths: NDArray[np.integer]) -> tuple[F64, F64]:
        """E[s] and E[s^2] of each text [N or 1, L]."""
        if self.with_length == 0:
            plain = self.mean * (1 - self.mean) * self.spread
            return self.mean[None], (self.mean**2 + plain)[None]
        edges = ndtri(np.linspace(0.0, 1.0, _CELLS + 1))
        ranks = (np.arange(_CELLS) + 0.5) / _CELLS
        share = _beta_quantiles(ranks[:, None], self.mean, self.spread)  # [cells, L]
        distinct, index = np.unique(_normal_scores(lengths), return_inverse=True)
        part = np.sqrt(max(1 - self.with_length**2, 1e-12))
        below = ndtr((edges - self.with_length * distinct[:, None]) / part)
        chance = np.diff(below, axis=1)  # of each cell of ranks, by length
        return (chance @ share)[index], (chance @ share**2)[index]


def executed_tokens(
    tokens: NDArray[np.integer], batches: I64, layout: str, alive: Bool | None = None
) -> F64:
    """Tokens and squared tokens that run in each layer, the mean of a sample there [L, 2].

    Args:
        tokens: Of each sample [N, L].
        batches: Row numbers [M, B], -1 where a batch is short.
        layout: "pad_to_max": every sample of a batch has the tokens of its largest. "packed" and
            "per_sequence": its own; the first in one call a batch, the second in one a sample.
        alive: Samples that a layer is run for [N, L], where exits take some away; None: all.

    Raises:
        InputError: another layout.
    """
    there = np.repeat((batches >= 0)[..., None], tokens.shape[1], axis=2)  # [M, B, L]
    if alive is not None:
        there &= alive[batches]
    run = executed(layout, np.where(there, tokens[batches], 0).swapaxes(1, 2))  # [M, L]
    samples = np.maximum(there.sum(axis=(0, 1)), 1)
    return np.stack([part.sum(axis=0) / samples for part in (run.tokens, run.pairs)], axis=1)


def expected_padded(law: F64, batch: int) -> F64:
    """E[n] and E[n^2] of the largest of B independent counts [..., 2].

    P(largest <= x) = F(x)^B.

    Args:
        law: Probability of 0..X tokens [..., X + 1].
        batch: B.
    """
    below = np.minimum(np.cumsum(law, axis=-1), 1.0) ** batch
    largest = np.diff(below, axis=-1, prepend=0.0)
    x = np.arange(law.shape[-1], dtype=np.float64)
    return np.stack([largest @ x, largest @ x**2], axis=-1)


def count_law(tokens: NDArray[np.integer], most: int) -> F64:
    """Share of samples with 0..most tokens in each layer [L, most + 1], from counts [N, L]."""
    values = np.arange(most + 1)
    return np.stack([(column[:, None] == values).mean(axis=0) for column in tokens.T])


def _mean_share(part: F64, whole: F64) -> F64:
    """Mean over texts of part / whole [L]; 0 where there is no text."""
    share: F64 = (part / whole).sum(axis=0) / max(len(part), 1)
    return share


def _beta_quantiles(rank: F64, mean: F64, spread: F64) -> F64:
    """Quantiles of Beta with these means and variances spread * mean * (1 - mean)."""
    strength = (1 - spread) / np.where(spread > 0, spread, 1.0)
    fixed = (spread <= 0) | (mean <= 0) | (mean >= 1)
    a = np.where(fixed, 1.0, mean * strength)
    b = np.where(fixed, 1.0, (1 - mean) * strength)
    two_points = np.where(rank > 1 - mean, 1.0, 0.0)  # all or nothing
    drawn = np.where(strength > 0, betaincinv(np.maximum(a, 1e-9), np.maximum(b, 1e-9), rank), 0)
    return np.where(fixed, mean, np.where(strength > 0, drawn, two_points))


def _normal_scores(values: NDArray[np.number]) -> F64:
    """Normal quantiles of the ranks of values [N], ties at their mean rank."""
    scores: F64 = ndtri((rankdata(values) - 0.5) / values.size)
    return scores
