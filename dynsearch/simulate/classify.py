"""Encoders that answer about whole texts: exits, skims, experts and batches together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.quality.trace import Trace
from dynsearch.sim.batched_exits import depth_law
from dynsearch.sim.exactness import inexact_because
from dynsearch.simulate.batches import in_closed_form, simulated
from dynsearch.simulate.experts import Loads, loads_of
from dynsearch.simulate.gather import gather
from dynsearch.simulate.layers import LayerKind, kinds_of
from dynsearch.simulate.leaving import Leaving, assumed, no_exits, replayed
from dynsearch.simulate.outcome import Outcome
from dynsearch.simulate.setting import Setting
from dynsearch.simulate.stage_costs import ROOM, StackCost, stack_cost
from dynsearch.simulate.texts import (
    MAX_CLASSES,
    Texts,
    fixed_amounts,
    in_classes,
    skims_of,
    text_work,
    traced_work,
    with_live_tokens,
)
from search_spaces.candidate import Candidate
from search_spaces.lowering.skimmed import Work

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_TOKENS = 400_000  # token exits that are drawn at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Activity of a setting, priced."""

    texts: Texts
    leaving: Leaving
    law: F64  # [L, K] share by layer of exit and class; the last class is the longest input
    cost: StackCost
    experts: Mapping[int, Loads]
    inexact: tuple[str, ...]


def classify(setting: Setting) -> Outcome:
    """Costs of an input of an encoder."""
    scene = open_scene(setting)
    t, on, serving = scene.cost.table, scene.leaving.on, setting.serving
    drawn = simulated(t, scene.leaving.where, scene.texts.index, scene.texts.lengths, on, serving)
    means = drawn if setting.trace is not None else in_closed_form(t, scene.law, on, serving)
    return gather(
        setting,
        scene.leaving,
        prices=scene.cost.prices,
        latencies=drawn.latencies,
        mean_s=means.mean_s,
        worst_s=means.worst_s,
        energy_j=means.energy_j,
        flops_ideal=means.flops_ideal,
        flops_executed=means.flops_executed,
        tokens=mean_tokens(scene.texts, scene.leaving, live=_by_token(setting.candidate)),
        experts=scene.experts,
        inexact=scene.inexact,
    )


