"""Networks that write: the input read once, then a step for every token, by what caches lack.

A batch reads its inputs together, waits for the longest, then writes in lock-step. Steps are
priced at the mean context, in which their cost is affine. The first token of a decoder follows
from its input; all others, and all of an encoder-decoder, are steps of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.sim.batched_exits import depth_law, draw_latencies, expected_batches
from dynsearch.sim.decode_steps import entering
from dynsearch.simulate.classify import loads_by_layer
from dynsearch.simulate.decode_costs import StepCost, pass_shares, step_cost
from dynsearch.simulate.gather import gather
from dynsearch.simulate.layers import kinds_of
from dynsearch.simulate.leaving import Leaving, assumed, exit_mask, no_exits
from dynsearch.simulate.ledger import EXECUTED, IDEAL, JOULES, SECONDS
from dynsearch.simulate.outcome import Outcome
from dynsearch.simulate.setting import Setting
from dynsearch.simulate.stage_costs import ROOM, StackCost, stack_cost
from dynsearch.simulate.steps import (
    Steps,
    expected_steps,
    ideal_steps,
    simulated_steps,
    slowest_steps,
    tokens_at_once,
)
from dynsearch.simulate.texts import MAX_CLASSES, Texts, in_classes, text_work
from search_spaces.candidate import stack_depth, stacks_of

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_MOST_STEPS = 200_000  # that are simulated row by row
_PROMPTS = 4_000  # inputs that are drawn
_CLASSES = 16  # words that share what a drawn exit does not give to the one it names


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The input of a batch: read by an encoder, or by the decoder itself."""

    texts: Texts
    cost: StackCost
    law: F64  # [1, L, K]


def generate(setting: Setting) -> Outcome:
    """Costs of one input with all that is written after it."""
    candidate, B = setting.candidate, setting.serving.batch
    L = stack_depth(candidate, "decoder")
    lengths = setting.drawn_lengths()[:_PROMPTS]
    prompt = _read_prompts(setting, lengths)
    leaving = _leaving(setting, L)
    mean_length = float(lengths.mean())
    both = candidate.backbone.type == "enc_dec"
    steps = max(0, setting.new_tokens - (0 if both else 1))
    before = 0.0 if both else mean_length
    kinds = kinds_of(candidate, "decoder", linked=setting.linked)
    one = np.ones(L) if steps else np.full(L, mean_length)
    loads = loads_by_layer(setting, kinds, one, leaving.law, B)
    cost = step_cost(
        setting,
        kinds,
        leaving.law,
        context=max(1, round(before + max(steps - 1, 0) / 2)),
        tokens=tokens_at_once(candidate.exits, B, setting.new_tokens),
        source=round(mean_length) if both else 0,
        loads=loads,
    )
    asked = Steps(
        count=steps,
        first=round(before),
        acceptance=_acceptance(setting, L),
        sample=candidate.exits is not None and candidate.exits.granularity == "sample",
    )
    wait = setting.serving.mode != "compact"
    written = expected_steps(cost, leaving, candidate.exits, asked, B, wait=wait)
    alone = ideal_steps(cost, leaving, candidate.exits, asked)
    first = np.zeros(4) if both else cost.answer[:, B - 1]
    first_alone = np.zeros(4) if both else cost.answer[:, 0]
    read, read_alone = _prompt_s(prompt, B), _prompt_s(prompt, 1)
    total = read + first + written
    latencies = _draw(setting, prompt, cost, leaving, asked, first[SECONDS], wait=wait)
    # the closed form of a pipeline is a bound where its stages differ
    pipelined = candidate.exits is not None and candidate.exits.kv_policy == "pipeline"
    mean_s = float(latencies.mean()) if pipelined else float(total[SECONDS])
    slowest = slowest_steps(cost, leaving, candidate.exits, asked, B, wait=wait)
    longest = prompt.cost.table
    most = longest.embed[:, B - 1, -1] + longest.layer[:, :, B - 1, -1].sum(axis=1)
    outcome = gather(
        setting,
        leaving,
        prices=cost.prices,
        latencies=latencies,
        mean_s=mean_s,
        worst_s=float((most + first + slowest)[SECONDS]),
        energy_j=float(total[JOULES] / B),
        flops_ideal=float((read_alone + first_alone + alone)[IDEAL]),
        flops_executed=float(total[EXECUTED] / B),
        tokens=_tokens(setting, prompt, leaving, steps),
        experts=loads,
        new_tokens=setting.new_tokens,
    )
    each = (mean_s - float((read + first)[SECONDS])) / steps if steps else 0.0
    more = {"first_token_s": float((read + first)[SECONDS]), "per_token_s": each}
    if candidate.exits is not None and candidate.exits.kv_policy == "self_speculative":
        more["acceptance"] = asked.acceptance
    return replace(outcome, more=more, notes=_notes(setting))


