"""The supernet: one fine-tuned network of which every outer candidate is a view.

An exit head after every layer, tokens skimmed anywhere, FFNs cut into nested experts; trained
once with sampled sub-networks and self-distillation, then cached by content hash. A sub-network
is a pure function of (weights, candidate); nothing here is switched in place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

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
from dynsearch.quality.precision import autocast, training_dtype
from search_spaces.errors import InputError

logger = logging.getLogger(__name__)

RECIPE = 3  # raise when training changes what it yields: cached supernets are then not found
SCHEMA_VERSION = 1
DISTILL_TEMPERATURE = 2.0
LABEL_SMOOTHING = 0.05
EARLY = 1.5
AGREEMENT_TEXTS = 1.5  # texts without labels in a step, relative to those with
WORDS = "embeddings.word"
WORD_RATE = 10.0  # learning rate of word embeddings, relative to that of the layers
FROZEN = "embeddings."


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How the supernet is fine-tuned. Part of its cache key, but for `threads`."""

    epochs: int = 4
    batch: int = 32
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-3
    seed: int = 0
    max_len: int = 64
    expert_counts: tuple[int, ...] = (4, 8)
    pooling: str = "mean"
    threads: int = 0  # 0: all cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Tokenised texts with class numbers."""

    tokens: Tokens
    labels: NDArray[np.int64]  # [N]


Progress = Callable[[float, str], None]  # share done, text


