"""Recurrent readers: words read and decisions made, one text at a time.

Texts of a batch jump apart, so every text runs alone whatever the batch (`sim.readers`). Without
jumps or gates a reader reads every word.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.readers import (
    Jumps,
    draw_gated_s,
    draw_reads,
    expected_reads,
    expected_units,
    expected_visits,
    gated_s,
    structural_law,
)
from dynsearch.simulate.gather import gather
from dynsearch.simulate.leaving import no_exits
from dynsearch.simulate.ledger import EXECUTED, IDEAL, JOULES, SECONDS, Ledger, Prices
from dynsearch.simulate.outcome import Outcome
from dynsearch.simulate.setting import Setting
from dynsearch.simulate.texts import expected_rates
from search_spaces.lowering.recurrent import (
    lower_reader_decision,
    lower_reader_head,
    lower_reader_step,
)
from search_spaces.ops import OpTable
from search_spaces.parts import Skim

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_MARK_EVERY = 20  # words of a sentence, where structure says how far a reader jumps


@dataclass(frozen=True, slots=True)
class _Costs:
    """Of one text's parts, each [4]; cells ascending in size."""

    cells: F64  # [4, K] a step of each cell; 0 for one that copies its state
    gate: F64  # before every word
    jump: F64
    head: F64
    prices: Prices


def read(setting: Setting) -> Outcome:
    """Costs of one text of a recurrent reader."""
    skims = setting.candidate.skim
    gates = [s for s in skims if s.mechanism == "gate"]
    jumps = [s for s in skims if s.mechanism == "jump"]
    lengths = setting.drawn_lengths()
    share, units = _cells(setting, gates[0] if gates else None)
    costs = _price(setting, units, gates, jumps)
    step = costs.cells @ share
    gate = costs.gate if gates else np.zeros(4)
    rng = setting.rng(8)
    if jumps:
        plan = jumps[0]
        reads, decided = _expected(setting, plan, lengths)
        total = np.outer(step + gate, reads) + np.outer(costs.jump, decided)
        drawn_reads, drawn_jumps = _drawn(setting, plan, lengths)
        words = drawn_reads
        seconds = drawn_jumps * costs.jump[SECONDS]
    else:
        words, reads = lengths, lengths.astype(np.float64)
        total = np.stack(
            [gated_s(lengths, share, costs.cells[q], float(gate[q])) for q in range(4)]
        )
        seconds = np.zeros(lengths.size)
    one = draw_gated_s(rng, words, share, costs.cells[SECONDS], float(gate[SECONDS]))
    latencies = one + seconds + costs.head[SECONDS]
    mean = total.mean(axis=1) + costs.head
    longest, rounds = _most(setting, jumps)
    most = longest * (costs.cells.max(axis=1) + gate) + rounds * costs.jump + costs.head
    L = setting.candidate.depth
    alone = replace(setting.workload, batch=1)
    return replace(
        gather(
            replace(setting, workload=alone),
            no_exits(lengths.size, L),
            prices=costs.prices,
            latencies=latencies,
            mean_s=float(mean[SECONDS]),
            worst_s=float(most[SECONDS]),
            energy_j=float(mean[JOULES]),
            flops_ideal=float(mean[IDEAL]),
            flops_executed=float(mean[EXECUTED]),
            tokens=np.tile([reads.mean(), (reads**2).mean()], (L, 1)),
            experts={},
        ),
        notes=_notes(setting, gates, jumps),
    )


