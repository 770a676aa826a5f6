"""Texts in classes of equal work: how many of their tokens enter what in each layer.

A class stands for texts of one length and one luck with their skims. Classes are ordered by the
tokens that they send through the network, so that the last of a batch is the one that its other
members are padded to in every layer. What a layer runs is `Work`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.quality.trace import Trace
from dynsearch.sim.skim_tokens import ShareLaw, in_blocks, routed, scheduled
from dynsearch.simulate.assumptions import Assumptions
from search_spaces.candidate import Candidate, keep_counts, stack_depth, stacks_of
from search_spaces.parts import Skim

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MAX_CLASSES = 48


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """N texts in K classes, ascending in work."""

    lengths: I64  # [N]
    index: I64  # [N] class of each
    work: Work  # of each class [K, L]
    longest: I64  # [K] tokens before the first layer
    own: Work  # of each text [N, L]


def text_work(
    rng: np.random.Generator,
    candidate: Candidate,
    stack: str,
    lengths: I64,
    assumptions: Assumptions,
) -> Work:
    """Work of texts under the skims of a candidate; what depends on the input is drawn.

    Args:
        rng: Draws who is skipped where a threshold or a gate decides.
        candidate: With its skims.
        stack: "encoder" or "decoder".
        lengths: Tokens of each text [N].
        assumptions: Rates where a skim states none, and how far texts differ.
    """
    depth = stack_depth(candidate, stack)
    alive = np.repeat(lengths[:, None], depth, axis=1).astype(np.int64)
    work = Work(alive=alive, entering=alive, asking=alive, ffn=alive)
    for skim in skims_of(candidate, stack):
        tokens = _skimmed(rng, skim, depth, lengths, assumptions)
        work = _drop(work, skim, tokens) if skim.skipped == "drop" else _bypass(work, skim, tokens)
    return work


def traced_work(trace: Trace, depth: int) -> Work:
    """Work of the texts of a trace that drops tokens after the attention, or none."""
    entering = trace.tokens_layer[:, :depth].astype(np.int64)
    ffn = trace.tokens_ffn[:, :depth].astype(np.int64)
    asking = np.where(ffn < entering, ffn, entering)
    return Work(alive=entering, entering=entering, asking=asking, ffn=ffn)


def with_live_tokens(work: Work, live: I64) -> Work:
    """Work where only `live` [N, L] tokens of each text still run; the others are looked at."""
    return replace(work, asking=np.minimum(work.asking, live), ffn=np.minimum(work.ffn, live))


def in_classes(lengths: I64, own: Work, most: int = MAX_CLASSES) -> Texts:
    """Texts sorted by work and cut into at most `most` classes of equal size.

    A class has the mean work of its texts, rounded up; texts that work alike share one exactly.
    """
    parts = np.concatenate(
        [lengths[:, None], own.alive, own.entering, own.asking, own.ffn], axis=1
    )
    distinct, index = np.unique(parts, axis=0, return_inverse=True)
    index = index.ravel()
    order = np.argsort(distinct.sum(axis=1), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    index = rank[index]
    if order.size > most:
        edges = np.searchsorted(
            np.cumsum(np.bincount(index)), np.arange(1, most) * lengths.size / most
        )
        index = np.unique(np.searchsorted(edges, index), return_inverse=True)[1]
    count = np.bincount(index)
    totals = np.stack([np.bincount(index, weights=column) for column in parts.T], axis=1)
    mean = np.maximum(np.ceil(totals / count[:, None] - 1e-9), 1).astype(np.int64)
    longest, *blocks = mean[:, 0], *np.split(mean[:, 1:], 4, axis=1)
    work = Work(**dict(zip(("alive", "entering", "asking", "ffn"), blocks, strict=True)))
    return Texts(lengths=lengths, index=index, work=work, longest=longest, own=own)


def skims_of(candidate: Candidate, stack: str) -> list[Skim]:
    """The skims of a candidate that act on a stack."""
    backbone = candidate.backbone
    return [s for s in candidate.skim if stack in stacks_of(backbone, s.stack, default="encoder")]


def fixed_amounts(skim: Skim) -> bool:
    """Whether a skim leaves as many tokens of each text as its schedule says."""
    return skim.mechanism in ("fixed_schedule", "topk_router", "lookup")


def expected_rates(skim: Skim, assumptions: Assumptions) -> F64:
    """Share of tokens that go on, by layer of the skim; falling to the assumed one if not stated.

    Shares of tokens that pass by are the same in all layers.
    """
    if skim.keep_rate:
        return np.asarray(skim.keep_rate, dtype=np.float64)
    count = len(skim.layers)
    if skim.skipped != "drop":
        return np.full(count, assumptions.keep)
    return 1.0 - (1.0 - assumptions.keep) * np.arange(1, count + 1) / count


def _skimmed(
    rng: np.random.Generator,
    skim: Skim,
    depth: int,
    lengths: I64,
    assumptions: Assumptions,
) -> dict[int, I64]:
    """Tokens that go on [N] by 0-based layer of the skim below the depth."""
    at = [(i, layer - 1) for i, layer in enumerate(skim.layers) if layer <= depth]
    if skim.mechanism == "lookup":
        return {layer: np.zeros_like(lengths) for _, layer in at}
    if skim.keep_count:
        counts = scheduled(lengths, skim.keep_count)
        return {layer: counts[:, i] for i, layer in at}
    rates = expected_rates(skim, assumptions)
    if fixed_amounts(skim) and skim.skipped == "drop":
        counts = keep_counts(lengths[:, None], rates)
    elif fixed_amounts(skim):
        counts = routed(lengths, rates)
    else:
        counts = _drawn(rng, skim, rates, lengths, assumptions.spread)
    if skim.block > 1:
        counts = np.minimum(in_blocks(counts, skim.block) * skim.block, lengths[:, None])
    return {layer: counts[:, i] for i, layer in at}


def _drawn(rng: np.random.Generator, skim: Skim, rates: F64, lengths: I64, spread: float) -> I64:
    kept = sum(name in ("cls", "sep", "first", "last") for name in skim.protected)
    law = ShareLaw(mean=rates, spread=np.full(rates.size, spread), protected=kept)
    if skim.skipped == "drop":
        return law.draw(rng, lengths)
    each = [replace(law, mean=rates[i : i + 1], spread=law.spread[:1]) for i in range(rates.size)]
    return np.concatenate([one.draw(rng, lengths) for one in each], axis=1)


def _drop(work: Work, skim: Skim, tokens: dict[int, I64]) -> Work:
    """Dropped tokens are gone in all later layers, after the attention or before the layer."""
    alive, entering, asking, ffn = (
        x.copy() for x in (work.alive, work.entering, work.asking, work.ffn)
    )
    for layer in range(alive.shape[1]):
        if layer not in tokens:
            continue
        left = np.minimum(tokens[layer], alive[:, layer])
        first = layer if skim.point == "before_layer" else layer + 1
        ffn[:, layer:] = np.minimum(ffn[:, layer:], left[:, None])
        asking[:, layer:] = np.minimum(asking[:, layer:], left[:, None])
        entering[:, first:] = np.minimum(entering[:, first:], left[:, None])
        alive[:, layer + 1 :] = np.minimum(alive[:, layer + 1 :], left[:, None])
    return Work(alive=alive, entering=entering, asking=asking, ffn=ffn)


def _bypass(work: Work, skim: Skim, tokens: dict[int, I64]) -> Work:
    """Skipped tokens pass by a layer, its attention or its feed-forward network."""
    entering, asking, ffn = (x.copy() for x in (work.entering, work.asking, work.ffn))
    for layer, through in tokens.items():
        if skim.module != "ffn":
            asking[:, layer] = np.minimum(asking[:, layer], through)
            if skim.skipped != "copy_state":  # a copied state is still attended to
                entering[:, layer] = np.minimum(entering[:, layer], through)
        if skim.module != "attn":
            ffn[:, layer] = np.minimum(ffn[:, layer], through)
    return replace(work, entering=entering, asking=asking, ffn=ffn)
