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
    CRITERIA,
    DTYPES,
    EXIT_BATCHING,
    GRANULARITY,
    POOLING,
    RUNNABLE_DTYPES,
    Candidate,
    Exits,
    Experts,
    Skim,
)
from search_spaces.errors import InputError, Problem
from search_spaces.exits import exit_criterion
from search_spaces.findings import Finding, Findings, check_backbone, nearest_divisor
from search_spaces.vocabulary import (
    AGGREGATORS,
    EXIT_GRANULARITY,
    HEADS,
    KV_POLICIES,
    LM_HEADS,
    MECHANISMS,
    ORIGINS,
    POINTS,
    RESTORES,
    REUSES,
    ROUTERS,
    SCORES,
    SKIPPED,
)
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
    "skim.score": ("attention_received",),
    "skim.point": ("after_attn",),
    "skim.skipped": ("drop",),
    "skim.restore": ("none",),
    "skim.protected": (("cls",),),
    "cascade": (None,),
}


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
    if candidate.exits is not None:
        _check_exits(found, candidate, candidate.exits, num_classes)
    if candidate.moe is not None:
        _check_experts(found, candidate, candidate.moe)
    for i, skim in enumerate(candidate.skim):
        _check_skim(found, candidate, skim, f"skim[{i}]")
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
                reason = "can be described but is not lowered yet"
                found.reject(0, key, value, reason, legal[0])
    return list(found)


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
        message = finding.reason
        if finding.nearest is not None:
            message += f"; nearest legal value: {finding.nearest}"
        problem = Problem(str(file), finding.key, str(finding.value), message)
        if finding.severity == "warn":
            LOG.warning("%s", problem)
        else:
            problems.append(problem)
    if problems:
        raise InputError(problems)


def _check_exits(
    found: Findings, candidate: Candidate, exits: Exits, num_classes: int | None
) -> None:
    depth, kind = candidate.depth, exits.criterion
    found.one_of("exits.criterion", kind, CRITERIA)
    found.one_of("exits.head", exits.head, HEADS)
    found.one_of("exits.granularity", exits.granularity, EXIT_GRANULARITY)
    found.one_of("exits.aggregator", exits.aggregator, AGGREGATORS)
    if exits.kv_policy is not None and candidate.backbone.type == "encoder":
        found.reject(7, "exits.kv_policy", exits.kv_policy, "an encoder has no cache")
    elif exits.kv_policy is not None:
        found.one_of("exits.kv_policy", exits.kv_policy, KV_POLICIES)
    _check_layers(found, "exits.layers", exits.layers, candidate.backbone.num_layers)
    if not exits.layers:
        found.reject(1, "exits.layers", (), "lists no exit: leave the whole table out")
    if any(depth <= layer <= candidate.backbone.num_layers for layer in exits.layers):
        below = tuple(layer for layer in exits.layers if layer < depth)
        reason = f"the exit at the depth {depth} is always there and nothing lies above it"
        found.reject(1, "exits.layers", exits.layers, reason, below)
    if not exits.temperature > 0.0 or not math.isfinite(exits.temperature):
        found.reject(1, "exits.temperature", exits.temperature, "must be above 0", 1.0)
    if num_classes is not None and num_classes < 2:
        reason = "needs at least two classes: a regression head has no such score"
        found.reject(1, "exits.criterion", kind, reason)
    if kind == "patience":
        _check_patience(found, exits)
    elif kind in CRITERIA:
        _check_thresholds(found, exits, num_classes)


def _check_patience(found: Findings, exits: Exits) -> None:
    early = len(exits.layers)
    if exits.thresholds:
        reason = "patience counts agreeing exits and has no threshold"
        found.reject(1, "exits.thresholds", exits.thresholds, reason, ())
    if exits.patience is None or exits.patience < 1:
        found.reject(1, "exits.patience", exits.patience, "patience must be at least 1", 1)
    elif exits.patience >= early:
        reason = f"with {early} early exits it never fires: it first does at exit patience + 1"
        near = early - 1 if early > 1 else None
        found.reject(1, "exits.patience", exits.patience, reason, near)


def _check_thresholds(found: Findings, exits: Exits, num_classes: int | None) -> None:
    kind = exits.criterion
    if exits.patience is not None:
        reason = f"only criterion patience has it, this one is {kind}"
        found.reject(1, "exits.patience", exits.patience, reason)
    if len(exits.thresholds) != len(exits.layers):
        reason = f"needs one threshold per exit: {len(exits.layers)} exits"
        found.reject(1, "exits.thresholds", exits.thresholds, reason)
    needs_classes = kind in ("max_prob", "entropy")
    if needs_classes and (num_classes is None or num_classes < 2):
        legal = None
    else:
        legal = exit_criterion(kind).legal_range(num_classes or 2)
    for i, threshold in enumerate(exits.thresholds):
        key = f"exits.thresholds[{i}]"
        if not math.isfinite(threshold):
            near = None if legal is None else legal[1]
            found.reject(1, key, threshold, "must be finite", near)
        elif legal is not None and threshold <= legal[0]:
            reason = f"every sample reaches {legal[0]:.6g}: all leave at this exit"
            found.reject(1, key, threshold, reason, math.nextafter(legal[0], math.inf))
        elif legal is not None and threshold > legal[1]:
            found.warn(1, key, threshold, f"no score exceeds {legal[1]:g}: nothing leaves here")


