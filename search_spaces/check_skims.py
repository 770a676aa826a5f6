"""Which skims mean something; called by `validity.check`."""

from __future__ import annotations

import math

from search_spaces.candidate import Candidate, Skim, stacks_of
from search_spaces.check_layers import check_layers, check_stack
from search_spaces.findings import Findings
from search_spaces.parts import later_defaults
from search_spaces.vocabulary import (
    LAYOUTS,
    LM_HEADS,
    MECHANISMS,
    MODULES,
    POINTS,
    PROTECTED,
    RESTORES,
    SCORES,
    SKIPPED,
    STACKS,
)

_OWNERS: dict[str, tuple[str, ...]] = {  # field -> the only mechanisms that read it
    "keep_count": ("fixed_schedule",),
    "thresholds": ("threshold", "gate"),
    "causal_predictor": ("topk_router",),
    "branch_widths": ("gate",),
    "continuous_width": ("gate",),
    "jump_min": ("jump",),
    "jump_max": ("jump",),
    "read_tokens": ("jump",),
    "max_jumps": ("jump",),
    "structural": ("jump",),
    "lookup_order": ("lookup",),
    "gate_width": ("gate", "jump", "topk_router", "fixed_schedule"),
}
_RECURRENT = ("gate", "jump")  # mechanisms of a reader that takes one token after another
# Mixture-of-depths is written in one way only.
_DEPTHS = {"score": "router", "point": "before_layer", "skipped": "pass_through"}


def check_skim(found: Findings, candidate: Candidate, skim: Skim, key: str) -> None:
    """Note what is wrong with one skim of a candidate; `key` is its place."""
    for name, known in (
        ("mechanism", MECHANISMS),
        ("score", SCORES),
        ("point", POINTS),
        ("skipped", SKIPPED),
        ("restore", RESTORES),
        ("module", MODULES),
        ("layout", LAYOUTS),
    ):
        found.one_of(f"{key}.{name}", getattr(skim, name), known)
    for i, name in enumerate(skim.protected):
        found.one_of(f"{key}.protected[{i}]", name, PROTECTED)
    check_stack(found, f"{key}.stack", candidate.backbone, skim.stack, STACKS)
    stacks = stacks_of(candidate.backbone, skim.stack, default="encoder")
    check_layers(found, f"{key}.layers", skim.layers, candidate.backbone, stacks)
    found.at_least(f"{key}.block", skim.block, 1)
    found.at_least(f"{key}.gate_width", skim.gate_width, 0)
    _check_amounts(found, skim, key, candidate.backbone.max_len)
    _check_mechanism(found, candidate, skim, key)
    _check_skipped(found, candidate, skim, key)
    if skim.mechanism == "topk_router":
        _check_depths(found, skim, key, stacks)


def _check_amounts(found: Findings, skim: Skim, key: str, longest: int) -> None:
    """Rates, counts and thresholds per layer, for inputs of at most `longest` tokens."""
    counted = skim.mechanism == "fixed_schedule" and bool(skim.keep_count)
    if counted and skim.keep_rate:
        reason = "beside keep_rate: a schedule has shares or counts, not both"
        found.reject(1, f"{key}.keep_count", skim.keep_count, reason, ())
    needs = skim.mechanism in ("fixed_schedule", "topk_router") and not counted
    if needs or skim.keep_rate:
        found.one_per_layer(f"{key}.keep_rate", skim.keep_rate, skim.layers, "rate", 1.0)
    if skim.keep_count:
        found.one_per_layer(f"{key}.keep_count", skim.keep_count, skim.layers, "count", 1)
    if skim.mechanism == "threshold" or skim.thresholds:
        found.one_per_layer(f"{key}.thresholds", skim.thresholds, skim.layers, "threshold", 0.0)
    for i, threshold in enumerate(skim.thresholds):
        if not math.isfinite(threshold):
            found.reject(1, f"{key}.thresholds[{i}]", threshold, "must be finite", 0.0)
    _check_rates(found, skim, key, longest)
    _check_counts(found, skim, key)


def _check_rates(found: Findings, skim: Skim, key: str, longest: int) -> None:
    lowest = 1.0  # that may follow
    for i, rate in enumerate(skim.keep_rate):
        place = f"{key}.keep_rate[{i}]"
        if not 0.0 < rate <= 1.0:
            one_token = 1.0 / max(longest, 1)
            near = min(lowest, one_token) if rate <= 0.0 else lowest
            found.reject(1, place, rate, "is a share of the input: must lie in (0, 1]", near)
        elif rate > lowest and skim.skipped == "drop":
            reason = "dropped tokens do not return: rates are absolute and must not increase"
            found.reject(1, place, rate, reason, lowest)
        elif skim.skipped == "drop":
            lowest = min(lowest, rate)


