"""What the parts of a decoding step cost, by how many tokens go through them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from dynsearch.sim.decode_steps import DecodeCost, entering
from dynsearch.simulate.assumptions import Assumptions
from dynsearch.simulate.experts import Loads
from dynsearch.simulate.layers import LayerKind
from dynsearch.simulate.ledger import Ledger, Prices
from dynsearch.simulate.setting import Setting
from dynsearch.simulate.stage_costs import grouped_calls, layer_values
from dynsearch.simulate.texts import expected_rates, skims_of
from search_spaces.candidate import DTYPES, Candidate
from search_spaces.exits import exit_criterion
from search_spaces.lowering.exit_heads import lower_head, lower_state_check
from search_spaces.lowering.expected import STATE_SCORES
from search_spaces.lowering.language import lower_lm_head, lower_token_embedding
from search_spaces.lowering.skimmed import Work
from search_spaces.lowering.stacks import CallShapes, lower_skipped_kv
from search_spaces.ops import OpTable
from search_spaces.parts import Exits
from search_spaces.vocabulary import LM_HEADS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """A step of B rows on one device; the four costs stand on the axis of devices."""

    parts: DecodeCost
    always: F64  # [4, M] embedding, and the head where no exit needs one to decide
    answer: F64  # [4, M] the head alone
    prices: Prices


def step_cost(
    setting: Setting,
    kinds: Sequence[LayerKind],
    law: F64,
    *,
    context: int,
    tokens: int,
    source: int,
    loads: Mapping[int, Loads],
) -> StepCost:
    """Price the parts of a step.

    Args:
        setting: Candidate, device and batch B.
        kinds: Of the layers.
        law: Share of tokens that leave after each layer [L], for what stays in cache.
        context: Tokens per row in the cache, the mean over all steps.
        tokens: At once M: up to B one a row, beyond it several a row.
        source: States of an encoder per row.
        loads: Of experts, by layer.
    """
    candidate, B, L = setting.candidate, setting.serving.batch, len(kinds)
    counts = np.unique(
        np.concatenate([np.arange(1, B + 1), np.arange(B, tokens + 1, B), [tokens]])
    )
    rows = np.minimum(counts, B)
    queries = -(-counts // rows)
    each = np.repeat(queries[:, None], L, axis=1)
    shares = pass_shares(candidate, L, setting.assumptions)
    held = np.maximum(np.rint(context * shares), 1).astype(np.int64)
    ledger = Ledger()
    places = layer_values(
        ledger,
        candidate,
        "decoder",
        Work(alive=each, entering=each, asking=each, ffn=each),
        rows,
        kinds=kinds,
        grouped=grouped_calls(setting.device),
        loads=loads,
        cached=held,
        source=source,
    )
    weights = ledger.weight_bytes()
    reach = 1.0 - (1.0 - entering(law)) ** B
    at_full = [weights[place[rows.size - 1]] for place in places]
    read = max(at_full) if candidate.backbone.tied_layers else float(np.array(at_full) @ reach)
    backbone, size = candidate.backbone, counts.size
    dtype = np.full(size, DTYPES.index(candidate.dtype))
    calls = CallShapes(
        layer=np.zeros_like(rows),
        batch=rows,
        queries=queries,
        cached=np.full_like(rows, context),
        dtype=dtype,
    )
    keys = ledger.add(lower_skipped_kv(backbone, calls), size)
    head = ledger.add(lower_lm_head(backbone, rows=rows, dtype=dtype, layer=L - 1), size)
    begin = ledger.add(
        lower_token_embedding(backbone, batch=rows, tokens=queries, dtype=dtype), size
    )
    check = ledger.add(_check(candidate, calls, dtype), size)
    prices = ledger.price(
        setting.device, threads=setting.workload.threads, working_set=float(read)
    )
    spread = np.searchsorted(counts, np.arange(1, tokens + 1))  # the next count that is priced

    def at(place: slice | I64) -> F64:
        found: F64 = prices.at(place, size)[:, spread]
        return found

    layer = _passed(np.stack([at(place) for place in places], axis=1), shares)
    once, answer = at(begin), at(head)
    if one_head(candidate.exits):
        once = once + answer
    parts = DecodeCost(
        layer=layer,
        keys=np.repeat(at(keys)[:, None], L, axis=1),
        check=np.repeat(at(check)[:, None], L, axis=1),
        head=np.zeros_like(answer) if one_head(candidate.exits) else answer,
    )
    return StepCost(parts=parts, always=once, answer=answer, prices=prices)


def one_head(exits: Exits | None) -> bool:
    """Whether every token pays for one head because none is needed to decide."""
    if exits is None or exits.kv_policy == "self_speculative":
        return False
    return exit_criterion(exits.criterion).fixed or exits.criterion in (
        *STATE_SCORES,
        "learned_upfront",
    )


def pass_shares(candidate: Candidate, depth: int, assumptions: Assumptions) -> F64:
    """Share of tokens that go through each layer while decoding, others pass by [L]."""
    shares = np.ones(depth)
    for skim in skims_of(candidate, "decoder"):
        if skim.skipped == "drop" and skim.mechanism == "fixed_schedule" and skim.keep_count:
            continue
        for layer, rate in zip(skim.layers, expected_rates(skim, assumptions), strict=True):
            if layer <= depth:
                shares[layer - 1] = min(shares[layer - 1], float(rate))
    return shares


def _passed(layer: F64, shares: F64) -> F64:
    """Mean costs [4, L, M] of layers that each of m tokens enters with some probability."""
    M = layer.shape[2]
    if (shares == 1.0).all():
        return layer
    out = layer.copy()
    count = np.arange(M + 1)
    for at in np.flatnonzero(shares < 1.0):
        chance = binom.pmf(count[1:], count[1:, None], shares[at])  # [m, j]
        out[:, at] = layer[:, at] @ chance.T
    return out


def _check(candidate: Candidate, calls: CallShapes, dtype: I64) -> OpTable:
    """An early exit's check: scores of the vocabulary, a unit of its own, or nothing."""
    exits, backbone = candidate.exits, candidate.backbone
    rows = calls.batch
    nothing = lower_lm_head(backbone, rows=rows, dtype=dtype).take(slice(0))
    if exits is None or exits.kv_policy == "self_speculative":
        return nothing
    if one_head(exits) and exits.criterion not in STATE_SCORES:
        return nothing
    if exits.criterion in STATE_SCORES:
        reads = STATE_SCORES[exits.criterion]
        return lower_state_check(
            backbone, layer=calls.layer, batch=rows, dtype=dtype, states=reads
        )
    return lower_head(
        replace(backbone, num_experts=1, num_shared_experts=0),
        kind=exits.head if exits.head in LM_HEADS else "norm_lm",
        layer=calls.layer,
        batch=rows,
        tokens=np.ones_like(rows),
        cached=calls.cached,
        dtype=dtype,
        num_classes=1,
        check=True,
    )
