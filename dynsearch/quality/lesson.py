"""What a fine-tuned network tells a supernet about texts: answers, and what they hang on.

Before the first layer tokens are dropped by a score of their embeddings alone. Nothing in a loss
on answers would teach that score, since only tokens that stay get gradients: it learns how much
the teacher's answer hangs on each token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dynsearch.models.dynamic import DynamicEncoder, Weights, full_plan
from dynsearch.models.tokens import Tokens
from dynsearch.quality.precision import autocast
from search_spaces.tokens import SCORER_WIDTH


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the teacher makes of a batch."""

    logits: Tensor  # [B, C]
    weight: Tensor | None  # how much the answer hangs on each token [B, T]


def add_scorer(hidden_size: int, weights: Weights, seed: int) -> Weights:
    """`weights` with a fresh scorer of tokens, which finds all alike."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randn(SCORER_WIDTH, hidden_size, generator=generator) / hidden_size**0.5
    return weights | {
        "scorer.hidden.weight": inner,
        "scorer.hidden.bias": torch.zeros(SCORER_WIDTH),
        "scorer.out.weight": torch.zeros(1, SCORER_WIDTH),
        "scorer.out.bias": torch.zeros(1),
    }


def lesson_of(teacher: DynamicEncoder, texts: Tokens, dtype: str, *, weigh: bool) -> Lesson:
    """Answers of `teacher` and, if asked for, how much they hang on each token.

    A token's weight is the square root of the norm of a gradient: of the lead of the answer over
    the mean logit, with respect to the token's embedding. Weights of a text sum to 1; its first
    token, which always stays, and padding have none. The root keeps the few heaviest tokens from
    being all that is learnt: a quarter or more will stay.

    Args:
        teacher: Network whose last layer answers.
        texts: Token ids.
        dtype: Number format of layers; heads run in float32.
        weigh: Whether tokens are weighed.
    """
    everyone, plan = np.arange(len(texts)), full_plan(teacher.config)
    device = teacher.device.type
    with torch.no_grad(), autocast(dtype, device):
        state = teacher.start(*texts.batch(everyone), texts.batch_types(everyone))
    entered = state.x.detach().requires_grad_(weigh)
    with torch.set_grad_enabled(weigh), autocast(dtype, device):
        state = replace(state, x=entered)
        for layer in range(plan.depth):
            state = teacher.feed_forward(layer, teacher.attend(layer, state, plan), plan)
        logits = teacher.head(plan.depth - 1, teacher.pool(state).float())
    if not weigh:
        return Lesson(logits, None)
    lead = logits.amax(dim=-1) - logits.mean(dim=-1)
    (slope,) = torch.autograd.grad(lead.sum(), [entered])
    hangs = slope.float().norm(dim=-1).sqrt() * _others(entered, state.n)
    return Lesson(logits.detach(), hangs / hangs.sum(dim=1, keepdim=True).clamp_min(1e-30))


def scorer_loss(scores: Tensor, wanted: Tensor, lengths: np.ndarray) -> Tensor:
    """Mean divergence, in nats, of what scores say from shares.

    Args:
        scores: Logarithms up to a constant of a text [B, T].
        wanted: Shares [B, T] that sum to 1, 0 for the first token and padding.
        lengths: Tokens of each text [B].
    """
    told = scores.masked_fill(_others(scores, lengths) == 0, -torch.inf).log_softmax(dim=1)
    apart = torch.where(wanted > 0, wanted * (wanted.clamp_min(1e-30).log() - told), 0.0)
    return apart.sum(dim=1).mean()


def _others(values: Tensor, lengths: np.ndarray) -> Tensor:
    """1 at own tokens of each text but its first, else 0: [B, T]."""
    place = torch.arange(values.shape[1], device=values.device)[None]
    own = torch.from_numpy(lengths).to(values.device)[:, None]
    return ((place > 0) & (place < own)).to(torch.float32)
