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
from dynsearch.sim.skim_tokens import ShareLaw
from dynsearch.simulate.assumptions import Assumptions
from search_spaces.candidate import Candidate, stack_depth, stacks_of
from search_spaces.lowering.skimmed import (
    Work,
    in_whole_blocks,
    skimmed,
    stated_counts,
    whole,
)
from search_spaces.parts import Skim

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MAX_CLASSES = 48


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
    work = whole(lengths, depth)
    for skim in skims_of(candidate, stack):
        work = skimmed(work, skim, _counts(rng, skim, lengths, assumptions))
    return work


def traced_work(trace: Trace, depth: int) -> Work:
    """Work of the texts of a trace that drops tokens, or none."""
    entering = trace.tokens_layer[:, :depth].astype(np.int64)
    ffn = trace.tokens_ffn[:, :depth].astype(np.int64)
    alive = np.concatenate([trace.lengths[:, None].astype(np.int64), ffn[:, :-1]], axis=1)
    return Work(alive=alive, entering=entering, asking=np.minimum(ffn, entering), ffn=ffn)


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


def _counts(rng: np.random.Generator, skim: Skim, lengths: I64, assumptions: Assumptions) -> I64:
    """Tokens that go on at each layer of a skim [N, S]."""
    if skim.keep_count or fixed_amounts(skim):
        return stated_counts(skim, lengths)
    rates = expected_rates(skim, assumptions)
    counts = _drawn(rng, skim, rates, lengths, assumptions.spread)
    return in_whole_blocks(counts, lengths, skim.block)


def _drawn(rng: np.random.Generator, skim: Skim, rates: F64, lengths: I64, spread: float) -> I64:
    kept = sum(name in ("cls", "sep", "first", "last") for name in skim.protected)
    law = ShareLaw(mean=rates, spread=np.full(rates.size, spread), protected=kept)
    if skim.skipped == "drop":
        return law.draw(rng, lengths)
    each = [replace(law, mean=rates[i : i + 1], spread=law.spread[:1]) for i in range(rates.size)]
    return np.concatenate([one.draw(rng, lengths) for one in each], axis=1)