def open_scene(setting: Setting) -> Scene:
    """Draw or replay what inputs do, then price it."""
    candidate, depth = setting.candidate, setting.candidate.depth
    lengths = setting.drawn_lengths()
    trace, exits = setting.trace, candidate.exits
    own, inexact = work_of(setting, lengths)
    if exits is None:
        leaving = no_exits(lengths.size, depth)
    elif trace is not None:
        leaving = replayed(trace, exits, depth)
    elif exits.granularity == "token":
        leaving, own, lengths = _token_exits(setting, own, lengths)
    else:
        leaving = assumed(
            setting.rng(2),
            exits,
            depth,
            lengths.size,
            classes=setting.num_classes,
            assumptions=setting.assumptions,
            tokens=lengths,
        )
    serving = setting.serving
    most = int(np.clip(ROOM // (serving.batch * depth), 4, MAX_CLASSES))
    texts = with_longest(setting, in_classes(lengths, own, most))
    law = joint_law(leaving, texts, independent=trace is None and _independent(candidate))
    popularity = {} if trace is None else traced_popularity(trace)
    kinds = kinds_of(candidate, "encoder", linked=setting.linked, popularity=popularity)
    loads = loads_by_layer(setting, kinds, own.ffn.mean(axis=0), leaving.law, serving.batch)
    gone = np.cumsum(leaving.law) - leaving.law
    cost = stack_cost(
        candidate,
        texts,
        device=setting.device,
        batch=serving.batch,
        threads=setting.workload.threads,
        num_classes=setting.num_classes,
        reach=1.0 - gone,
        kinds=kinds,
        loads=loads,
    )
    return Scene(texts=texts, leaving=leaving, law=law, cost=cost, experts=loads, inexact=inexact)


def loads_by_layer(
    setting: Setting,
    kinds: list[LayerKind],
    tokens: F64,
    law: F64,
    batch: int,
) -> dict[int, Loads]:
    """Loads of every layer with experts.

    Args:
        setting: Of the simulation.
        kinds: Of the layers.
        tokens: Mean tokens of an input that enter each layer's network [L].
        law: Share of inputs that leave after each layer [L].
        batch: Inputs of a batch; those that left early reach no later router (but wait).
    """
    reach = 1.0 - (np.cumsum(law) - law)
    waits = setting.serving.waits
    found: dict[int, Loads] = {}
    for layer, kind in enumerate(kinds):
        if kind.experts is None or kind.lookup:
            continue
        live = max(1, round(batch * (1.0 if waits else reach[layer])))
        found[layer] = loads_of(
            setting.rng(100 + layer),
            kind.experts,
            max(1, round(live * tokens[layer])),
            live,
            setting.assumptions.concentration,
        )
    return found


def _by_token(candidate: Candidate) -> bool:
    exits = candidate.exits
    return exits is not None and exits.granularity == "token"


def mean_tokens(texts: Texts, leaving: Leaving, *, live: bool = False) -> F64:
    """E[n] and E[n^2] of the tokens entering each layer, given that it is reached [L, 2].

    Args:
        texts: With their own work.
        leaving: Where they leave.
        live: Whether tokens leave one by one: those that did are looked at, but enter nothing.
    """
    L = leaving.law.size
    entering = (texts.own.ffn if live else texts.own.entering).astype(np.float64)
    reached = leaving.where[:, None] >= np.arange(L)
    count = np.maximum(reached.sum(axis=0), 1)
    parts = [((entering**power) * reached).sum(axis=0) / count for power in (1, 2)]
    return np.stack(parts, axis=1)


def joint_law(leaving: Leaving, texts: Texts, *, independent: bool) -> F64:
    """Share of inputs by layer of exit and class [L, K]."""
    K = texts.longest.size
    if not independent:
        return depth_law(leaving.where, leaving.law.size, texts.index, K)
    share = np.bincount(texts.index, minlength=K) / texts.index.size
    law: F64 = leaving.law[:, None] * share
    return law


def with_longest(setting: Setting, texts: Texts) -> Texts:
    """The classes and behind them the workload's longest input, of which nothing is skipped.

    What a schedule skips is skipped there too.
    """
    candidate = setting.candidate
    always = tuple(s for s in candidate.skim if fixed_amounts(s))
    longest = np.array([setting.workload.max_len])
    full = text_work(
        setting.rng(3), replace(candidate, skim=always), "encoder", longest, setting.assumptions
    )
    work = Work(
        **{
            name: np.concatenate([getattr(texts.work, name), getattr(full, name)])
            for name in ("alive", "entering", "asking", "ffn")
        }
    )
    return replace(texts, work=work, longest=np.concatenate([texts.longest, longest]))


def traced_popularity(trace: Trace) -> dict[int, tuple[float, ...]]:
    """Share of choices of each expert, by 0-based layer that has some."""
    totals = trace.expert_tokens.sum(axis=0, dtype=np.float64)
    return {
        layer: tuple(float(x) for x in row[: int(np.flatnonzero(row)[-1]) + 1] / row.sum())
        for layer, row in enumerate(totals)
        if row.sum() > 0
    }


def _independent(candidate: Candidate) -> bool:
    """Whether who leaves where does not depend on the length in the stated model."""
    exits = candidate.exits
    return exits is None or (exits.granularity == "sample" and exits.criterion != "hash")


def work_of(setting: Setting, lengths: I64) -> tuple[Work, tuple[str, ...]]:
    """Work of each input, and why its trace does not say it exactly."""
    candidate, trace = setting.candidate, setting.trace
    planned = text_work(setting.rng(4), candidate, "encoder", lengths, setting.assumptions)
    if trace is None:
        return planned, ()
    recorded = traced_work(trace, candidate.depth)
    skims = skims_of(candidate, "encoder")
    fixed = all(fixed_amounts(s) for s in skims)
    drops = bool((recorded.ffn < lengths[:, None]).any())
    planned_same = all(
        np.array_equal(getattr(recorded, name), getattr(planned, name))
        for name in ("entering", "ffn")
    )
    same = planned_same if fixed else drops
    kinds = kinds_of(candidate, "encoder", linked=setting.linked)
    routed = trace.expert_tokens.sum(axis=(0, 2)) > 0
    wanted = np.array([kind.experts is not None for kind in kinds])
    exits, moe = candidate.exits, candidate.moe
    reasons = inexact_because(
        token_exits=exits is not None and exits.granularity == "token",
        other_skim=not same,
        capacity=moe is not None and moe.capacity_factor is not None,
        other_experts=not np.array_equal(routed[: candidate.depth], wanted),
        shared_scale=candidate.dtype == "int8" and setting.serving.batch > 1,
    )
    return (recorded if same else planned), reasons


def _token_exits(setting: Setting, own: Work, lengths: I64) -> tuple[Leaving, Work, I64]:
    """Tokens leave one by one and are looked at from then on; a text ends with its last one."""
    candidate = setting.candidate
    exits, depth = candidate.exits, candidate.depth
    assert exits is not None
    size = min(lengths.size, max(200, _TOKENS // max(1, int(lengths.mean()))))
    lengths, own = lengths[:size], own.take(np.arange(size))
    text = np.repeat(np.arange(size), lengths)
    position = np.arange(text.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = assumed(
        setting.rng(2),
        exits,
        depth,
        text.size,
        classes=setting.num_classes,
        assumptions=setting.assumptions,
        position=position,
    )
    by_layer = depth_law_counts(text, tokens.where, size, depth)
    live = lengths[:, None] - np.cumsum(by_layer, axis=1) + by_layer
    where = np.zeros(size, dtype=np.int64)
    np.maximum.at(where, text, tokens.where)
    law = depth_law(where, depth)[:, 0]
    return replace(tokens, where=where, law=law), with_live_tokens(own, live), lengths


def depth_law_counts(text: I64, where: I64, size: int, depth: int) -> I64:
    """Tokens of each text that leave after each layer [N, L]."""
    counts: I64 = np.bincount(text * depth + where, minlength=size * depth).reshape(size, depth)
    return counts