def _check_counts(found: Findings, skim: Skim, key: str) -> None:
    lowest = max(skim.keep_count, default=1)
    for i, count in enumerate(skim.keep_count):
        place = f"{key}.keep_count[{i}]"
        if count < 1:
            found.reject(1, place, count, "must be at least 1", 1)
        elif count > lowest and skim.skipped == "drop":
            reason = "dropped tokens do not return: counts must not increase"
            found.reject(1, place, count, reason, lowest)
        else:
            lowest = min(lowest, count)


def _check_mechanism(found: Findings, candidate: Candidate, skim: Skim, key: str) -> None:
    defaults, kind = later_defaults(Skim), skim.mechanism
    for name, owners in _OWNERS.items():
        if kind not in owners:
            words = tuple(f"mechanism {owner}" for owner in owners)
            found.belongs(f"{key}.{name}", getattr(skim, name), defaults[name], words)
    recurrent = candidate.backbone.type == "recurrent"
    if recurrent and kind in MECHANISMS and kind not in _RECURRENT:
        reason = "ranks tokens that a recurrent reader has not seen yet"
        found.reject(1, f"{key}.mechanism", kind, reason, "gate")
    elif recurrent and skim.score in ("attention_received", "cumulative_attention"):
        reason = "a recurrent backbone has no attention"
        found.reject(1, f"{key}.score", skim.score, reason, "learned")
    if kind == "jump":
        _check_jump(found, skim, key, recurrent)
    if kind == "lookup":
        _check_lookup(found, skim, key)
    if not recurrent:
        for name in ("branch_widths", "continuous_width"):
            value = getattr(skim, name)
            found.belongs(f"{key}.{name}", value, defaults[name], ("recurrent backbones",))
    for i, width in enumerate(skim.branch_widths):
        most = candidate.backbone.hidden_size
        if not 0 <= width <= most:
            reason = f"must lie in 0..{most} (hidden_size)"
            near = min(max(width, 0), most)
            found.reject(1, f"{key}.branch_widths[{i}]", width, reason, near)


def _check_jump(found: Findings, skim: Skim, key: str, recurrent: bool) -> None:
    if not recurrent:
        reason = "jumps over tokens not read yet: only a recurrent backbone reads in order"
        found.reject(1, f"{key}.mechanism", "jump", reason, "gate")
    if skim.jump_max is None and not skim.structural:
        reason = "a jump needs a longest length, or structural = true"
        found.reject(1, f"{key}.jump_max", None, reason, max(skim.jump_min, 1))
    elif skim.jump_max is not None and skim.jump_max < max(skim.jump_min, 1):
        near = max(skim.jump_min, 1)
        found.reject(1, f"{key}.jump_max", skim.jump_max, f"must be at least {near}", near)
    found.at_least(f"{key}.read_tokens", skim.read_tokens, 1)
    found.at_least(f"{key}.max_jumps", skim.max_jumps, 1)


def _check_lookup(found: Findings, skim: Skim, key: str) -> None:
    prefix = tuple(range(1, len(skim.layers) + 1))
    if skim.layers != prefix:
        reason = "stored states stand for the first layers"
        found.reject(1, f"{key}.layers", skim.layers, reason, prefix)
    if skim.skipped in SKIPPED and skim.skipped != "alt_path":
        reason = "looked-up states take the place of the layers"
        found.reject(1, f"{key}.skipped", skim.skipped, reason, "alt_path")
    if skim.lookup_order is None or skim.lookup_order < 1:
        reason = "needs the length of the n-grams whose states are stored"
        found.reject(1, f"{key}.lookup_order", skim.lookup_order, reason, 3)


def _check_skipped(found: Findings, candidate: Candidate, skim: Skim, key: str) -> None:
    drops = skim.skipped == "drop" and skim.mechanism in MECHANISMS
    if drops and skim.module != "block":
        reason = "a dropped token misses everything: one that misses a module passes by it"
        found.reject(1, f"{key}.module", skim.module, reason, "block")
    if not drops and skim.restore != "none" and skim.skipped in SKIPPED:
        reason = "nothing is dropped that could be restored"
        found.reject(1, f"{key}.restore", skim.restore, reason, "none")
    lm_head = candidate.exits is not None and candidate.exits.head in LM_HEADS
    everywhere = lm_head or candidate.output in ("tokens", "span")
    if drops and skim.restore == "none" and everywhere:
        reason = "the head needs every position but dropped tokens are not restored"
        found.reject(2, f"{key}.restore", skim.restore, reason, "last_layer")


def _check_depths(found: Findings, skim: Skim, key: str, stacks: tuple[str, ...]) -> None:
    for name, value in _DEPTHS.items():
        if getattr(skim, name) != value:
            reason = "mixture-of-depths ranks tokens before a layer and lets the others pass by"
            found.reject(1, f"{key}.{name}", getattr(skim, name), reason, value)
    if "decoder" in stacks and not skim.causal_predictor:
        reason = "ranks against later tokens: not possible in an autoregressive decoder"
        found.reject(3, f"{key}.mechanism", skim.mechanism, reason, "gate")