def _most(setting: Setting, jumps: list[Skim]) -> tuple[int, int]:
    """Most words read and jumps decided; a reader that goes back may read all but endlessly."""
    longest = setting.workload.max_len
    if not jumps:
        return longest, 0
    plan = jumps[0]
    if plan.structural:
        return longest, longest
    each = plan.read_tokens or 1
    rounds = -(-longest // each) if plan.max_jumps is None else plan.max_jumps
    if plan.jump_min >= 0:
        return longest, min(rounds, -(-longest // each))
    return (rounds + 1) * each, rounds


def _notes(setting: Setting, gates: list[Skim], jumps: list[Skim]) -> tuple[str, ...]:
    notes = []
    if setting.workload.batch > 1:
        notes.append("texts go through a recurrent reader one at a time, whatever the batch")
    if jumps and jumps[0].structural:
        notes.append(f"a sentence mark stands behind every {_MARK_EVERY} words")
    elif jumps:
        notes.append("all offsets of a jump are equally likely, stopping is one of them")
    if gates:
        notes.append("what a gate decides about one word does not depend on the others")
    return tuple(notes)


def _cells(setting: Setting, gate: Skim | None) -> tuple[F64, tuple[int, ...]]:
    """Share of words that each cell reads [K], and the units that it updates."""
    h = setting.candidate.backbone.hidden_size
    if gate is None:
        return np.ones(1), (h,)
    assumed = setting.assumptions
    rate = float(expected_rates(gate, assumed)[0])
    if not gate.keep_rate and "read" in (*assumed.stated, *assumed.preset):
        rate = assumed.read
    elif not gate.keep_rate and "width" in (*assumed.stated, *assumed.preset):
        rate = assumed.width
    if gate.continuous_width:
        spread = max(setting.assumptions.spread, 1e-3)
        mean = min(max(rate, 1e-6), 1.0 - 1e-6)
        return np.ones(1), (max(1, round(expected_units(mean, spread, h))),)
    widths = sorted(gate.branch_widths or (0, h))
    if len(widths) == 1:
        widths = [0, *widths]
    if len(assumed.branches) == len(widths):
        order = np.argsort(gate.branch_widths or (0, h), kind="stable")
        return np.asarray(assumed.branches)[order] / sum(assumed.branches), tuple(widths)
    others = np.full(len(widths) - 1, (1.0 - rate) / (len(widths) - 1))
    return np.append(others, rate), tuple(widths)


def _price(
    setting: Setting, units: tuple[int, ...], gates: list[Skim], jumps: list[Skim]
) -> _Costs:
    candidate, ledger = setting.candidate, Ledger()
    places = [
        ledger.add(_one(lower_reader_step(candidate, batch=1, units=max(width, 1))), 1)
        for width in units
    ]
    gate = jump = slice(0, 0)
    if gates:
        gate = ledger.add(_one(lower_reader_decision(candidate, gates[0], batch=1)), 1)
    if jumps:
        jump = ledger.add(_one(lower_reader_decision(candidate, jumps[0], batch=1)), 1)
    answer = lower_reader_head(candidate, batch=1, num_classes=setting.num_classes)
    head = ledger.add(_one(answer), 1)
    read_between = float(ledger.weight_bytes()[: len(units)].max())
    prices = ledger.price(
        setting.device, threads=setting.workload.threads, working_set=read_between
    )
    cells = np.stack(
        [
            prices.at(place, -1)[:, 0] if width else np.zeros(4)
            for place, width in zip(places, units, strict=True)
        ],
        axis=1,
    )
    none = np.zeros(4)
    return _Costs(
        cells=cells.reshape(4, -1),
        gate=prices.at(gate, -1)[:, 0] if gates else none,
        jump=prices.at(jump, -1)[:, 0] if jumps else none,
        head=prices.at(head, -1)[:, 0],
        prices=prices,
    )


def _one(table: OpTable) -> OpTable:
    """All operators as those of stage 0."""
    return replace(table, candidate=np.zeros_like(table.candidate))


def _jumps(plan: Skim, longest: int) -> Jumps:
    offsets = np.arange(plan.jump_min, (plan.jump_max or 1) + 1)
    if plan.jump_min == 0:
        offsets = offsets[1:]  # a jump of 0 stops
    return Jumps(
        offsets=offsets,
        chance=np.full(offsets.size, 1.0 / (offsets.size + 1)),
        read=plan.read_tokens or 1,
        most=plan.max_jumps or longest,
    )


def _expected(setting: Setting, plan: Skim, lengths: I64) -> tuple[F64, F64]:
    """Mean words read and jumps decided [N]."""
    if not plan.structural:
        return expected_reads(_jumps(plan, setting.workload.max_len), lengths)
    distinct, index = np.unique(lengths, return_inverse=True)
    found = np.array([expected_visits(_structure(setting, int(n))).sum() for n in distinct])
    reads = found[index.ravel()]
    return reads, reads.copy()


def _drawn(setting: Setting, plan: Skim, lengths: I64) -> tuple[I64, I64]:
    """The same as draws [N]."""
    rng = setting.rng(9)
    if not plan.structural:
        return draw_reads(rng, _jumps(plan, setting.workload.max_len), lengths)
    reads = np.zeros(lengths.size, dtype=np.int64)
    for n in np.unique(lengths):
        rows = np.flatnonzero(lengths == n)
        law = _structure(setting, int(n))
        moves = np.cumsum(np.concatenate([law, 1.0 - law.sum(axis=1, keepdims=True)], axis=1), 1)
        at = np.zeros(rows.size, dtype=np.int64)
        live = np.ones(rows.size, dtype=bool)
        while live.any():
            reads[rows[live]] += 1
            drawn = rng.random(int(live.sum()))
            at[live] = (moves[at[live]] < drawn[:, None]).sum(axis=1)
            live &= at < n
    return reads, reads.copy()


def _structure(setting: Setting, length: int) -> F64:
    marks = np.arange(1, length + 1) % _MARK_EVERY == 0
    keep = setting.assumptions.keep
    return structural_law(marks, 1.0 - keep, 1.0 / _MARK_EVERY)
