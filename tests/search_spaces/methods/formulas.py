"""What methods cost, written down once more as the literature does: multiply-adds of matrices.

Nothing here is shared with the product but the records. Norms, activations and softmax are left
out, and shares of tokens are not rounded to whole tokens.
"""

from __future__ import annotations

from dataclasses import replace

from search_spaces.activity import Assumed
from search_spaces.backbone import Backbone
from search_spaces.candidate import Candidate
from search_spaces.methods import Method
from search_spaces.parts import Exits, Skim

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
NO_HEAD = ("learned", "halting_sum", "halting_cdf", "state_similarity")
BEFORE = ("hash", "static", "position_schedule", "learned_upfront")


def expected(method: Method) -> float:
    """The quantity that the method's check states."""
    check = method.check
    if check.quantity in ("parameters", "parameters_active"):
        return parameters(method.candidate, active=check.quantity == "parameters_active")
    flops = 2 * macs(method) / check.batch
    if check.quantity == "flops":
        return flops
    full = replace(method.candidate, exits=None, moe=None, skim=(), cascade=None)
    bare = replace(method, candidate=full, stages={}, assumed=Assumed())
    return flops * check.batch / (2 * macs(bare))


def macs(method: Method) -> float:
    """Multiply-adds of a batch (one decoding step of it, where the check is about one)."""
    check = method.check
    b, n, new = check.batch, check.tokens, check.new_tokens
    if not method.stages:
        return candidate_macs(method.candidate, method.assumed, b, n, new)
    total, seen = 0.0, 1.0
    answered = (*method.assumed.answer_share, 0.0)
    for stage, share in zip(method.stages.values(), answered, strict=False):
        total += seen * candidate_macs(stage, Assumed(), b, n, new)
        seen -= share
    return total


def candidate_macs(c: Candidate, assumed: Assumed, b: int, n: int, new: int) -> float:
    """Multiply-adds of one network."""
    if c.backbone.type == "recurrent":
        return b * reader_macs(c, assumed, n)
    if new:
        return b * step_macs(c, assumed, n)
    if c.backbone.type == "decoder":
        return b * prompt_macs(c, assumed, n)
    return b * encoder_macs(c, assumed, n)


def reader_macs(c: Candidate, assumed: Assumed, n: int) -> float:
    """A recurrent reader: G u (e + d) a step, and what decides."""
    d, skim = c.backbone.hidden_size, c.skim[0] if c.skim else None
    e = c.backbone.embedding_size or d
    steps = n * assumed.read_share
    widths = skim.branch_widths if skim and skim.branch_widths else (d,)
    shares = assumed.branch_share or (1.0,)
    units = assumed.width_share * sum(w * s for w, s in zip(widths, shares, strict=True))
    total = steps * GATES[c.backbone.cell] * units * (e + d) + 2 * d
    if skim is None:
        return total
    hidden = skim.gate_width
    choices, asked = max(len(skim.branch_widths), 1), float(n)
    if skim.mechanism == "jump":
        asked = steps / (skim.read_tokens or 1)
        if skim.max_jumps:
            asked = min(asked, skim.max_jumps)
        choices = 3 if skim.jump_max is None else skim.jump_max + 1 - min(skim.jump_min, 0)
    return total + asked * (d * hidden + hidden * choices if hidden else d * choices)


def skimmed(
    skims: tuple[Skim, ...], layers: int, n: int
) -> tuple[list[float], list[float], list[float]]:
    """Tokens in attention, in the feed-forward network, and scored by a gate, layer by layer."""
    attention, ffn, gated = [float(n)] * layers, [float(n)] * layers, [0.0] * layers
    for skim in skims:
        for i, layer in enumerate(skim.layers):
            at = layer - 1
            kept = float(n)
            if skim.keep_count:
                kept = min(float(skim.keep_count[i]), n)
            elif skim.keep_rate:
                kept = skim.keep_rate[i] * n
            if skim.mechanism == "lookup":
                attention[at] = ffn[at] = 0.0
                continue
            if skim.mechanism in ("gate", "topk_router"):
                gated[at] += attention[at] * (1 if not skim.gate_width else skim.gate_width)
            if skim.skipped == "drop":
                first = layer if skim.point == "after_attn" else at
                for later in range(first, layers):
                    attention[later] = kept
                for later in range(at, layers):
                    ffn[later] = kept
            else:
                if skim.module in ("block", "attn"):
                    attention[at] = kept
                if skim.module in ("block", "ffn"):
                    ffn[at] = kept
    return attention, ffn, gated


