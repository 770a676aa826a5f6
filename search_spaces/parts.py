"""The parts of a candidate: exits (depth), experts (width), skims (tokens), cascades (models).

Fields that stand below `# later` came after the first files: the codec leaves them out where they
have their default, so that files and hashes of earlier candidates stay as they are.

Layers are numbered from 1 within a stack. An encoder-decoder has two: `stack` says which one a
part acts on ("encoder", "decoder", for experts also "both"); left out, exits act on the decoder,
skims on the encoder and experts on both. Other backbones have one stack and leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Exits:
    """Early exits below the depth of their stack, which itself is the implicit last exit.

    A sample leaves at the first exit whose score reaches the exit's threshold. Scores are larger
    when the model is surer, for every criterion (`search_spaces.exits`). Criteria that count
    (patience and its kin) leave where a count reaches `patience`; criteria that are fixed before
    the input is seen (hash, static, position_schedule) have no threshold.
    """

    layers: tuple[int, ...]  # 1-based, ascending, all < depth
    criterion: str = "max_prob"
    thresholds: tuple[float, ...] = ()  # one per layer; empty where the criterion has none
    patience: int | None = None
    temperature: float = 1.0  # divides the logits of every exit before the score
    head: str = "pooler_linear"
    granularity: str = "sample"
    aggregator: str = "none"  # what an exit answers: itself, or all exits so far
    kv_policy: str | None = None  # keys and values of layers that a token skipped
    paper_threshold: float | None = None
    # later
    stack: str | None = None
    head_shared: bool = False  # one head at all exits
    temperatures: tuple[float, ...] = ()  # one per layer, in place of `temperature`
    similarity: str | None = None  # flexible_patience: kl, reverse_kl, sym_kl, js
    window: int | None = None  # window: exits in a row that must agree
    window_floor: float | None = None  # window: probability that each of them must reach
    token_window: int = 0  # token exits: neighbours on each side that must be as sure
    vote_power: float | None = None  # vote: votes are divided by (exits so far) ** vote_power
    poe_floor: float | None = None  # poe: logits below count as it; None: 0
    set_level: float | None = None  # prediction_set: 1 - coverage of the set
    set_floors: tuple[float, ...] = ()  # prediction_set: subtracted from logits, one per layer
    hash_kind: str = "random"  # hash: how a token finds its layer
    hash_salt: int = 0
    schedule: tuple[int, ...] = ()  # position_schedule: layers at evenly long stretches of text
    schedule_length: int | None = None  # position_schedule: positions that they share
    decay_rate: float | None = None  # thresholds fall with the position, see `exits.decay`
    decay_length: int | None = None
    decay_share: float = 0.1
    kv_cap: int | None = None  # recompute: tokens that may wait for a full pass
    draft_tokens: int | None = None  # self_speculative: tokens drafted before one is verified


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Feed-forward networks cut into (or grown to) experts of which each token sees top_k."""

    layers: tuple[int, ...]
    num_experts: tuple[int, ...]  # one per layer of `layers`
    top_k: tuple[int, ...]  # one per layer of `layers`
    granularity: str = "sequence"  # token, sequence
    origin: str = "split"  # split, upcycled
    router: str = "token_choice"
    capacity_factor: float | None = None  # when it answers; None: dropless
    num_shared_experts: int = 0  # see every token
    expert_ffn_size: int | None = None  # None: ffn_size / num_experts
    # later
    stack: str | None = None
    capacity_factor_train: float | None = None
    overflow: str = "drop"  # a token whose expert is full: drop, residual_only, reroute
    gate_norm: str = "softmax_all"  # softmax_all, softmax_topk, sigmoid, dselect
    noise: str = "none"  # on scores, while training: none, gaussian, jitter
    second_expert: str = "top"  # random: taken with twice its share of both gates (GShard)
    shared_expert_ffn_size: int | None = None  # of all shared ones together; None: expert width
    expert_groups: int = 1  # prototyping: as many routers, each over its own experts
    routing_group_size: int | None = None  # tokens that share a capacity; None: all of a step
    kernel: str = "grouped"  # padded, grouped, block_sparse, dense_mask
    tile: int | None = None  # rows that a kernel rounds up to; None: the device's own
    hash_kind: str = "random"  # router hash
    hash_salt: int = 0
    num_tasks: int | None = None  # router task
    causal_predictor: bool = False  # expert_choice in a decoder: a predictor replaces the ranking
    expert_parallel: int = 1  # devices that the experts are spread over
    placement: tuple[int, ...] = ()  # device of each expert, 0-based; empty: equal blocks in order


@dataclass(frozen=True, slots=True, kw_only=True)
class Skim:
    """Token skimming: which tokens of a sample go through which layers.

    `keep_rate` is the share of a sample's own unpadded tokens (special ones included). Where
    dropped tokens do not return, it is the absolute share alive after layer l and must not
    increase; where they pass by (`skipped = "pass_through"`), it is the share that goes through
    layer l. Mechanisms that decide by the input (threshold, gate, jump) have `thresholds` or
    probabilities of their own; a rate beside them is what is expected, not what decides.

    Mixture-of-depths has one encoding: mechanism "topk_router", score "router", point
    "before_layer", skipped "pass_through", the capacity as `keep_rate`.
    """

    layers: tuple[int, ...]
    keep_rate: tuple[float, ...] = ()  # one per layer of `layers`
    mechanism: str = "fixed_schedule"
    score: str = "attention_received"
    point: str = "after_attn"
    skipped: str = "drop"
    restore: str = "none"
    protected: tuple[str, ...] = ("cls",)
    # later
    stack: str | None = None
    keep_count: tuple[int, ...] = ()  # fixed_schedule: tokens instead of shares, one per layer
    thresholds: tuple[float, ...] = ()  # a token stays where its score reaches it, one per layer
    module: str = "block"  # what a skipped token misses: block, attn, ffn
    block: int = 1  # tokens in a row that are decided together
    layout: str = "pad_to_max"  # of uneven rows: pad_to_max, packed, per_sequence
    causal_predictor: bool = False  # topk_router in a decoder: a predictor replaces the ranking
    branch_widths: tuple[int, ...] = ()  # recurrent: state sizes that a step may update
    continuous_width: bool = False  # recurrent: a step updates any share of the state
    jump_min: int = 0  # recurrent: shortest jump, below 0 reads again
    jump_max: int | None = None  # recurrent: longest jump
    read_tokens: int | None = None  # recurrent: tokens read before a jump is drawn
    max_jumps: int | None = None  # recurrent
    structural: bool = False  # recurrent: jumps end at the next punctuation
    lookup_order: int | None = None  # lookup: tokens of an n-gram whose state is stored
    gate_width: int = 0  # gate, jump: hidden units of what decides; 0: one linear map


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """Candidates tried one after another until one of them is sure enough.

    A threshold of infinity never stops: all stages run (an ensemble).
    """

    stages: tuple[str, ...]  # names or files of the candidates, cheapest first
    thresholds: tuple[float, ...]  # one per stage but the last
    reuse: str = "none"
    # later
    criterion: str = "max_prob"  # with a score of logits alone
    answer: str = "last"  # of the stages that ran: last, average, vote


# First field of each record that came later.
_FIRST_LATER: dict[type[Any], str] = {
    Exits: "stack",
    Experts: "stack",
    Skim: "stack",
    Cascade: "criterion",
}


def later_defaults(cls: type[Any]) -> dict[str, Any]:
    """Fields of a part that came later -> their defaults."""
    names = [f.name for f in fields(cls)]
    return {f.name: f.default for f in fields(cls)[names.index(_FIRST_LATER[cls]) :]}
