"""Which early exits mean something; called by `validity.check`."""

from __future__ import annotations

import math

from search_spaces.candidate import CRITERIA, Candidate, Exits, stack_depth, stacks_of
from search_spaces.check_layers import check_layers, check_stack
from search_spaces.exits import exit_criteria, exit_criterion
from search_spaces.exits.base import ExitCriterion
from search_spaces.findings import Findings
from search_spaces.parts import later_defaults
from search_spaces.vocabulary import (
    AGGREGATORS,
    EXIT_GRANULARITY,
    HASHES,
    HEADS,
    KV_POLICIES,
    SIMILARITIES,
    STACKS,
)

_CALM_DECAY = 4.0  # what CALM's thresholds decay with


def check_exits(
    found: Findings, candidate: Candidate, exits: Exits, num_classes: int | None
) -> None:
    """Note what is wrong with the exits of a candidate; C may be unknown."""
    kind = exits.criterion
    found.one_of("exits.criterion", kind, CRITERIA)
    for name, known in (
        ("head", HEADS),
        ("granularity", EXIT_GRANULARITY),
        ("aggregator", AGGREGATORS),
        ("hash_kind", HASHES),
    ):
        found.one_of(f"exits.{name}", getattr(exits, name), known)
    _check_sites(found, candidate, exits)
    _check_cache(found, candidate, exits)
    _check_temperatures(found, exits)
    if kind not in CRITERIA:
        return
    criterion = exit_criterion(kind)
    if num_classes is not None and num_classes < 2 and criterion.needs_classes:
        reason = "needs at least two classes: a regression head has no such score"
        found.reject(1, "exits.criterion", kind, reason, "learned")
    _check_fields(found, exits, criterion)
    _check_patience(found, exits, criterion)
    _check_thresholds(found, exits, criterion, num_classes)
    _check_decay(found, exits, criterion, candidate.backbone.max_len)


def _check_sites(found: Findings, candidate: Candidate, exits: Exits) -> None:
    """Where exits stand."""
    backbone = candidate.backbone
    check_stack(found, "exits.stack", backbone, exits.stack, STACKS)
    stacks = stacks_of(backbone, exits.stack, default="decoder")
    check_layers(found, "exits.layers", exits.layers, backbone, stacks)
    both = backbone.type == "enc_dec" and stacks[0] == "decoder"
    num_layers = backbone.num_decoder_layers if both else backbone.num_layers
    depth = stack_depth(candidate, stacks[0])
    if not exits.layers:
        found.reject(1, "exits", exits.layers, "lists no layer with an exit", None)
    if any(depth <= layer <= num_layers for layer in exits.layers):
        below = tuple(layer for layer in exits.layers if layer < depth)
        reason = f"the exit at the depth {depth} is always there and nothing lies above it"
        found.reject(1, "exits.layers", exits.layers, reason, below)
    one = exits.criterion == "static" or exits.kv_policy == "self_speculative"
    if one and len(exits.layers) > 1:
        reason = "all leave at the first exit: the others are never reached"
        found.reject(1, "exits.layers", exits.layers, reason, exits.layers[:1])
    found.at_least("exits.token_window", exits.token_window, 0)
    if exits.granularity != "token":
        found.belongs("exits.token_window", exits.token_window, 0, ('granularity "token"',))


def _check_cache(found: Findings, candidate: Candidate, exits: Exits) -> None:
    """Keys and values of layers that were skipped."""
    policy = exits.kv_policy
    cacheless = stacks_of(candidate.backbone, exits.stack, default="decoder") == ("encoder",)
    if policy is not None and cacheless:
        found.reject(
            7, "exits.kv_policy", policy, f"an {candidate.backbone.type} has no cache", None
        )
    elif policy is not None:
        found.one_of("exits.kv_policy", policy, KV_POLICIES)
    for name, owner in (("kv_cap", "recompute"), ("draft_tokens", "self_speculative")):
        value = getattr(exits, name)
        if policy == owner:
            found.at_least(f"exits.{name}", value, 1)
        else:
            found.belongs(f"exits.{name}", value, None, (f"kv_policy {owner}",))


def _check_temperatures(found: Findings, exits: Exits) -> None:
    if not exits.temperature > 0.0 or not math.isfinite(exits.temperature):
        found.reject(1, "exits.temperature", exits.temperature, "must be above 0", 1.0)
    if exits.temperatures:
        found.one_per_layer(
            "exits.temperatures", exits.temperatures, exits.layers, "temperature", 1.0
        )
        owners = ("exits without temperatures of their own",)
        found.belongs("exits.temperature", exits.temperature, 1.0, owners)
    for i, value in enumerate(exits.temperatures):
        if not value > 0.0 or not math.isfinite(value):
            found.reject(1, f"exits.temperatures[{i}]", value, "must be above 0", 1.0)
    if exits.aggregator != "poe":
        found.belongs("exits.poe_floor", exits.poe_floor, None, ("aggregator poe",))
    found.at_least("exits.poe_floor", exits.poe_floor, 0)
    if exits.aggregator != "none" and exits.criterion == "energy":
        reason = "energy is read off the logits of one exit, an aggregate has none"
        found.reject(1, "exits.aggregator", exits.aggregator, reason, "none")


