"""What every router declares, and how a capacity cuts what it sends.

A step routes T tokens (all of a batch's) to E experts. Leading axes are independent steps, so that
many draws, layers or candidates go through at once. Padding is never routed: leave it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.parts import Experts

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What one layer's router works with.

    Attributes:
        num_experts: E.
        top_k: Experts per token.
        capacity_factor: cf; None is dropless.
        scores: Router logits [..., T, E].
        tokens: Token ids [..., T], for a hash.
        tasks: Task of each token [..., T].
        table: Expert of each token id or task [V], where it was chosen by frequency, information
            or clusters rather than by a hash.
        training: Whether rules differ from those that answer (BASE).
        seed: Of what is drawn at random; draws belong to positions, not to tokens.
        moe: The other parameters.
    """

    num_experts: int
    top_k: int
    capacity_factor: float | None
    scores: F64
    tokens: I64
    tasks: I64
    table: I64 | None = None
    training: bool = False
    seed: int = 0
    moe: Experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Who sees which tokens, before and after capacities.

    Attributes:
        sent: Whether a token was sent to an expert [..., T, E].
        kept: Whether the expert had room for it [..., T, E].
        gates: Weight of the expert's output [..., T, E], 0 where the token was not sent.
        capacity: Slots of each expert in one routing group; None: dropless.
    """

    sent: Bool
    kept: Bool
    gates: F64
    capacity: int | None

    @property
    def loads(self) -> I64:
        """Tokens that each expert computes [..., E]."""
        counts: I64 = self.kept.sum(axis=-2)
        return counts

    @property
    def dropped(self) -> I64:
        """Pairs of token and expert that found no room [...]."""
        counts: I64 = (self.sent & ~self.kept).sum(axis=(-1, -2))
        return counts

    @property
    def dropped_share(self) -> F64:
        """Dropped pairs over pairs sent [...]; 0 where nothing was sent."""
        share: F64 = self.dropped / np.maximum(self.sent.sum(axis=(-1, -2)), 1)
        return share


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """One way to send tokens to experts.

    Attributes:
        kind: Name in files.
        assign: The routing of a step -> who sees what.
        select: Where a token's choice is its scores alone: scores [..., E], k -> expert numbers
            [..., k], best first. It is what the dynamic model runs.
        reads: Fields of `Routing` that it reads besides numbers and parameters.
        alone: Whether, without a capacity, a token goes where it goes whatever its mates are.
        exact_k: Whether, without a capacity, every token is sent to exactly top_k experts.
    """

    kind: str
    assign: Callable[[Routing], Assignment]
    select: Callable[[NDArray[Any], int], I64] | None = None
    reads: tuple[str, ...] = ("scores",)
    alone: bool = True
    exact_k: bool = True


def routing_of(moe: Experts, layer: int, scores: NDArray[Any], **more: Any) -> Routing:
    """The routing of one step in one layer.

    Args:
        moe: Experts of a candidate.
        layer: Place in `moe.layers`, 0-based.
        scores: Router logits [..., T, E].
        more: Any of `tokens`, `tasks`, `table`, `training`, `seed`; ids that are not given are 0.
    """
    scores = np.asarray(scores, dtype=np.float64)
    nobody = np.zeros(scores.shape[:-1], dtype=np.int64)
    training = bool(more.get("training", False))
    train = moe.capacity_factor_train
    factor = train if training and train is not None else moe.capacity_factor
    return Routing(
        num_experts=moe.num_experts[layer],
        top_k=moe.top_k[layer],
        capacity_factor=factor,
        scores=scores,
        moe=moe,
        **({"tokens": nobody, "tasks": nobody} | more),
    )


def capacity(
    tokens: ArrayLike, num_experts: ArrayLike, top_k: ArrayLike, factor: ArrayLike
) -> I64:
    """Slots of each expert, C = ceil(cf k T / E) (GShard, Switch), any shape."""
    slots = np.asarray(factor) * np.asarray(top_k) * np.asarray(tokens) / np.asarray(num_experts)
    return np.asarray(np.ceil(slots - 1e-9).astype(np.int64))


def limit(choices: I64, gates: F64, routing: Routing) -> Assignment:
    """Send tokens to the experts that they chose, as far as these have room.

    First choices of all tokens come before second ones, earlier tokens before later ones (GShard).
    Each routing group has capacities of its own. With overflow "reroute" a token that finds no
    room tries its next choice until `top_k` experts have taken it; else it is dropped there and
    passes by on the residual.

    Args:
        choices: Experts of each token, best first [..., T, S]; -1 is none.
        gates: Weight of every expert [..., T, E].
        routing: Numbers and parameters.
    """
    T, E = choices.shape[-2], routing.num_experts
    size = routing.moe.routing_group_size or T
    slots = _slots(routing, T, size)
    reroute = routing.moe.overflow == "reroute" and slots is not None
    need = np.full(choices.shape[:-1], routing.top_k, dtype=np.int64)
    used = np.zeros((*choices.shape[:-2], -(-T // size), E), dtype=np.int64)
    group = np.arange(T) // size
    sent = np.zeros((*choices.shape[:-1], E), dtype=bool)
    kept = sent.copy()
    for s in range(choices.shape[-1]):
        chosen = choices[..., s, None] == np.arange(E)
        chosen &= (need > 0)[..., None]
        # place of each token among those that chose the expert, counted in its own group
        before = np.cumsum(chosen, axis=-2) - chosen
        start = before[..., ::size, :]
        place = before - start[..., group, :] + used[..., group, :]
        fits = chosen if slots is None else chosen & (place < slots[:, None])
        counted = fits if reroute else chosen
        used += np.add.reduceat(counted.astype(np.int64), np.arange(0, T, size), axis=-2)
        kept |= fits
        sent |= fits if reroute else chosen
        need -= fits.any(axis=-1) if reroute else 1
    if reroute:
        sent = _with_refused(sent, choices, need)
    return Assignment(
        sent=sent,
        kept=kept,
        gates=np.where(sent, gates, 0.0),
        capacity=None if slots is None else int(slots.max()),
    )


def gate_values(scores: F64, choices: I64, norm: str) -> F64:
    """Weight of every expert [..., T, E], 0 where it was not chosen, from logits [..., T, E].

    softmax_all: softmax over all experts, kept as it is (Switch, DeepSeekMoE). softmax_topk:
    softmax over the chosen alone (Mixtral); dselect is the same once its selection is binary
    (DSelect-k). sigmoid: each expert by itself.
    """
    E = scores.shape[-1]
    chosen = (choices[..., None] == np.arange(E)).any(axis=-2)
    if norm == "sigmoid":
        return np.where(chosen, 1.0 / (1.0 + np.exp(-scores)), 0.0)
    over = scores if norm == "softmax_all" else np.where(chosen, scores, -np.inf)
    highest = over.max(axis=-1, keepdims=True)
    weights = np.exp(over - np.where(np.isfinite(highest), highest, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(chosen, weights / np.where(total > 0.0, total, 1.0), 0.0)


def ranked(scores: NDArray[Any]) -> I64:
    """Experts by descending score [..., E]; equal scores go to the lower number."""
    order: I64 = np.argsort(-np.asarray(scores, dtype=np.float64), axis=-1, kind="stable")
    return order


def _slots(routing: Routing, T: int, size: int) -> I64 | None:
    """Capacity at each token's group [T]; the last group may be smaller."""
    if routing.capacity_factor is None:
        return None
    sizes = np.minimum(size, T - np.arange(T) // size * size)
    return capacity(sizes, routing.num_experts, routing.top_k, routing.capacity_factor)


def _with_refused(sent: Bool, choices: I64, need: I64) -> Bool:
    """`sent` with as many refused choices as a token still needs experts: they are dropped."""
    sent, need = sent.copy(), need.copy()
    for s in range(choices.shape[-1]):
        chosen = choices[..., s, None] == np.arange(sent.shape[-1])
        refused = chosen & ~sent & (need > 0)[..., None]
        sent |= refused
        need -= refused.any(axis=-1)
    return sent
