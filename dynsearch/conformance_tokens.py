"""What any router or skim file must hold, as `dynsearch.conformance` for exits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.conformance import DeclaredOnly, frozen, report
from search_spaces.parts import Experts, Skim
from search_spaces.routers.base import Assignment, Router, Routing, routing_of
from search_spaces.skims.base import Bool, SkimRule, Tokens, protected_positions

_STEPS, _TOKENS, _EXPERTS = 3, 24, 6


def check_router(router: Router, *, seed: int = 0) -> None:
    """Prove a router.

    Masks and gates have shape [..., T, E]; nobody keeps what was not sent; gates are finite, not
    negative, and 0 where nothing was sent; without a capacity nothing is dropped, and every token
    goes to exactly top_k experts where the router says so; with one, no expert holds more than
    its capacity, nothing is lost (kept + dropped = T k), and a larger one never drops more; a
    routing group is routed as if it were alone; the same call gives the same answer; inputs that
    are not declared change nothing; where the router says so, a token goes where it goes whatever
    its mates are. Inputs are left as they were.

    Raises:
        AssertionError: lists each claim that broke.
    """
    rng = np.random.default_rng(seed)
    faults: list[str] = []
    for moe in _settings(router):
        faults += _router_faults(router, moe, _routing(moe, rng), rng)
    report(f"router {router.kind}", faults)


def check_skim(rule: SkimRule, *, seed: int = 0) -> None:
    """Prove a skimming mechanism.

    Masks are boolean [B, n] and lie on a sample's own tokens, where tokens were dropped before on
    those that are left; protected tokens go through (unless the mechanism says otherwise); a
    sample is treated alike alone, in any order and behind any padding; no array beyond those
    declared is read, none is written to; a higher rate or a lower threshold only adds tokens
    where the mechanism says so; a fixed one lets equally many of equally long samples through.

    Raises:
        AssertionError: lists each claim that broke.
    """
    rng = np.random.default_rng(seed)
    faults: list[str] = []
    for skim in _skims(rule):
        for dropped in (False, True):
            if dropped and skim.skipped != "drop":
                continue
            faults += _skim_faults(rule, skim, _tokens(rule, skim, rng, dropped=dropped))
    report(f"skim {rule.kind}", faults)


def _settings(router: Router) -> Iterator[Experts]:
    for k in (1,) if router.kind == "balanced_assignment" else (1, 2):
        base = Experts(layers=(1,), num_experts=(_EXPERTS,), top_k=(k,), router=router.kind)
        yield base
        for factor in (0.5, 1.0, 1.25):
            yield replace(base, capacity_factor=factor)
        yield replace(base, capacity_factor=1.0, routing_group_size=_TOKENS // 4)
        if router.exact_k:
            yield replace(base, capacity_factor=1.0, overflow="reroute")


def _routing(moe: Experts, rng: np.random.Generator) -> Routing:
    scores = rng.normal(size=(_STEPS, _TOKENS, _EXPERTS)) + np.linspace(1.0, 0.0, _EXPERTS)
    ids = rng.integers(0, 50, (2, _STEPS, _TOKENS))
    return routing_of(
        moe, 0, frozen(scores), tokens=frozen(ids[0].copy()), tasks=frozen(ids[1] % 3)
    )


def _router_faults(
    router: Router, moe: Experts, routing: Routing, rng: np.random.Generator
) -> list[str]:
    done = router.assign(routing)
    faults = _shape_faults(done)
    if faults:
        return faults
    if not _equal(done, router.assign(routing)):
        faults.append("the same call gives another answer")
    pairs = done.sent.sum(axis=(-1, -2))
    if moe.capacity_factor is None and done.dropped.any():
        faults.append("drops tokens without a capacity")
    per_token = done.sent.sum(axis=-1)
    if router.exact_k and (per_token != routing.top_k).any():
        faults.append(f"sends tokens to {sorted(set(per_token.ravel()))} experts, not to top_k")
    if (done.loads.sum(axis=-1) + done.dropped != pairs).any():
        faults.append("kept and dropped do not add up")
    faults += _capacity_faults(router, moe, routing, done)
    other: dict[str, Any] = {
        "scores": rng.normal(size=routing.scores.shape),
        "tokens": rng.integers(50, 90, routing.tokens.shape),
        "tasks": rng.integers(3, 9, routing.tasks.shape),
        "seed": routing.seed + 1,
    }
    for name in sorted(set(other) - set(router.reads)):
        if not _equal(done, router.assign(replace(routing, **{name: other[name]}))):
            faults.append(f"reads {name}, which it does not declare")
    if moe.capacity_factor is None and router.alone:
        half = _first(routing, _TOKENS // 2)
        if not np.array_equal(router.assign(half).sent[0], done.sent[0, : _TOKENS // 2]):
            faults.append("without a capacity a token goes elsewhere among other mates")
    return faults


def _shape_faults(done: Assignment) -> list[str]:
    shape = (_STEPS, _TOKENS, _EXPERTS)
    for f in fields(done)[:3]:
        array = getattr(done, f.name)
        if array.shape != shape:
            return [f"{f.name} has shape {array.shape}, not {shape}"]
    faults = []
    if done.sent.dtype != np.bool_ or done.kept.dtype != np.bool_:
        faults.append("sent and kept must be boolean")
    elif (done.kept & ~done.sent).any():
        faults.append("keeps what was not sent")
    elif (done.gates[~done.sent] != 0.0).any():
        faults.append("gates weigh experts that a token was not sent to")
    if not np.isfinite(done.gates).all() or (done.gates < 0.0).any():
        faults.append("gates are negative or not finite")
    return faults


def _capacity_faults(
    router: Router, moe: Experts, routing: Routing, done: Assignment
) -> list[str]:
    faults: list[str] = []
    size = moe.routing_group_size or _TOKENS
    if moe.capacity_factor is None or done.capacity is None:
        return ["a capacity was given and none is told"] if moe.capacity_factor else faults
    for start in range(0, _TOKENS, size):
        part = done.kept[:, start : start + size]
        if (part.sum(axis=-2) > done.capacity).any():
            faults.append("an expert holds more than its capacity")
        # the first group alone; others differ from it only by where they stand
        if start == 0 and router.alone and size < _TOKENS:
            one = _first(routing, size)
            if not np.array_equal(router.assign(one).kept[0], part[0]):
                faults.append("a routing group depends on the others")
    if router.exact_k:
        more = replace(routing, capacity_factor=2.0 * (routing.capacity_factor or 1.0))
        if (router.assign(more).dropped > done.dropped).any():
            faults.append("a larger capacity drops more")
    return faults


def _first(routing: Routing, tokens: int) -> Routing:
    """The first tokens of the first step."""
    return replace(
        routing,
        scores=routing.scores[:1, :tokens],
        tokens=routing.tokens[:1, :tokens],
        tasks=routing.tasks[:1, :tokens],
    )


def _equal(a: Assignment, b: Assignment) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)[:3])


def _skims(rule: SkimRule) -> Iterator[Skim]:
    base = Skim(layers=(1, 2), mechanism=rule.kind)
    if rule.kind == "lookup":
        yield replace(base, skipped="alt_path", lookup_order=3)
    elif rule.kind == "jump":
        reader = replace(base, skipped="copy_state")
        yield replace(reader, jump_max=4, read_tokens=2, max_jumps=3)
        yield replace(reader, jump_max=3, jump_min=-2, read_tokens=1)
        yield replace(reader, structural=True)
    else:
        rated = replace(base, keep_rate=(0.6, 0.4))
        bounded = replace(base, thresholds=(0.5, 0.4))
        for name in ("drop", "pass_through"):
            yield replace(rated if rule.fixed else bounded, skipped=name)
        if not rule.fixed:
            yield replace(bounded, block=3)


def _tokens(rule: SkimRule, skim: Skim, rng: np.random.Generator, *, dropped: bool) -> Tokens:
    lengths = np.array([9, 3, 12, 5, 5, 1, 12])
    width = 12
    own = np.arange(width) < lengths[:, None]
    guarded = protected_positions(skim.protected, lengths, width)
    alive = own & ((rng.random(own.shape) < 0.7) | guarded) if dropped else own
    draws = {
        "jump": lambda: rng.integers(-1, 5, own.shape),
        "mark": lambda: rng.random(own.shape) < 0.3,
    }
    arrays = {name: draws.get(name, lambda: rng.random(own.shape))() for name in rule.arrays}
    return Tokens(
        lengths=frozen(lengths),
        alive=frozen(alive),
        protected=frozen(guarded),
        arrays=DeclaredOnly({k: frozen(np.asarray(v, np.float64)) for k, v in arrays.items()}),
    )


def _skim_faults(rule: SkimRule, skim: Skim, tokens: Tokens) -> list[str]:
    faults: list[str] = []
    for layer in range(2):
        together = rule.through(skim, layer, tokens)
        if together.shape != tokens.alive.shape or together.dtype != np.bool_:
            return [f"the mask has shape {together.shape} and type {together.dtype}"]
        if (together & ~tokens.own).any():
            faults.append("padding goes through")
        if (together & ~tokens.alive).any():
            faults.append("a token that was dropped goes through")
        held = tokens.protected & tokens.own & tokens.alive
        if rule.keeps_protected and (held & ~together).any():
            faults.append("a protected token is skimmed")
        order = np.array([3, 0, 6, 1, 5, 2, 4])
        if not np.array_equal(rule.through(skim, layer, _rows(tokens, order)), together[order]):
            faults.append("the order of samples changes what goes through")
        for i in range(len(order)):
            alone = _rows(tokens, np.array([i]))
            if not np.array_equal(rule.through(skim, layer, alone)[0], together[i]):
                faults.append("a sample is treated otherwise alone")
            longest = int(tokens.lengths[i])
            short = rule.through(skim, layer, _cut(alone, longest))[0]
            if not np.array_equal(short, together[i, :longest]):
                faults.append("padding behind a sample changes what goes through")
        faults += _amount_faults(rule, skim, layer, tokens, together)
    return faults


def _amount_faults(
    rule: SkimRule, skim: Skim, layer: int, tokens: Tokens, together: Bool
) -> list[str]:
    faults: list[str] = []
    if rule.falls:
        more = (
            replace(skim, keep_rate=tuple(min(1.0, r + 0.2) for r in skim.keep_rate))
            if skim.keep_rate
            else replace(skim, thresholds=tuple(t - 0.2 for t in skim.thresholds))
        )
        if (together & ~rule.through(more, layer, tokens)).any():
            faults.append("a higher rate or a lower threshold takes tokens away")
    if rule.fixed and bool((tokens.alive == tokens.own).all()):
        counts = together.sum(axis=-1)
        for length in set(tokens.lengths.tolist()):
            if len(set(counts[tokens.lengths == length].tolist())) > 1:
                faults.append("a fixed mechanism lets unequally many through")
    return faults


def _rows(tokens: Tokens, rows: NDArray[Any]) -> Tokens:
    return Tokens(
        lengths=tokens.lengths[rows],
        alive=tokens.alive[rows],
        protected=tokens.protected[rows],
        arrays=DeclaredOnly({k: v[rows] for k, v in tokens.arrays.items()}),
    )


def _cut(tokens: Tokens, width: int) -> Tokens:
    return Tokens(
        lengths=tokens.lengths,
        alive=tokens.alive[:, :width],
        protected=tokens.protected[:, :width],
        arrays=DeclaredOnly({k: v[:, :width] for k, v in tokens.arrays.items()}),
    )