def _check_fields(found: Findings, exits: Exits, criterion: ExitCriterion) -> None:
    """Fields that one criterion alone reads: set where it is used, and nowhere else."""
    defaults = later_defaults(Exits)
    for name in sorted({n for rule in exit_criteria().values() for n in rule.fields}):
        value, default = getattr(exits, name), defaults[name]
        if name not in criterion.fields:
            owners = [f"criterion {k}" for k, r in exit_criteria().items() if name in r.fields]
            found.belongs(f"exits.{name}", value, default, owners)
        elif value is None or (value == () and name != "set_floors"):
            reason = f"criterion {criterion.kind} needs it"
            found.reject(1, f"exits.{name}", value, reason, criterion.fields[name])
    if exits.similarity is not None:
        found.one_of("exits.similarity", exits.similarity, SIMILARITIES)
    for name in ("window", "schedule_length"):
        found.at_least(f"exits.{name}", getattr(exits, name), 1)
    found.at_least("exits.vote_power", exits.vote_power, 0)
    for name in ("window_floor", "set_level"):
        value = getattr(exits, name)
        if value is not None and not 0.0 < value < 1.0:
            near = criterion.fields.get(name)  # None of a criterion that does not read it
            found.reject(1, f"exits.{name}", value, "must lie in (0, 1)", near)
    if exits.set_floors:
        found.one_per_layer("exits.set_floors", exits.set_floors, exits.layers, "floor", 0.0)
    for i, layer in enumerate(exits.schedule):
        if exits.layers and layer not in exits.layers and layer <= max(exits.layers):
            near = min(exits.layers, key=lambda x: (abs(x - layer), x))
            reason = "is no exit: tokens can only leave at one"
            found.reject(1, f"exits.schedule[{i}]", layer, reason, near)


def _check_patience(found: Findings, exits: Exits, criterion: ExitCriterion) -> None:
    early, P = len(exits.layers), exits.patience
    if not criterion.counts:
        if P is not None:
            counting = [k for k, rule in exit_criteria().items() if rule.counts]
            reason = f"only criterion {' or '.join(counting)} has it, this one is {criterion.kind}"
            found.reject(1, "exits.patience", P, reason, None)
        return
    can_count = early - 1 if criterion.compares else early
    if P is None or P < 1:
        found.reject(1, "exits.patience", P, "patience must be at least 1", 1)
    elif early and can_count < P:
        first = "patience + 1" if criterion.compares else "patience"
        reason = f"with {early} early exits it never fires: it first does at exit {first}"
        if can_count > 0:
            found.reject(1, "exits.patience", P, reason, can_count)
        else:
            found.reject(1, "exits", exits.layers, f"patience: {reason}", None)


def _check_thresholds(
    found: Findings, exits: Exits, criterion: ExitCriterion, num_classes: int | None
) -> None:
    kind = exits.criterion
    if not criterion.has_thresholds:
        if exits.thresholds:
            what = "counts agreeing exits" if criterion.counts else "decides before any exit"
            reason = f"{kind} {what} and has no threshold"
            found.reject(1, "exits.thresholds", exits.thresholds, reason, ())
        return
    # A range that depends on C waits for it.
    by_class = criterion.legal_range(2) != criterion.legal_range(3)
    unknown = by_class and (num_classes is None or num_classes < 2)
    legal = None if unknown else criterion.legal_range(num_classes or 2)
    # Legal for any number of classes: the highest score, or one above the lowest.
    low, high = criterion.legal_range(2) or (-math.inf, math.inf)
    some = high if math.isfinite(high) else low + 1.0 if math.isfinite(low) else 0.0
    found.one_per_layer("exits.thresholds", exits.thresholds, exits.layers, "threshold", some)
    first = criterion.first_scores
    if first is not None and exits.thresholds and exits.thresholds[0] <= first:
        reason = f"every sample scores {first:g} at the first exit: all leave there"
        above = math.nextafter(first, math.inf)
        found.reject(1, "exits.thresholds[0]", exits.thresholds[0], reason, above)
    for i, threshold in enumerate(exits.thresholds):
        key = f"exits.thresholds[{i}]"
        if not math.isfinite(threshold):
            found.reject(1, key, threshold, "must be finite", some)
        elif legal is not None and threshold <= legal[0]:
            reason = f"every sample reaches {legal[0]:.6g}: all leave at this exit"
            found.reject(1, key, threshold, reason, math.nextafter(legal[0], math.inf))
        elif legal is not None and threshold > legal[1]:
            found.warn(1, key, threshold, f"no score exceeds {legal[1]:g}: nothing leaves here")


def _check_decay(found: Findings, exits: Exits, criterion: ExitCriterion, longest: int) -> None:
    """Thresholds that fall with the position of a token, of `longest` at most."""
    rate, length = exits.decay_rate, exits.decay_length
    if rate is None and length is None:
        owners = ("thresholds that decay",)
        found.belongs("exits.decay_share", exits.decay_share, 0.1, owners)
        return
    if not criterion.has_thresholds:
        owners = ("criteria with thresholds",)
        found.belongs("exits.decay_rate", rate, None, owners)
        found.belongs("exits.decay_length", length, None, owners)
        return
    if rate is None or length is None:
        name, near = ("decay_rate", _CALM_DECAY) if rate is None else ("decay_length", longest)
        reason = "thresholds that decay need a rate and a length"
        found.reject(1, f"exits.{name}", None, reason, near)
    found.at_least("exits.decay_rate", rate, 0)
    found.at_least("exits.decay_length", length, 1)
    if not 0.0 < exits.decay_share < 1.0:
        found.reject(1, "exits.decay_share", exits.decay_share, "must lie in (0, 1)", 0.1)
