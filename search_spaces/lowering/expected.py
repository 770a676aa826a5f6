"""A whole candidate of any published method -> operator table, in expectation at stated shares.

`count` of an operator is how often it is expected to run for one batch (or, while decoding, for
one token of each sequence). Costs are linear in counts, so sums over the table are means; a
percentile needs draws (`dynsearch.sim`). Shapes are those of a full batch: samples that left are
not compacted away, they only make later layers rarer.

Decoding that makes keys of skipped layers later ("recompute", "sync_parallel") runs a layer once
for all tokens that wait there: with a share a of tokens that go on by themselves and at most c
that wait, once in 1 + (1 - a) + ... + (1 - a)^c tokens. Self-speculation drafts d tokens by the
layers below the exit and yields `tokens_per_cycle` of them a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from search_spaces.activity import Assumed, tokens_per_cycle
from search_spaces.candidate import DTYPES, Candidate, stack_depth, stacks_of
from search_spaces.exits import exit_criterion
from search_spaces.lowering.decoder import times
from search_spaces.lowering.exit_heads import lower_head, lower_state_check
from search_spaces.lowering.heads import lower_embedding
from search_spaces.lowering.language import lower_input, lower_token_embedding
from search_spaces.lowering.plan import LayerPlan, leaving, plan_layers
from search_spaces.lowering.planned import lower_plan
from search_spaces.lowering.recurrent import lower_reader
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]

# Scores of states: the answer itself is made where an input leaves, and nowhere else.
STATE_SCORES: dict[str, int] = {  # criterion -> vectors of h that it reads
    "learned": 1,
    "halting_sum": 1,
    "halting_cdf": 1,
    "state_similarity": 2,
}


def lower_expected(
    candidate: Candidate,
    assumed: Assumed,
    *,
    tokens: int,
    batch: int = 1,
    new_tokens: int = 0,
    num_classes: int = 2,
) -> OpTable:
    """The operators of a batch, or of one decoding step, in expectation.

    Args:
        candidate: A legal one without a cascade: see `lower_cascade`.
        assumed: What inputs do.
        tokens: Of an input; while decoding, in the cache (and states of the encoder).
        batch: Sequences.
        new_tokens: 0: the input is read (by the encoder, where there is one). 1: one token more
            is written.
        num_classes: C of a classification head.

    Raises:
        InputError: exits without stated shares.
    """
    backbone = candidate.backbone
    if backbone.type == "recurrent":
        table = lower_reader(
            candidate, assumed, batch=batch, tokens=tokens, num_classes=num_classes
        )
        return replace(table, candidate=np.zeros_like(table.candidate))
    writes = backbone.type == "decoder" or new_tokens > 0
    call = _Call(
        candidate=candidate,
        assumed=assumed,
        stack="decoder" if writes else "encoder",
        batch=batch,
        tokens=1 if new_tokens else tokens,
        cached=tokens if new_tokens else 0,
        source=tokens if new_tokens and backbone.type == "enc_dec" else 0,
        step=new_tokens > 0,
        num_classes=num_classes,
    )
    plan = _in_step(call, call.plan())
    layers = lower_plan(
        candidate, plan, stack=call.stack, batch=batch, cached=call.cached, source=call.source
    )
    table = OpTable.concat([_embedding(call), layers, *_heads(call, plan)])
    return replace(table, candidate=np.zeros_like(table.candidate))


def lower_cascade(
    stages: list[Candidate], assumed: Assumed, *, tokens: int, batch: int = 1, num_classes: int = 2
) -> OpTable:
    """All stages of a cascade, each as often as an input is expected to come to it."""
    seen, parts = 1.0, []
    for i, stage in enumerate(stages):
        table = lower_expected(
            stage, Assumed(), tokens=tokens, batch=batch, num_classes=num_classes
        )
        parts.append(times(table, np.array([seen])))
        seen -= assumed.answer_share[i] if i < len(assumed.answer_share) else 0.0
    return OpTable.concat(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One run through a stack."""

    candidate: Candidate
    assumed: Assumed
    stack: str
    batch: int
    tokens: int
    cached: int
    source: int
    step: bool
    num_classes: int

    @property
    def has_exits(self) -> bool:
        """Whether the stack has early exits that act in this call."""
        exits = self.candidate.exits
        if exits is None:
            return False
        on = self.stack in stacks_of(self.candidate.backbone, exits.stack, default="decoder")
        prompt = exits.granularity == "token" and self.stack == "decoder" and not self.step
        return on and not prompt

    def plan(self) -> LayerPlan:
        """Tokens in each layer."""
        candidate = self.candidate if self.has_exits else replace(self.candidate, exits=None)
        return plan_layers(
            candidate, self.assumed, stack=self.stack, tokens=self.tokens, step=self.step
        )