def _check_experts(found: Findings, candidate: Candidate, moe: Experts) -> None:
    backbone = candidate.backbone
    found.one_of("moe.granularity", moe.granularity, GRANULARITY)
    found.one_of("moe.origin", moe.origin, ORIGINS)
    found.one_of("moe.router", moe.router, ROUTERS)
    _check_layers(found, "moe.layers", moe.layers, backbone.num_layers)
    if moe.router == "expert_choice" and backbone.type in ("decoder", "enc_dec"):
        reason = "looks at later tokens: not possible in an autoregressive decoder"
        found.reject(3, "moe.router", moe.router, reason, "token_choice")
    if moe.num_shared_experts < 0:
        found.reject(1, "moe.num_shared_experts", moe.num_shared_experts, "must be >= 0", 0)
    if moe.capacity_factor is not None and moe.capacity_factor <= 0.0:
        found.reject(1, "moe.capacity_factor", moe.capacity_factor, "must be above 0", 1.0)
    if moe.expert_ffn_size is not None and moe.expert_ffn_size < 1:
        found.reject(1, "moe.expert_ffn_size", moe.expert_ffn_size, "must be at least 1", 1)
    for name in ("num_experts", "top_k"):
        if len(getattr(moe, name)) != len(moe.layers):
            reason = f"needs one value per layer: {len(moe.layers)} layers"
            found.reject(1, f"moe.{name}", getattr(moe, name), reason)
    cuts = moe.origin == "split" and moe.expert_ffn_size is None
    for i, experts in enumerate(moe.num_experts):
        key = f"moe.num_experts[{i}]"
        if experts < 1:
            found.reject(1, key, experts, "must be at least 1", 1)
        elif cuts and backbone.ffn_size % experts:
            near = nearest_divisor(backbone.ffn_size, experts)
            reason = f"does not divide ffn_size {backbone.ffn_size}"
            found.reject(1, key, experts, reason, near)
    for i, (experts, k) in enumerate(zip(moe.num_experts, moe.top_k, strict=False)):
        key = f"moe.top_k[{i}]"
        if not 1 <= k <= experts:
            near = min(max(k, 1), max(experts, 1))
            found.reject(1, key, k, f"must lie in 1..{experts} (num_experts)", near)
    factor = 1.0 if moe.capacity_factor is None else moe.capacity_factor
    pairs = zip(moe.num_experts, moe.top_k, strict=False)
    most = min((experts / k for experts, k in pairs if k >= 1), default=factor)
    if moe.router == "expert_choice" and factor > most:
        reason = "an expert would take more tokens than there are"
        found.reject(1, "moe.capacity_factor", moe.capacity_factor, reason, most)


def _check_skim(found: Findings, candidate: Candidate, skim: Skim, key: str) -> None:
    for name, known in (
        ("mechanism", MECHANISMS),
        ("score", SCORES),
        ("point", POINTS),
        ("skipped", SKIPPED),
        ("restore", RESTORES),
    ):
        found.one_of(f"{key}.{name}", getattr(skim, name), known)
    _check_layers(found, f"{key}.layers", skim.layers, candidate.backbone.num_layers)
    if len(skim.keep_rate) != len(skim.layers):
        reason = f"needs one rate per layer: {len(skim.layers)} layers"
        found.reject(1, f"{key}.keep_rate", skim.keep_rate, reason)
    lowest = 1.0
    for i, rate in enumerate(skim.keep_rate):
        place = f"{key}.keep_rate[{i}]"
        if not 0.0 < rate <= 1.0:
            near = 1.0 if rate > 1.0 else None
            found.reject(1, place, rate, "is a share of the input: must lie in (0, 1]", near)
        elif rate > lowest and skim.skipped == "drop":
            reason = "dropped tokens do not return: rates are absolute and must not increase"
            found.reject(1, place, rate, reason, lowest)
        else:
            lowest = min(lowest, rate)
    lm_head = candidate.exits is not None and candidate.exits.head in LM_HEADS
    if skim.skipped == "drop" and skim.restore == "none" and lm_head:
        reason = "the head needs every position but dropped tokens are not restored"
        found.reject(2, f"{key}.restore", skim.restore, reason, "last_layer")
    causal = candidate.backbone.type in ("decoder", "enc_dec")
    if skim.mechanism == "topk_router" and causal:
        reason = "ranks against later tokens: not possible in an autoregressive decoder"
        found.reject(3, f"{key}.mechanism", skim.mechanism, reason, "gate")


def _check_cascade(found: Findings, candidate: Candidate) -> None:
    cascade = candidate.cascade
    if cascade is None:
        return
    found.one_of("cascade.reuse", cascade.reuse, REUSES)
    if len(cascade.stages) < 2:
        found.reject(1, "cascade.stages", cascade.stages, "needs at least two stages")
    if len(cascade.thresholds) != max(len(cascade.stages) - 1, 0):
        reason = "needs one threshold per stage but the last"
        found.reject(1, "cascade.thresholds", cascade.thresholds, reason)


def _check_pairs(found: Findings, candidate: Candidate) -> None:
    """Rules about two policies at once: legal, but each needs care."""
    exits, moe, skim = candidate.exits, candidate.moe, candidate.skim
    backbone = candidate.backbone
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
    every = exits is not None and len(exits.layers) >= candidate.depth - 1 > 1
    if every and backbone.type == "decoder":
        found.warn(8, "exits.layers", candidate.depth - 1, "count the cost of a head per layer")
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


def _check_layers(found: Findings, key: str, layers: tuple[int, ...], num_layers: int) -> None:
    if list(layers) != sorted(set(layers)):
        found.reject(1, key, layers, "must ascend", tuple(sorted(set(layers))))
    outside = [layer for layer in layers if not 1 <= layer <= num_layers]
    if outside:
        inside = tuple(layer for layer in layers if 1 <= layer <= num_layers)
        found.reject(1, key, layers, f"layers are numbered 1..{num_layers}", inside)