def encoder_macs(c: Candidate, assumed: Assumed, n: int) -> float:
    """4 h^2 n + 2 h n^2 of attention and the feed-forward network of each layer, and heads."""
    b, layers, exits = c.backbone, c.depth, c.exits
    if exits is not None and b.type == "enc_dec" and exits.stack != "encoder":
        exits = None
    h, own = b.hidden_size, (b.head_width or b.hidden_size // b.num_heads) * b.num_heads
    attention, ffn, gated = skimmed(c.skim, layers, n)
    alive = reached(exits, assumed, layers)
    total = n * b.embedding_size * h if b.embedding_size else 0.0
    for layer in range(layers):
        share = alive[layer]
        if exits is not None and exits.granularity == "token":
            # Tokens that left still have keys: 2 h own each, and are seen by the others.
            live = share * attention[layer]
            if live < 1e-9:
                continue
            total += live * 4 * h * own + (attention[layer] - live) * 2 * h * own
            total += 2 * own * live * attention[layer] + live * ffn_macs(c, "encoder", layer)
            continue
        q = attention[layer]
        one = q * 4 * h * own + 2 * own * q * q + ffn[layer] * ffn_macs(c, "encoder", layer)
        total += share * (one + gated[layer] * h)
    if b.type == "enc_dec":
        return total
    return total + heads(c, exits, assumed, n, layers)


def heads(c: Candidate, exits: Exits | None, assumed: Assumed, n: int, layers: int) -> float:
    """Exit heads up to the exit taken, and the last head for those who come to it."""
    h, classes = c.backbone.hidden_size, 2
    sizes = {
        "linear": h * classes,
        "pooler_linear": h * h + h * classes,
        "aggregate": 2 * h * h + h * classes,
        "student_attn": n * (h * 128 + 4 * 128 * 128)
        + 2 * 128 * n * n
        + 128 * 128
        + 128 * classes,
    }
    answers = 1.0 if c.output == "class" else float(n)
    last = "pooler_linear" if c.output == "class" else "linear"
    if exits is None:
        return answers * sizes[last]
    total, stays = 0.0, 1.0
    size = sizes[exits.head]
    whole = exits.granularity == "token" and c.output == "class"
    for share in shares_of(exits, assumed):
        rows = stays * n if exits.granularity == "token" else stays
        if exits.criterion in NO_HEAD:
            total += rows * h * (2 if exits.criterion == "state_similarity" else 1)
            total += 0.0 if whole else share * size * (n if exits.granularity == "token" else 1)
        elif exits.criterion in BEFORE:
            total += 0.0 if whole else share * size
        else:
            total += rows * size
        stays -= share
    if exits.criterion == "learned_upfront":
        total += h
    end = sizes[exits.head] if c.output == "class" else sizes["linear"] * n
    return total + (end if whole else stays * end)


def shares_of(exits: Exits, assumed: Assumed) -> list[float]:
    """Share that leaves at each exit."""
    if exits.criterion == "static":
        return [1.0]
    if exits.criterion == "position_schedule":
        return [exits.schedule.count(x) / len(exits.schedule) for x in exits.layers]
    return list(assumed.exit_share)


def reached(exits: Exits | None, assumed: Assumed, layers: int) -> list[float]:
    """Share that enters each layer."""
    alive = [1.0] * layers
    if exits is None:
        return alive
    for layer, share in zip(exits.layers, shares_of(exits, assumed), strict=True):
        for later in range(layer, layers):
            alive[later] -= share
    return alive


def prompt_macs(c: Candidate, assumed: Assumed, n: int) -> float:
    """A decoder reads a prompt: half of the scores are masked; the last position is answered."""
    b = c.backbone
    attention, ffn, gated = skimmed(c.skim, c.depth, n)
    total = float(b.hidden_size * b.vocab_size)
    for layer in range(c.depth):
        q = attention[layer]
        total += q * projections(b) + 2 * width(b) * q * (q + 1) / 2
        total += ffn[layer] * ffn_macs(c, "decoder", layer) + gated[layer] * b.hidden_size
    return total


def step_macs(c: Candidate, assumed: Assumed, n: int) -> float:
    """One token of a sequence with n before it."""
    b, exits = c.backbone, c.exits
    cross = b.type == "enc_dec"
    depth = c.depth if not cross else (c.decoder_depth or b.num_decoder_layers)
    h = (b.decoder_hidden_size or b.hidden_size) if cross else b.hidden_size
    head = h * b.vocab_size
    alive = reached(exits, assumed, depth) if exits and not drafts(exits) else [1.0] * depth
    rate = [1.0] * depth
    for skim in c.skim:
        for layer, share in zip(skim.layers, skim.keep_rate, strict=True):
            rate[layer - 1] = share
    total = 0.0
    for layer in range(depth):
        one = projections(b) + 2 * width(b) * (n + 1) + ffn_macs(c, "decoder", layer)
        one += (2 * h * width(b) + 2 * width(b) * n) if cross else 0.0
        keys = 2 * h * width(b) * (b.num_kv_heads or b.num_heads) / b.num_heads
        gate = h if rate[layer] < 1 else 0.0
        if exits is not None and exits.kv_policy in ("recompute", "sync_parallel", "pipeline"):
            total += one  # every token's keys are made, sooner or later
        elif exits is not None and drafts(exits):
            d = exits.draft_tokens or 1
            cycle = sum((assumed.acceptance or 0.0) ** j for j in range(d + 1))
            total += one * (d if layer < exits.layers[0] else d + 1) / cycle
        else:
            total += alive[layer] * rate[layer] * one + gate
            if exits is not None and exits.kv_policy == "copy_state":
                total += (1 - alive[layer]) * keys
    if exits is None:
        return total + head
    if drafts(exits):
        d = exits.draft_tokens or 1
        cycle = sum((assumed.acceptance or 0.0) ** j for j in range(d + 1))
        return total + head * (2 * d + 1) / cycle
    extra = {"norm_lm": 0.0, "mlp_lm": float(ffn_macs(replace(c, moe=None), "decoder", 0))}
    stays = 1.0
    for share in shares_of(exits, assumed):
        if exits.criterion in NO_HEAD:
            total += stays * h * (2 if exits.criterion == "state_similarity" else 1) + share * head
        elif exits.criterion in BEFORE:
            total += share * head
        else:
            total += stays * (head + extra[exits.head])
        stays -= share
    if exits.criterion == "learned_upfront":
        total += h
    return total + stays * head


def drafts(exits: Exits) -> bool:
    """Self-speculation."""
    return exits.kv_policy == "self_speculative"


def width(b: Backbone) -> int:
    """Heads times their width."""
    if b.type == "enc_dec":
        heads = b.decoder_num_heads or b.num_heads
        return heads * (b.head_width or (b.decoder_hidden_size or b.hidden_size) // heads)
    return b.num_heads * (b.head_width or b.hidden_size // b.num_heads)


def projections(b: Backbone) -> float:
    """Queries, keys, values and output of one token."""
    h = (b.decoder_hidden_size or b.hidden_size) if b.type == "enc_dec" else b.hidden_size
    return 2 * h * width(b) * (1 + (b.num_kv_heads or b.num_heads) / b.num_heads)


def ffn_macs(c: Candidate, stack: str, layer: int) -> float:
    """Feed-forward network of one token: dense, or k experts, shared ones and the router."""
    b, moe = c.backbone, c.moe
    both = b.type == "enc_dec"
    h = (b.decoder_hidden_size or b.hidden_size) if both and stack == "decoder" else b.hidden_size
    f = (b.decoder_ffn_size or b.ffn_size) if both and stack == "decoder" else b.ffn_size
    matrices = 3 if b.ffn_kind == "gated" else 2
    here = moe is not None and (not both or moe.stack in (None, "both", stack))
    if moe is None or not here or layer + 1 not in moe.layers:
        return matrices * h * f
    at = moe.layers.index(layer + 1)
    E, k = moe.num_experts[at], moe.top_k[at]
    wide = expert_width(c, E, f)
    shared = moe.num_shared_experts * wide
    if moe.shared_expert_ffn_size is not None:
        shared = moe.shared_expert_ffn_size
    scores = 0 if moe.router in ("hash", "task", "random") else h * E
    return matrices * h * (k * wide + shared) + scores


def expert_width(c: Candidate, E: int, f: int) -> int:
    """Hidden units of one expert."""
    assert c.moe is not None
    return c.moe.expert_ffn_size or (f // E if c.moe.origin == "split" else f)


def parameters(c: Candidate, *, active: bool) -> float:
    """A decoder without biases: tables, projections, norms, experts and routers."""
    b, moe = c.backbone, c.moe
    assert b.type == "decoder"
    assert moe is not None
    h, matrices = b.hidden_size, 3 if b.ffn_kind == "gated" else 2
    norm = h if b.norm == "rms" else 2 * h
    total = float(b.vocab_size * h * (1 if b.tied_embeddings else 2) + norm)
    for layer in range(b.num_layers):
        total += projections(b) + 2 * norm
        if layer + 1 not in moe.layers:
            total += matrices * h * b.ffn_size
            continue
        at = moe.layers.index(layer + 1)
        E, k = moe.num_experts[at], moe.top_k[at]
        wide = expert_width(c, E, b.ffn_size)
        shared = moe.shared_expert_ffn_size or moe.num_shared_experts * wide
        total += matrices * h * (wide * (k if active else E) + shared) + h * E
    return total