def _in_step(call: _Call, plan: LayerPlan) -> LayerPlan:
    """Passes of a decoding step that several tokens share."""
    exits = call.candidate.exits
    if not call.step or exits is None or not call.has_exits:
        return plan
    if exits.kv_policy == "self_speculative":
        below = np.arange(plan.reach.size) < exits.layers[0]
        drafted, cycle = exits.draft_tokens or 1, _cycle_tokens(call)
        return replace(
            plan,
            reach=np.where(below, drafted, 1.0) / cycle,
            queries=np.where(below, 1, drafted + 1),
            ffn=np.where(below, 1, drafted + 1),
        )
    if exits.kv_policy not in ("recompute", "sync_parallel", "pipeline"):
        return plan
    together = np.ones_like(plan.queries)
    if exits.kv_policy != "pipeline":
        waits = (1.0 - plan.reach)[:, None] ** np.arange((exits.kv_cap or 64) + 1)
        together = np.maximum(np.floor(waits.sum(axis=1) + 0.5), 1).astype(np.int64)
    return replace(plan, reach=1.0 / together, queries=together, ffn=together)


def _cycle_tokens(call: _Call) -> float:
    exits = call.candidate.exits
    assert exits is not None
    return float(tokens_per_cycle(call.assumed.acceptance or 0.0, exits.draft_tokens or 1))


def _embedding(call: _Call) -> OpTable:
    backbone = call.candidate.backbone
    shape = np.array([call.batch]), np.array([call.tokens]), np.array([_dtype(call)])
    if backbone.type == "encoder":
        return lower_embedding(backbone, batch=shape[0], n=shape[1], dtype=shape[2])
    if call.stack == "encoder":
        return lower_input(backbone, *shape)
    return lower_token_embedding(backbone, batch=shape[0], tokens=shape[1], dtype=shape[2])


def _heads(call: _Call, plan: LayerPlan) -> list[OpTable]:
    """Checks and answers at the exits, and the answer at the end."""
    candidate, exits = call.candidate, call.candidate.exits
    if candidate.backbone.type == "enc_dec" and call.stack == "encoder":
        return []
    depth, stays, parts = stack_depth(candidate, call.stack), 1.0, []
    rows, last = _answers(call, plan, depth), 1.0
    if call.has_exits and exits is not None:
        if exits.kv_policy == "self_speculative":
            drafted, cycle = exits.draft_tokens or 1, _cycle_tokens(call)
            draft = _head(call, exits.layers[0], call.batch, exits.head, check=False)
            parts.append(times(draft, np.array([drafted / cycle])))
            rows, last = call.batch * (drafted + 1), 1.0 / cycle
        else:
            for layer, share in zip(exits.layers, leaving(candidate, call.assumed), strict=True):
                parts += _check(call, plan, layer, stays, float(share))
                stays = max(stays - float(share), 0.0)
            by_token = exits.granularity == "token" and not call.step
            last = 1.0 if by_token else stays
    lm = call.stack == "decoder" and candidate.output != "class"
    kind = "norm_lm" if lm else _last_head(candidate)
    parts.append(times(_head(call, depth, rows, kind, check=False), np.array([last])))
    return parts


def _check(call: _Call, plan: LayerPlan, layer: int, alive: float, share: float) -> list[OpTable]:
    """One exit: its check for those that come to it, its answer for those that leave."""
    exits = call.candidate.exits
    assert exits is not None
    rule, kind = exit_criterion(exits.criterion), exits.criterion
    by_token = exits.granularity == "token" and not call.step
    rows = call.batch * int(plan.queries[layer - 1]) if by_token else call.batch
    counts = 1.0 if by_token else alive
    whole = by_token and call.candidate.output == "class"  # tokens leave, the sample answers last
    if rule.fixed or kind == "learned_upfront" or kind in STATE_SCORES:
        parts = []
        if kind in STATE_SCORES or (kind == "learned_upfront" and layer == exits.layers[0]):
            at = layer if kind in STATE_SCORES else 1
            one, reads = np.array([at - 1]), STATE_SCORES.get(kind, 1)
            check = lower_state_check(
                call.candidate.backbone,
                layer=one,
                batch=np.array([rows]),
                dtype=np.array([_dtype(call)]),
                states=reads,
            )
            parts.append(times(check, np.array([counts])))
        if not whole and share > 0:
            answer = _head(call, layer, rows, exits.head, check=False)
            parts.append(times(answer, np.array([share])))
        return parts
    return [times(_head(call, layer, rows, exits.head, check=True), np.array([counts]))]


def _answers(call: _Call, plan: LayerPlan, depth: int) -> int:
    """Answers asked for at the end of the stack."""
    if call.stack == "encoder" and call.candidate.output in ("tokens", "span"):
        return call.batch * int(plan.ffn[depth - 1])
    return call.batch


def _last_head(candidate: Candidate) -> str:
    if candidate.output in ("tokens", "span"):
        return "linear"
    exits = candidate.exits
    lm = exits is not None and exits.head.endswith("_lm")
    return "pooler_linear" if exits is None or lm else exits.head


def _head(call: _Call, layer: int, rows: int, kind: str, *, check: bool) -> OpTable:
    def one(value: int) -> NDArray[np.int64]:
        return np.array([value], dtype=np.int64)

    return lower_head(
        call.candidate.backbone,
        kind=kind,
        layer=one(layer - 1),
        batch=one(rows),
        tokens=one(call.tokens),
        cached=one(call.cached),
        dtype=one(_dtype(call)),
        num_classes=call.num_classes,
        check=check,
    )


def _dtype(call: _Call) -> int:
    return DTYPES.index(call.candidate.dtype)
