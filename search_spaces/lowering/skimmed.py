"""Tokens of texts in each layer under the skims of a candidate: who goes on, and where.

Dropped tokens are gone from a layer on; the others pass by one layer, its attention or its
feed-forward network. Where attention received ranks them, those that it drops ask nothing either:
only the others' answers are used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from search_spaces.candidate import keep_counts
from search_spaces.parts import Skim

I64 = NDArray[np.int64]

_LEARNED = ("learned", "router")  # scores of a unit of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Tokens of N texts (or classes of them) in L layers of one stack, each [N, L]."""

    alive: I64  # before the layer
    entering: I64  # have keys and values made
    asking: I64  # attend
    ffn: I64  # go through the feed-forward network

    def take(self, rows: NDArray[np.generic]) -> Work:
        """The texts at `rows`."""
        return Work(
            alive=self.alive[rows],
            entering=self.entering[rows],
            asking=self.asking[rows],
            ffn=self.ffn[rows],
        )


def whole(lengths: I64, depth: int) -> Work:
    """Work of texts [N] of which nothing is skipped."""
    alive = np.repeat(lengths[:, None], depth, axis=1).astype(np.int64)
    return Work(alive=alive, entering=alive, asking=alive, ffn=alive)


def chooses(skim: Skim) -> bool:
    """Whether a gate or learned scores decide about each token."""
    unit = skim.mechanism in ("gate", "topk_router") or skim.score in _LEARNED
    return unit and skim.mechanism not in ("lookup", "jump")


def scores(skim: Skim) -> bool:
    """Whether it has a unit that scores tokens; else their attention received is there."""
    return chooses(skim) and skim.score in _LEARNED


def ranks(skim: Skim) -> bool:
    """Whether tokens that are dropped are told by the attention that they receive."""
    kind = skim.mechanism
    return skim.skipped == "drop" and skim.score not in _LEARNED and kind not in ("gate", "lookup")


def stated_counts(skim: Skim, lengths: I64) -> I64:
    """Tokens that go on at each layer of a skim, rates met exactly [N, S]; all where none is.

    Counts of a schedule never grow. Shares of tokens that pass by leave one at least.
    """
    n = lengths[:, None]
    if skim.mechanism == "lookup":
        return np.zeros((lengths.size, len(skim.layers)), dtype=np.int64)
    if skim.keep_count:
        counts = np.minimum(n, np.minimum.accumulate(np.asarray(skim.keep_count, np.int64)))
    elif skim.keep_rate:
        protected = 1 if skim.skipped == "drop" else 0
        counts = keep_counts(n, np.asarray(skim.keep_rate), protected)
    else:
        counts = np.repeat(n, len(skim.layers), axis=1)
    return in_whole_blocks(counts, lengths, skim.block)


def in_whole_blocks(tokens: I64, lengths: I64, block: int) -> I64:
    """Counts [N, S] rounded up to whole blocks, of no more than the text has [N]."""
    rounded: I64 = np.minimum(-(-tokens // block) * block, lengths[:, None])
    return rounded


def skimmed(work: Work, skim: Skim, counts: I64) -> Work:
    """Work when only `counts` [N, S] tokens go on at the layers of a skim."""
    depth = work.alive.shape[1]
    for i, layer in enumerate(skim.layers):
        if layer <= depth:
            change = _drop if skim.skipped == "drop" else _bypass
            work = change(work, skim, layer - 1, counts[:, i])
    return work


def _drop(work: Work, skim: Skim, layer: int, tokens: I64) -> Work:
    """Dropped tokens are gone in all later layers, after the attention or before the layer."""
    left = np.minimum(tokens, work.alive[:, layer])
    after = skim.point == "after_attn"
    first = layer + after
    asks = layer if ranks(skim) else first
    places = {"alive": layer + 1, "entering": first, "asking": asks, "ffn": layer}
    return Work(**{name: _at_most(getattr(work, name), at, left) for name, at in places.items()})


def _at_most(tokens: I64, first: int, left: I64) -> I64:
    cut = tokens.copy()
    cut[:, first:] = np.minimum(cut[:, first:], left[:, None])
    return cut


def _bypass(work: Work, skim: Skim, layer: int, through: I64) -> Work:
    """Skipped tokens pass by a layer, its attention or its feed-forward network."""
    entering, asking, ffn = (x.copy() for x in (work.entering, work.asking, work.ffn))
    if skim.module != "ffn":
        asking[:, layer] = np.minimum(asking[:, layer], through)
        if skim.skipped != "copy_state":  # a copied state is still attended to
            entering[:, layer] = np.minimum(entering[:, layer], through)
    if skim.module != "attn":
        ffn[:, layer] = np.minimum(ffn[:, layer], through)
    return replace(work, entering=entering, asking=asking, ffn=ffn)
