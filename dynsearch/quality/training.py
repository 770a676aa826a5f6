"""What all training shares, and conventional fine-tuning: labels at the last layer, no more.

A network so trained is the reference that a dynamic one is compared with, and the teacher that it
is distilled from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from cost_models.calibrate.host import usable_cores
from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig, Weights, full_plan
from dynsearch.models.tokens import Tokens
from dynsearch.quality.batches import batch_parts, endless, piece_tokens, pieces, take
from dynsearch.quality.precision import autocast, training_dtype

LABEL_SMOOTHING = 0.05
WORDS = "embeddings.word"
WORD_RATE = 10.0  # learning rate of word embeddings, relative to that of the layers
FROZEN = "embeddings."
ADDED = ("heads.", "scorer.")  # not pretrained

Progress = Callable[[float, str], None]  # share done, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How networks are fine-tuned. Part of their cache keys, but for `threads` and `device`."""

    epochs: int = 4
    batch: int = 32
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-3
    seed: int = 0
    max_len: int = 64
    expert_counts: tuple[int, ...] = (4, 8)
    pooling: str = "mean"
    distillation: float = 2.0  # steps of it for each step of fine-tuning
    input_skims: bool = False  # tokens may be lost before the first layer
    threads: int = 0  # 0: all cores
    device: str = "cpu"  # or "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Tokenised texts with class numbers."""

    tokens: Tokens
    labels: NDArray[np.int64]  # [N]


class Optimizers:
    """Adam for layers, what was added and words, each at its rate, over what asks for gradients.

    Words have sparse gradients: a step changes those that were read, no others.
    """

    def __init__(self, state: Weights, training: Training) -> None:
        self.words = state[WORDS]
        trained = {k: v for k, v in state.items() if v.requires_grad and k != WORDS}
        self.body = [v for k, v in trained.items() if not k.startswith(ADDED)]
        heads = [v for k, v in trained.items() if k.startswith(ADDED)]
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


@contextmanager
def training_threads(training: Training) -> Iterator[None]:
    """Torch on as many threads as the settings say; put back after."""
    threads = torch.get_num_threads()
    torch.set_num_threads(training.threads or usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def part_of(progress: Progress | None, start: float, end: float) -> Progress | None:
    """`progress` of a stage that is the part from `start` to `end` of the whole."""
    if progress is None:
        return None

    def told(share: float, text: str) -> None:
        progress(start + share * (end - start), text)

    return told


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


def fine_tune(
    config: EncoderConfig,
    weights: Weights,
    train: Labelled,
    training: Training,
    *,
    early_stop: Labelled | None = None,
    progress: Progress | None = None,
) -> Weights:
    """Fine-tune pretrained `weights` on labels alone, with cross-entropy at the last layer.

    Long texts are first read in pieces, as many epochs again: a piece of a quarter of the length
    costs a fifth of the time. A batch of many tokens is taken in parts, its gradients added up.
    Layers run in bf16 or fp32, whichever is faster on this device.

    Args:
        config: Geometry of the network.
        weights: Its backbone weights; not changed.
        train: Labelled texts.
        training: Settings.
        early_stop: Labelled texts that choose the epoch; None: the last one.
        progress: Called now and then.

    Returns:
        Weights with an exit head after each layer, of which the last one was trained.
    """
    rng = np.random.default_rng(training.seed)
    device, dtype = training.device, training_dtype(training.device)
    state = copy_to(device, add_heads(config, weights, training.seed))
    last = f"heads.{config.num_layers - 1}."
    for name, tensor in state.items():
        tensor.requires_grad_(is_trained(name) and name.startswith((WORDS, "layers.", last)))
    model = DynamicEncoder(config, state)
    optimizers = Optimizers(state, training)
    per_epoch = math.ceil(len(train.tokens) / training.batch)
    whole, width = training.epochs * per_epoch, piece_tokens(train.tokens)
    begun = whole if width else 0  # steps on pieces
    steps = begun + whole
    best, kept = math.inf, copy_to("cpu", state)
    for step, rows in zip(range(steps), endless(train.tokens, training.batch, rng), strict=False):
        texts, labels = take(train.tokens, rows), torch.from_numpy(train.labels[rows]).to(device)
        if step < begun:
            texts = pieces(texts, width, rng)
        optimizers.zero_grad()
        for part, share in batch_parts(texts, np.arange(len(texts))):
            ids, n = texts.batch(part)
            with autocast(dtype, device):
                types = texts.batch_types(part)
                pooled = model.pooled(full_plan(config), ids, n, types)[-1]
            logits = model.head(config.num_layers - 1, pooled.float())
            loss = functional.cross_entropy(
                logits, labels[torch.from_numpy(part)], label_smoothing=LABEL_SMOOTHING
            )
            (loss * share).backward()  # type: ignore[no-untyped-call]
        optimizers.step(step / steps)
        if step >= begun and (step + 1) % per_epoch == 0:
            error = 0.0 if early_stop is None else _error(model, early_stop)
            if error <= best:
                best, kept = error, copy_to("cpu", state)
        if progress is not None and step % 20 == 0:
            progress(step / steps, f"step {step} of {steps} on labels")
    return kept


def copy_to(device: str, weights: Weights) -> Weights:
    """A copy of `weights` on `device`, without what led to them."""
    return {k: v.detach().to(device, copy=True) for k, v in weights.items()}


def _error(model: DynamicEncoder, rows: Labelled) -> float:
    """Share of rows that the last exit gets wrong."""
    wrong, last = 0, model.config.num_layers - 1
    with torch.no_grad():
        for part in rows.tokens.batches(batch=32, sort=True):
            ids, n = rows.tokens.batch(part)
            types = rows.tokens.batch_types(part)
            pooled = model.pooled(full_plan(model.config), ids, n, types)[-1]
            answers = model.head(last, pooled).argmax(dim=1).cpu().numpy()
            wrong += int((answers != rows.labels[part]).sum())
    return wrong / len(rows.tokens)