def supernet_key(*, weights_sha256: str, data_sha256: str, training: Training) -> str:
    """Content hash of all that decides the trained weights."""
    settings = asdict(replace(training, threads=0))
    text = json.dumps(
        {"recipe": RECIPE, "weights": weights_sha256, "data": data_sha256, "training": settings},
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def cache_folder() -> Path:
    """Where trained supernets are kept: $DYNSEARCH_CACHE, else the user's cache folder."""
    root = os.environ.get("DYNSEARCH_CACHE")
    if root:
        return Path(root)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dynsearch"


def save_supernet(
    folder: Path, config: EncoderConfig, weights: Weights, *, info: dict[str, Any], tokenizer: Path
) -> None:
    """Write weights, config and tokenizer as one folder, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=folder.name + ".part-", dir=folder.parent))
    try:
        save_file({k: v.contiguous() for k, v in weights.items()}, part / "model.safetensors")
        head = {"schema_version": SCHEMA_VERSION, "encoder": asdict(config), **info}
        (part / "config.json").write_text(json.dumps(head, indent=1), encoding="utf-8")
        shutil.copyfile(tokenizer, part / "tokenizer.json")
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_supernet(folder: Path) -> tuple[EncoderConfig, Weights, dict[str, Any]]:
    """Config, weights and the rest of `config.json` of a saved supernet.

    Raises:
        InputError: missing or unreadable files, or a newer schema.
    """
    path = folder / "config.json"
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        version = head.pop("schema_version")
        if version > SCHEMA_VERSION:
            raise InputError.one(path, "schema_version", version, "newer; upgrade dynsearch")
        raw = head.pop("encoder")
        raw["expert_counts"] = tuple(raw["expert_counts"])
        return EncoderConfig(**raw), load_file(str(folder / "model.safetensors")), head
    except InputError:
        raise
    except Exception as error:  # JSON, safetensors and missing keys alike
        raise InputError.one(
            folder, "", None, f"no readable supernet ({error}); delete the folder and train again"
        ) from error


def add_heads(config: EncoderConfig, weights: Weights, seed: int) -> Weights:
    """`weights` with a fresh exit head after each layer: dense (near identity), tanh, linear."""
    generator = torch.Generator().manual_seed(seed)
    h, out = config.hidden_size, dict(weights)
    for layer in range(config.num_layers):
        noise = 0.02 * torch.randn(h, h, generator=generator)
        out[f"heads.{layer}.dense.weight"] = torch.eye(h) + noise
        out[f"heads.{layer}.dense.bias"] = torch.zeros(h)
        out[f"heads.{layer}.out.weight"] = 0.02 * torch.randn(
            config.num_classes, h, generator=generator
        )
        out[f"heads.{layer}.out.bias"] = torch.zeros(config.num_classes)
    return out


def train_supernet(
    config: EncoderConfig,
    weights: Weights,
    train: Labelled,
    training: Training,
    progress: Progress | None = None,
    unlabelled: Tokens | None = None,
) -> tuple[EncoderConfig, Weights]:
    """Fine-tune pretrained `weights` into a supernet.

    Each step runs the full network on labelled texts with a loss at every exit: cross-entropy,
    and distillation from the last exit. Odd steps add a sampled sub-network, skimmed and with few
    experts, distilled from the full network's last exit; even steps add texts without labels, on
    which the exits of the lower half learn to agree with the last one. Early exits weigh more:
    they are what a search uses. Of the embeddings the words are trained, at a higher rate: they
    are all that the first layers can lean on. Expert means and routers are fitted in closed form
    before, halfway and after. A batch of many tokens is taken in parts, its gradients added up.
    Layers run in bf16 or fp32, whichever is faster on this processor.

    Long texts are first read in pieces, as many epochs again: a piece of a quarter of the length
    costs a fifth of the time, and most of what a network learns of a task it learns from them.

    Args:
        config: Geometry of the pretrained encoder, with `num_classes`.
        weights: Its backbone weights; not changed.
        train: Labelled texts.
        training: Settings.
        progress: Called now and then.
        unlabelled: Texts without labels; where there are none, they are made by joining the
            beginning of one training text to the end of another.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(training.threads or os.cpu_count() or 1)
    try:
        return _train(
            replace(config, pooling=training.pooling),
            weights,
            train,
            training,
            progress,
            unlabelled,
        )
    finally:
        torch.set_num_threads(threads)


def _train(
    config: EncoderConfig,
    weights: Weights,
    train: Labelled,
    training: Training,
    progress: Progress | None,
    unlabelled: Tokens | None,
) -> tuple[EncoderConfig, Weights]:
    rng = np.random.default_rng(training.seed)
    dtype = training_dtype()
    logger.info("training in %s, the faster one here", dtype)
    config, state = split_experts(
        config, weights, train.tokens, training.expert_counts, training.seed
    )
    state = {k: v.clone() for k, v in add_heads(config, state, training.seed).items()}
    for name, tensor in state.items():
        tensor.requires_grad_(is_trained(name))
    model = DynamicEncoder(config, state)
    optimizers = Optimizers(state, training)
    whole = training.epochs * math.ceil(len(train.tokens) / training.batch)
    width = piece_tokens(train.tokens)
    begun = whole if width else 0  # steps on pieces
    steps = begun + whole
    more = endless(unlabelled or train.tokens, round(AGREEMENT_TEXTS * training.batch), rng)
    for step, rows in zip(range(steps), endless(train.tokens, training.batch, rng), strict=False):
        if step == begun + whole // 2:
            _refit(model, train.tokens)
        texts = Labelled(tokens=take(train.tokens, rows), labels=train.labels[rows])
        if step < begun:
            texts = replace(texts, tokens=pieces(texts.tokens, width, rng))
        optimizers.zero_grad()
        plan = sample_plan(config, rng) if step % 2 else None
        loss = _labelled_step(model, texts, plan, dtype)
        if plan is None:
            if unlabelled is None:
                others = joined_texts(texts.tokens, rng)
            else:
                others = take(unlabelled, next(more))
                others = pieces(others, width, rng) if step < begun else others
            loss += _agreement_step(model, others, dtype)
        optimizers.step(step / steps)
        if progress is not None and step % 20 == 0:
            progress(step / steps, f"step {step} of {steps}, loss {loss:.3f}")
    done = {k: v.detach().clone() for k, v in state.items()}
    return config, fit_routers(config, done, train.tokens)


class Optimizers:
    """Adam for layers, heads and words, each at its rate, over the weights that ask for gradients.

    Words have sparse gradients: a step changes those that were read, no others.
    """

    def __init__(self, state: Weights, training: Training) -> None:
        self.words = state[WORDS]
        trained = {k: v for k, v in state.items() if v.requires_grad and k != WORDS}
        self.body = [v for k, v in trained.items() if not k.startswith("heads.")]
        heads = [v for k, v in trained.items() if k.startswith("heads.")]
        self._dense = torch.optim.AdamW(
            [{"params": self.body}, {"params": heads}], lr=0.0, weight_decay=0.01, fused=True
        )
        self._sparse = torch.optim.SparseAdam([self.words], lr=1.0)
        rate = training.learning_rate
        groups = (*self._dense.param_groups, *self._sparse.param_groups)
        rates = (rate, training.head_learning_rate, WORD_RATE * rate)
        self._rates = list(zip(groups, rates, strict=True))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._dense.zero_grad(set_to_none=True)
        self._sparse.zero_grad(set_to_none=True)

    def step(self, done: float) -> None:
        """Change the weights, when a share `done` of all steps is over."""
        for group, rate in self._rates:
            group["lr"] = rate * schedule(done)
        torch.nn.utils.clip_grad_norm_(self.body, 1.0)
        self._dense.step()
        self._sparse.step()  # type: ignore[no-untyped-call]


def is_trained(name: str) -> bool:
    """Whether gradients change a weight: of the embeddings only words, and no routers."""
    return name == WORDS or not (name.startswith(FROZEN) or ".router" in name)


def schedule(share: float) -> float:
    """Learning rate factor: up over the first tenth, then linearly down to nothing."""
    return min(share / 0.1, (1.0 - share) / 0.9)


def _refit(model: DynamicEncoder, tokens: Tokens) -> None:
    """Put freshly fitted expert means and routers into the weights that are being trained."""
    with torch.no_grad():
        fitted = fit_routers(
            model.config, {k: v.detach() for k, v in model.weights.items()}, tokens
        )
        for name, value in fitted.items():
            if ".router" in name or ".experts" in name:
                model.weights[name].copy_(value)


def _backward(loss: Tensor, share: float) -> float:
    """Add the gradients of `share` times a part's mean loss; its contribution to the loss."""
    scaled = loss * share
    scaled.backward()  # type: ignore[no-untyped-call]
    return float(scaled.detach())


def _labelled_step(model: DynamicEncoder, batch: Labelled, plan: Plan | None, dtype: str) -> float:
    """Labels at every exit of the full network, whose last exit teaches the others.

    With a `plan`, its sub-network learns from the labels and from the same teacher.
    """
    total, full = 0.0, full_plan(model.config)
    for part, share in batch_parts(batch.tokens, np.arange(len(batch.tokens))):
        texts = take(batch.tokens, part)
        labels = torch.from_numpy(batch.labels[part])
        logits = _all_logits(model, full, texts, dtype)  # [B, L, C]
        teacher = _soften(logits[:, -1])
        loss = _hard_loss(logits, labels) + _soft_loss(logits[:, :-1], teacher)
        total += _backward(loss, share)
        if plan is not None:
            logits = _all_logits(model, plan, texts, dtype)
            total += _backward(_hard_loss(logits, labels) + _soft_loss(logits, teacher), share)
    return total


def _agreement_step(model: DynamicEncoder, texts: Tokens, dtype: str) -> float:
    """On texts without labels the exits of the lower half learn to agree with the last one.

    Layers above them run without gradients, which is what pays for more texts.
    """
    total, full = 0.0, full_plan(model.config)
    pupils = max(1, min((full.depth + 1) // 2, full.depth - 1))
    for part, share in batch_parts(texts, np.arange(len(texts))):
        logits = _all_logits(model, full, take(texts, part), dtype, pupils)
        total += _backward(_soft_loss(logits[:, :pupils], _soften(logits[:, -1])), share)
    return total


def _all_logits(
    model: DynamicEncoder, plan: Plan, texts: Tokens, dtype: str, pupils: int | None = None
) -> Tensor:
    """Logits [B, L, C] of every exit head, float32, with gradients; layers run in `dtype`.

    Those above the first `pupils` have no gradients.
    """
    everyone = np.arange(len(texts))
    with autocast(dtype):
        pooled = model.pooled(plan, *texts.batch(everyone), texts.batch_types(everyone), pupils)
    logits = []
    for i, states in enumerate(pooled):
        with torch.set_grad_enabled(pupils is None or i < pupils):
            logits.append(model.head(i, states.float()))
    return torch.stack(logits, dim=1)


def _soften(logits: Tensor) -> Tensor:
    """Probabilities [B, C] that the other exits are distilled from; no gradient."""
    return (logits.detach() / DISTILL_TEMPERATURE).softmax(dim=-1)


def _hard_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy [B, L, C] against [B], weighted over exits."""
    layers = logits.shape[1]
    loss = functional.cross_entropy(
        logits.flatten(0, 1),
        labels.repeat_interleave(layers),
        label_smoothing=LABEL_SMOOTHING,
        reduction="none",
    )
    return loss.view(-1, layers).mean(dim=0) @ _exit_weights(layers)


def _soft_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Distillation of exits [B, L, C] from probabilities [B, C], weighted over exits."""
    loss = -(teacher[:, None] * (logits / DISTILL_TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1)
    return DISTILL_TEMPERATURE**2 * (loss.mean(dim=0) @ _exit_weights(logits.shape[1]))


def _exit_weights(layers: int) -> Tensor:
    """Weights of exits 1..layers, summing to 1; those of the lower half count EARLY times more."""
    weights = torch.where(torch.arange(layers) < (layers + 1) // 2, EARLY, 1.0)
    return weights / weights.sum()


def sample_plan(config: EncoderConfig, rng: np.random.Generator) -> Plan:
    """A random sub-network at full depth: a skim at one or two layers, experts in some layers."""
    layers = config.num_layers
    keep = np.ones(layers)
    for layer in rng.choice(layers - 1, size=int(rng.integers(1, 3)), replace=False):
        keep[layer] = rng.choice([0.75, 0.5, 0.25])
    keep = np.minimum.accumulate(keep)
    experts = np.ones(layers, dtype=np.int64)
    top_k = np.ones(layers, dtype=np.int64)
    if config.expert_counts and rng.random() < 0.75:
        for layer in np.flatnonzero(rng.random(layers) < 0.5):
            experts[layer] = rng.choice(config.expert_counts)
            top_k[layer] = max(1, round(float(rng.choice([0.25, 0.5])) * int(experts[layer])))
    return replace(
        full_plan(config),
        keep_rate=tuple(float(x) for x in keep),
        num_experts=tuple(int(x) for x in experts),
        top_k=tuple(int(x) for x in top_k),
        token_routing=bool(rng.random() < 0.3),
    )