def _read_prompts(setting: Setting, lengths: I64) -> _Prompt:
    candidate, B = setting.candidate, setting.serving.batch
    stack = "encoder" if candidate.backbone.type == "enc_dec" else "decoder"
    work = text_work(setting.rng(4), candidate, stack, lengths, setting.assumptions)
    L = work.alive.shape[1]
    texts = in_classes(lengths, work, int(np.clip(ROOM // (B * L), 2, MAX_CLASSES)))
    kinds = kinds_of(candidate, stack, linked=setting.linked)
    law = np.zeros(L)
    law[-1] = 1.0
    loads = loads_by_layer(setting, kinds, work.ffn.mean(axis=0), law, B)
    cost = stack_cost(
        replace(candidate, exits=None),
        texts,
        device=setting.device,
        batch=B,
        threads=setting.workload.threads,
        num_classes=setting.num_classes,
        reach=np.ones(L),
        kinds=kinds,
        loads=loads,
        stack=stack,
        heads=False,
    )
    where = np.full(lengths.size, L - 1)
    joint = depth_law(where, L, texts.index, texts.longest.size)[None]
    return _Prompt(texts, cost, joint)


def _prompt_s(prompt: _Prompt, batch: int) -> F64:
    """Mean costs of reading a batch of inputs [4]."""
    on = np.zeros(prompt.law.shape[:2], dtype=bool)
    found: F64 = expected_batches(prompt.cost.table, prompt.law, on, batch, wait=True).batch_s[
        :, 0
    ]
    return found


def _leaving(setting: Setting, depth: int) -> Leaving:
    candidate = setting.candidate
    exits = candidate.exits
    acts = exits is not None and "decoder" in stacks_of(
        candidate.backbone, exits.stack, default="decoder"
    )
    if exits is None or not acts:
        return no_exits(setting.samples, depth)
    if exits.kv_policy == "self_speculative":
        return replace(no_exits(setting.samples, depth), on=exit_mask(exits, depth))
    position = setting.rng(5).integers(0, max(setting.new_tokens, 1), setting.samples)
    return assumed(
        setting.rng(2),
        exits,
        depth,
        setting.samples,
        classes=_CLASSES,
        assumptions=setting.assumptions,
        position=position,
    )


def _acceptance(setting: Setting, depth: int) -> float:
    """How often the whole network agrees with a draft: stated, or that of the model of exits.

    There, both name the right class, or both the same wrong one.
    """
    exits = setting.candidate.exits
    if setting.assumptions.acceptance is not None or exits is None:
        return setting.assumptions.acceptance or 0.0
    right, _ = setting.assumptions.exit_model(depth).draw(setting.rng(6), setting.samples)
    return float((right[:, exits.layers[0] - 1] == right[:, depth - 1]).mean())


def _draw(
    setting: Setting,
    prompt: _Prompt,
    cost: StepCost,
    leaving: Leaving,
    asked: Steps,
    first_s: float,
    *,
    wait: bool,
) -> F64:
    """Latencies of drawn batches: inputs, then their steps."""
    B = setting.serving.batch
    draws = int(np.clip(_MOST_STEPS // max(1, asked.count * B), 20, 2_000))
    on = np.zeros(prompt.law.shape[1], dtype=bool)
    N = prompt.texts.lengths.size
    rng = setting.rng(7)
    read = draw_latencies(
        rng,
        prompt.cost.table,
        np.full(N, on.size - 1),
        on,
        B,
        draws,
        length=prompt.texts.index,
        wait=True,
    )[SECONDS]
    written = simulated_steps(
        rng, cost, leaving, setting.candidate.exits, asked, B, draws, wait=wait
    )
    total: F64 = (read + first_s + written[:, None]).ravel()
    return total


def _tokens(setting: Setting, prompt: _Prompt, leaving: Leaving, steps: int) -> F64:
    """Tokens of one input that enter each layer of the decoder, read and written [L, 2]."""
    L = leaving.law.size
    through = pass_shares(setting.candidate, L, setting.assumptions)
    written = steps * entering(leaving.law) * through
    if setting.candidate.backbone.type == "enc_dec":
        total = np.repeat(written[None], prompt.texts.lengths.size, axis=0)
    else:
        total = prompt.texts.own.entering[:, :L] + written
    return np.stack([total.mean(axis=0), (total**2).mean(axis=0)], axis=1)


def _notes(setting: Setting) -> tuple[str, ...]:
    exits = setting.candidate.exits
    notes = []
    if setting.new_tokens:
        notes.append(
            f"every input is followed by {setting.new_tokens} tokens, steps at the mean context"
        )
    if exits is not None and exits.kv_policy is None:
        notes.append("no kv_policy is stated: the state of tokens that left is copied upwards")
    return tuple(notes)
