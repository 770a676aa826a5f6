"""Which candidates mean something: reject and warn rules, each with reason and nearest value.

`rule` is the number in the published list of rules for dynamic transformers that the project
follows: 1 meaningless policies, 2 dropped tokens that a head needs, 3 non-causal routing, 4 skim
with exits, 5 exits with experts, 6 skim with capacity, 7 decoder caches, 8 exits everywhere in a
decoder, 9 self-speculation, 10 cascade with exits, 11 ties; 0 is the shape of the record itself.
What is legal but not runnable yet is not a finding of `check`: `not_lowered` lists it, and
`require_valid(..., run=True)` refuses it.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from search_spaces.candidate import (
    DTYPES,
    EXIT_BATCHING,
    POOLING,
    RUNNABLE_CRITERIA,
    RUNNABLE_DTYPES,
    Candidate,
    Exits,
    Experts,
    Skim,
    stack_depth,
    stacks_of,
)
from search_spaces.check_exits import check_exits
from search_spaces.check_experts import check_experts
from search_spaces.check_skims import check_skim
from search_spaces.errors import InputError, Problem
from search_spaces.exits import exit_criteria
from search_spaces.findings import Finding, Findings, check_backbone, fitted
from search_spaces.parts import later_defaults
from search_spaces.tokens import SCORER_WIDTH
from search_spaces.vocabulary import ANSWERS, OUTPUTS, REUSES
from search_spaces.workload import Workload

LOG = logging.getLogger(__name__)

# What lowering and the dynamic model execute today, per key; everything else waits.
_RUNNABLE: dict[str, tuple[Any, ...]] = {
    "backbone.type": ("encoder",),
    "backbone.ffn_kind": ("mlp",),
    "backbone.tied_layers": (False,),
    "backbone.head_width": (None,),
    "backbone.positions": ("learned",),
    "backbone.norm": ("layer",),
    "backbone.norm_place": ("post",),
    "backbone.embedding_norm": (True,),
    "backbone.query_key_norm": (False,),
    "backbone.biases": ("all",),
    "backbone.num_experts": (1,),
    "dtype": RUNNABLE_DTYPES,
    "compact_every": (1,),
    "decoder_depth": (None,),
    "output": ("class",),
    "exits.criterion": RUNNABLE_CRITERIA,
    "exits.head": ("linear", "pooler_linear"),
    "exits.granularity": ("sample",),
    "exits.aggregator": ("none",),
    "exits.kv_policy": (None,),
    "moe.origin": ("split",),
    "moe.router": ("token_choice",),
    "moe.capacity_factor": (None,),
    "moe.num_shared_experts": (0,),
    "moe.expert_ffn_size": (None,),
    "skim.mechanism": ("fixed_schedule",),
    "skim.skipped": ("drop",),
    "skim.restore": ("none",),
    "skim.protected": (("cls",),),
    "cascade": (None,),
    **{f"exits.{name}": (value,) for name, value in later_defaults(Exits).items()},
    **{f"moe.{name}": (value,) for name, value in later_defaults(Experts).items()},
    **{f"skim.{name}": (value,) for name, value in later_defaults(Skim).items()},
}
del _RUNNABLE["skim.gate_width"]
# What ranks tokens where: point, score, units of the scorer.
_RANKED = {
    "after_attn": ("attention_received", 0),
    "before_layer": ("learned", SCORER_WIDTH),
}


# Costs nothing that an input decides: the same work for each (rule 12).
_FIXED_SKIMS = ("fixed_schedule", "topk_router")
_FIXED_ROUTERS = ("expert_choice", "balanced_assignment")


_SIMULATED = "needs the labels of its inputs: it can be simulated, not run or exported"


def check(
    candidate: Candidate, *, workload: Workload | None = None, num_classes: int | None = None
) -> list[Finding]:
    """Everything that is wrong with a candidate or needs care, rejects first.

    Args:
        candidate: Any record; its values may be nonsense.
        workload: Where given, rules that depend on it (batch, longest input) are checked.
        num_classes: C; without it, thresholds whose range depends on C are not checked.
    """
    found = Findings()
    found.extend(check_backbone(candidate.backbone))
    n = candidate.backbone.num_layers
    if not 1 <= candidate.depth <= n:
        near = min(max(candidate.depth, 1), n)
        found.reject(1, "depth", candidate.depth, f"must lie in 1..{n} (num_layers)", near)
    found.one_of("dtype", candidate.dtype, DTYPES)
    found.one_of("pooling", candidate.pooling, POOLING)
    found.one_of("exit_batching", candidate.exit_batching, EXIT_BATCHING)
    _check_later(found, candidate)
    if candidate.exits is not None:
        check_exits(found, candidate, candidate.exits, num_classes)
    if candidate.moe is not None:
        check_experts(found, candidate, candidate.moe)
    for i, skim in enumerate(candidate.skim):
        check_skim(found, candidate, skim, f"skim[{i}]")
    _check_cascade(found, candidate)
    _check_pairs(found, candidate)
    if workload is not None:
        _check_workload(found, candidate, workload)
    return sorted(found, key=lambda finding: finding.severity)


def not_lowered(candidate: Candidate) -> list[Finding]:
    """Values that can be described but not be costed or run yet."""
    found = Findings()
    parts: dict[str, list[Any]] = {
        "backbone": [candidate.backbone],
        "exits": [candidate.exits] if candidate.exits else [],
        "moe": [candidate.moe] if candidate.moe else [],
        "skim": list(candidate.skim),
    }
    for key, legal in _RUNNABLE.items():
        part, _, name = key.rpartition(".")
        for record in parts[part] if part else [candidate]:
            value = getattr(record, name)
            if value not in legal:
                labels = key == "exits.criterion" and value in _needing_labels()
                reason = _SIMULATED if labels else "can be described but is not lowered yet"
                found.reject(0, key, value, reason, legal[0])
    for skim in candidate.skim:
        _check_ranking(found, skim)
    return list(found)


def _check_ranking(found: Findings, skim: Skim) -> None:
    """Tokens are ranked by attention after it, or by learned scores before the first layer."""
    reason = "can be described but is not lowered yet"
    legal = _RANKED.get(skim.point)
    if legal is None:
        found.reject(0, "skim.point", skim.point, reason, "after_attn")
        return
    for name, wanted in zip(("score", "gate_width"), legal, strict=True):
        value = getattr(skim, name)
        if value != wanted:
            found.reject(0, f"skim.{name}", value, f"at point {skim.point} {reason}", wanted)
    if skim.point == "before_layer" and skim.layers != (1,):
        found.reject(0, "skim.layers", skim.layers, f"at point before_layer {reason}", (1,))


def _needing_labels() -> tuple[str, ...]:
    return tuple(kind for kind, rule in exit_criteria().items() if rule.needs_labels)


def require_valid(
    candidate: Candidate,
    *,
    workload: Workload | None = None,
    num_classes: int | None = None,
    file: object = "candidate",
    run: bool = False,
) -> None:
    """Refuse a meaningless candidate; warnings go to the log.

    Args:
        candidate: As in `check`, as are `workload` and `num_classes`.
        workload: As in `check`.
        num_classes: As in `check`.
        file: Name for messages.
        run: Also refuse what is not lowered yet.

    Raises:
        InputError: lists every rejecting finding.
    """
    findings = check(candidate, workload=workload, num_classes=num_classes)
    findings += not_lowered(candidate) if run else []
    problems = []
    for finding in findings:
        way = "leave it out" if finding.nearest is None else finding.nearest
        message = finding.reason
        if finding.severity == "reject":
            message += f"; nearest legal value: {way}"
        problem = Problem(str(file), finding.key, str(finding.value), message)
        if finding.severity == "warn":
            LOG.warning("%s", problem)
        else:
            problems.append(problem)
    if problems:
        raise InputError(problems)


def input_independent(candidate: Candidate) -> bool:
    """Whether what a candidate costs is known before its inputs are (rule 12).

    Then no trace is needed for its time, only for its answers.
    """
    exits, cascade = candidate.exits, candidate.cascade
    criteria = exit_criteria()
    exits_fixed = exits is None or (
        exits.criterion in criteria
        and criteria[exits.criterion].fixed
        and exits.kv_policy != "self_speculative"
    )
    skims_fixed = all(s.mechanism in _FIXED_SKIMS for s in candidate.skim)
    routed = candidate.moe is not None and candidate.moe.router not in _FIXED_ROUTERS
    cascade_fixed = cascade is None or all(t == float("inf") for t in cascade.thresholds)
    return exits_fixed and skims_fixed and not routed and cascade_fixed


def _check_later(found: Findings, candidate: Candidate) -> None:
    backbone, depth = candidate.backbone, candidate.decoder_depth
    found.at_least("compact_every", candidate.compact_every, 1)
    if candidate.exit_batching != "compact":
        owners = ('exit_batching "compact"',)
        found.belongs("compact_every", candidate.compact_every, 1, owners)
    found.one_of("output", candidate.output, OUTPUTS)
    if candidate.output == "text" and backbone.type in ("encoder", "recurrent"):
        found.reject(0, "output", "text", "needs a decoder that writes it", "class")
    if backbone.type != "enc_dec":
        found.belongs("decoder_depth", depth, None, ("encoder-decoders",))
    elif depth is not None and not 1 <= depth <= backbone.num_decoder_layers:
        most = backbone.num_decoder_layers
        near = min(max(depth, 1), most)
        reason = f"must lie in 1..{most} (num_decoder_layers)"
        found.reject(1, "decoder_depth", depth, reason, near)


def _check_cascade(found: Findings, candidate: Candidate) -> None:
    cascade = candidate.cascade
    if cascade is None:
        return
    found.one_of("cascade.reuse", cascade.reuse, REUSES)
    found.one_of("cascade.answer", cascade.answer, ANSWERS)
    scored = [kind for kind, rule in exit_criteria().items() if rule.score is not None]
    found.one_of("cascade.criterion", cascade.criterion, scored)
    if len(cascade.stages) < 2:
        found.reject(1, "cascade", cascade.stages, "needs at least two stages", None)
    elif len(cascade.thresholds) != len(cascade.stages) - 1:
        reason = "needs one threshold per stage but the last"
        near = fitted(cascade.thresholds, len(cascade.stages) - 1, math.inf)
        found.reject(1, "cascade.thresholds", cascade.thresholds, reason, near)


def _check_pairs(found: Findings, candidate: Candidate) -> None:
    """Rules about two policies at once: legal, but each needs care."""
    exits, moe, skim = candidate.exits, candidate.moe, candidate.skim
    backbone = candidate.backbone
    stacks = stacks_of(backbone, exits.stack, default="decoder") if exits else ()
    if exits and skim:
        reason = "skimming changes the scores of later exits: tune thresholds with it on"
        found.warn(4, "skim", len(skim), reason)
    if exits and moe:
        reason = "samples that left do not reach later routers: expert load shrinks"
        found.warn(5, "moe", len(moe.layers), reason)
    if moe and moe.capacity_factor is not None and skim:
        reason = "capacity counts padded tokens or kept tokens: say which"
        found.warn(6, "moe.capacity_factor", moe.capacity_factor, reason)
    if exits and exits.kv_policy == "copy_state":
        reason = "skipped layers still need their key and value projections"
        found.warn(7, "exits.kv_policy", exits.kv_policy, reason)
    if exits and exits.kv_policy is None and exits.granularity == "token" and "decoder" in stacks:
        reason = "later tokens look back at layers that were skipped: say what they find there"
        found.warn(7, "exits.kv_policy", None, reason)
    if (
        exits
        and exits.kv_policy == "monotone"
        and list(exits.schedule) != sorted(exits.schedule, reverse=True)
    ):
        reason = "a later token would look back at layers that an earlier one skipped"
        found.warn(7, "exits.schedule", exits.schedule, reason)
    depth = stack_depth(candidate, "decoder")
    every = exits is not None and len(exits.layers) >= depth - 1 > 1
    if every and "decoder" in stacks:
        found.warn(8, "exits.layers", depth - 1, "count the cost of a head per layer")
    if exits and exits.kv_policy == "self_speculative":
        reason = "keeps the accuracy of the full network: only time is searched"
        found.warn(9, "exits.kv_policy", exits.kv_policy, reason)
    if exits and candidate.cascade:
        reason = "cascade and exit thresholds share one risk budget: tune them end to end"
        found.warn(10, "cascade.thresholds", candidate.cascade.thresholds, reason)
    if exits and backbone.tied_layers:
        reason = "layers share weights, thresholds are still per depth"
        found.warn(11, "backbone.tied_layers", True, reason)


def _check_workload(found: Findings, candidate: Candidate, workload: Workload) -> None:
    if candidate.exits and candidate.exit_batching == "serial" and workload.batch > 1:
        reason = f"serial runs one sample at a time, the workload's batch is {workload.batch}"
        found.reject(1, "exit_batching", "serial", reason, "compact")
    if workload.max_len > candidate.backbone.max_len:
        reason = f"the backbone takes at most {candidate.backbone.max_len} tokens"
        found.reject(0, "workload.max_len", workload.max_len, reason, candidate.backbone.max_len)
