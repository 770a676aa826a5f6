"""From a fine-tuned network to a supernet: every exit and every sub-network learns its answers.

First the network is fine-tuned on labels like any other (`training.fine_tune`). What it has become
is the teacher of all that is dynamic: exit heads after every layer, layers that have lost tokens,
layers with few experts. They learn from its probabilities and from no label, on texts that need
none, so that a few thousand labelled texts are not learnt by heart.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig, Plan, Weights, full_plan
from dynsearch.models.experts import fit_routers, split_experts
from dynsearch.models.tokens import Tokens
from dynsearch.quality.batches import (
    batch_parts,
    endless,
    joined_texts,
    piece_tokens,
    pieces,
    take,
)
from dynsearch.quality.lesson import add_scorer, lesson_of, scorer_loss
from dynsearch.quality.precision import autocast, training_dtype
from dynsearch.quality.training import (
    Labelled,
    Optimizers,
    Progress,
    Training,
    copy_to,
    fine_tune,
    is_trained,
    part_of,
    training_threads,
)

logger = logging.getLogger(__name__)

TEMPERATURE = 2.0
EARLY = 2.0  # weight of exits of the lower half, relative to those above
TEXTS = 1.5  # in a step of distillation, relative to one of fine-tuning
FULL_STEPS = 0.5  # share of the steps in which the full network learns, too
SCORER = 1.0  # weight of how tokens are ranked, relative to that of answers
STEP_COST = 1.9  # of a step of distillation, relative to one of fine-tuning
SKIMS, EXPERTS = 0.85, 0.4  # share of the sub-networks that lose tokens, that have few experts
SECOND_SKIM = 0.35  # share of those that lose tokens twice
KEEP, KEEP_LONG = (0.75, 0.5, 0.25), (0.5, 0.25)  # tokens left, in short and in long texts


def train_supernet(
    config: EncoderConfig,
    weights: Weights,
    train: Labelled,
    training: Training,
    progress: Progress | None = None,
    *,
    early_stop: Labelled | None = None,
    unlabelled: Tokens | None = None,
) -> tuple[EncoderConfig, Weights]:
    """Fine-tune pretrained `weights`, then distil what they became into a supernet.

    Every step of distillation runs a sampled sub-network, skimmed or with few experts, and every
    second one the full network as well, each with a loss at every exit; early exits weigh more,
    they are what a search uses, and tokens are mostly lost early, where that saves most.
    Feed-forward networks are cut into experts after fine-tuning; expert means and routers are
    fitted in closed form before, halfway and after. Where texts are long, the first half of the
    steps reads pieces of them.

    Args:
        config: Geometry of the pretrained encoder, with `num_classes`.
        weights: Its backbone weights; not changed.
        train: Labelled texts.
        training: Settings.
        progress: Called now and then.
        early_stop: Labelled texts that choose the epoch of fine-tuning; None: the last one.
        unlabelled: Texts to distil on. Where there are none, the labelled ones and mixtures of
            them take turns: the beginning of one joined to the end of another.
    """
    with training_threads(training):
        config = replace(config, pooling=training.pooling)
        logger.info("training in %s, the faster one here", training_dtype(training.device))
        begun = fine_tuning_share(training)
        tuned = fine_tune(
            config,
            weights,
            train,
            training,
            early_stop=early_stop,
            progress=part_of(progress, 0.0, begun),
        )
        return distil(
            config, tuned, train.tokens, training, part_of(progress, begun, 1.0), unlabelled
        )


def distil(
    config: EncoderConfig,
    tuned: Weights,
    train: Tokens,
    training: Training,
    progress: Progress | None = None,
    unlabelled: Tokens | None = None,
) -> tuple[EncoderConfig, Weights]:
    """A supernet that answers as the network `tuned` does; arguments as of `train_supernet`."""
    rng = np.random.default_rng(training.seed)
    dtype = training_dtype(training.device)
    tuned = copy_to(training.device, tuned)
    teacher, full = DynamicEncoder(config, tuned), full_plan(config)
    config, state = split_experts(config, tuned, train, training.expert_counts, training.seed)
    if training.input_skims:
        state = add_scorer(config.hidden_size, state, training.seed)
    # by name, so that a network read from a file learns as the one that was written
    state = copy_to(training.device, {k: state[k] for k in sorted(state)})
    for name, tensor in state.items():
        tensor.requires_grad_(is_trained(name))
    model = DynamicEncoder(config, state)
    optimizers = Optimizers(state, training)
    steps, width = distil_steps(len(train), training), piece_tokens(unlabelled or train)
    for step, texts in zip(
        range(steps), _texts(train, unlabelled, training, steps, rng), strict=False
    ):
        if step == steps // 2:
            _refit(model, train)
        keep = KEEP_LONG if width and step >= steps // 2 else KEEP
        plans = [sample_plan(config, rng, keep, input_skims=training.input_skims)]
        if rng.random() < FULL_STEPS:
            plans.append(full)
        optimizers.zero_grad()
        loss = _step(model, teacher, texts, plans, dtype)
        optimizers.step(step / steps)
        if progress is not None and step % 20 == 0:
            progress(step / steps, f"step {step} of {steps} of distillation, loss {loss:.3f}")
    done = {k: v.detach() for k, v in state.items()}
    return config, copy_to("cpu", fit_routers(config, done, train))


def fine_tuning_share(training: Training) -> float:
    """Share of the time of training that fine-tuning takes."""
    return 1.0 / (1.0 + training.distillation * STEP_COST)


def distil_steps(texts: int, training: Training) -> int:
    """Steps of distillation for so many labelled texts."""
    each = math.ceil(texts / training.batch)
    return max(2, round(training.distillation * training.epochs * each))


def distil_texts(texts: int, training: Training) -> int:
    """Texts that so many steps read."""
    return distil_steps(texts, training) * round(TEXTS * training.batch)


def _texts(
    train: Tokens,
    unlabelled: Tokens | None,
    training: Training,
    steps: int,
    rng: np.random.Generator,
) -> Iterator[Tokens]:
    """What each step reads."""
    source = train if unlabelled is None else unlabelled
    width = piece_tokens(source)
    for step, rows in enumerate(endless(source, round(TEXTS * training.batch), rng)):
        texts = take(source, rows)
        if width and step < steps // 2:
            texts = pieces(texts, width, rng)
        if unlabelled is None and step % 2:
            texts = joined_texts(texts, rng)
        yield texts


def _refit(model: DynamicEncoder, tokens: Tokens) -> None:
    """Put freshly fitted expert means and routers into the weights that are being trained."""
    with torch.no_grad():
        fitted = fit_routers(
            model.config, {k: v.detach() for k, v in model.weights.items()}, tokens
        )
        for name, value in fitted.items():
            if ".router" in name or ".experts" in name:
                model.weights[name].copy_(value)


def _step(
    model: DynamicEncoder,
    teacher: DynamicEncoder,
    texts: Tokens,
    plans: Sequence[Plan],
    dtype: str,
) -> float:
    """Add the gradients of one batch; its loss. Every exit of `plans` learns from `teacher`."""
    total = 0.0
    for part, share in batch_parts(texts, np.arange(len(texts))):
        few = take(texts, part)
        weigh = any(plan.keep_input < 1.0 for plan in plans)
        lesson = lesson_of(teacher, few, dtype, weigh=weigh)
        wanted = (lesson.logits / TEMPERATURE).softmax(dim=-1)
        if lesson.weight is not None:
            loss = SCORER * share * _scorer_loss(model, few, lesson.weight)
            loss.backward()  # type: ignore[no-untyped-call]
        for plan in plans:
            loss = _soft_loss(_logits(model, plan, few, dtype), wanted) * share / len(plans)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
    return total


def _scorer_loss(model: DynamicEncoder, texts: Tokens, wanted: Tensor) -> Tensor:
    """What the scorer has to learn; embeddings learn nothing from it."""
    everyone = np.arange(len(texts))
    ids, lengths = texts.batch(everyone)
    with torch.no_grad():
        x = model.start(ids, lengths, texts.batch_types(everyone)).x
    return scorer_loss(model.token_scores(x), wanted, lengths)


def _logits(model: DynamicEncoder, plan: Plan, texts: Tokens, dtype: str) -> Tensor:
    """Logits [B, L, C] of every exit head, float32; layers run in `dtype`."""
    everyone = np.arange(len(texts))
    with autocast(dtype, model.device.type):
        pooled = model.pooled(plan, *texts.batch(everyone), texts.batch_types(everyone))
    return torch.stack([model.head(i, x.float()) for i, x in enumerate(pooled)], dim=1)


def _soft_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of exits [B, L, C] against probabilities [B, C], weighted over exits."""
    loss = -(wanted[:, None] * (logits / TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1)
    return TEMPERATURE**2 * (loss.mean(dim=0) @ _exit_weights(logits))


def _exit_weights(logits: Tensor) -> Tensor:
    """Weights of exits [B, L, C], summing to 1; those of the lower half count EARLY times more."""
    layers = logits.shape[1]
    place = torch.arange(layers, device=logits.device)
    weights = torch.where(place < (layers + 1) // 2, EARLY, 1.0)
    return weights / weights.sum()


def sample_plan(
    config: EncoderConfig,
    rng: np.random.Generator,
    keep: Sequence[float] = KEEP,
    *,
    input_skims: bool = False,
) -> Plan:
    """A random sub-network at full depth: tokens lost once or twice, few experts, or both.

    Tokens are lost after the attention of a layer, if asked for before the first one, too, the
    likelier the earlier; the last layer loses none. Layers with few experts are drawn from the
    upper two thirds: those below need all of theirs.

    Args:
        config: Geometry.
        rng: Random numbers.
        keep: Shares of tokens that may be left.
        input_skims: Whether tokens may be lost before the first layer.
    """
    layers = config.num_layers
    rates, experts = np.ones(layers + 1), np.ones(layers, dtype=np.int64)
    top_k = np.ones(layers, dtype=np.int64)
    few = bool(config.expert_counts) and rng.random() < EXPERTS
    if not few or rng.random() < SKIMS:
        places = np.arange(0 if input_skims else 1, layers)
        chance = 1.0 / np.arange(1, len(places) + 1)
        size = min(len(places), 2 if rng.random() < SECOND_SKIM else 1)
        for place in rng.choice(places, size=size, replace=False, p=chance / chance.sum()):
            rates[place] = rng.choice(keep)
    rates = np.minimum.accumulate(rates)
    for layer in np.flatnonzero(rng.random(layers) < 0.5) if few else ():
        if layer >= layers // 3:
            experts[layer] = rng.choice(config.expert_counts)
            top_k[layer] = max(1, round(float(rng.choice([0.25, 0.5])) * int(experts[layer])))
    return replace(
        full_plan(config),
        keep_input=float(rates[0]),
        keep_rate=tuple(float(x) for x in rates[1:]),
        num_experts=tuple(int(x) for x in experts),
        top_k=tuple(int(x) for x in top_k),
        token_routing=bool(rng.random() < 0.3),
    )
