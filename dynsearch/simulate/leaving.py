"""Where samples (or tokens) leave: replayed on a trace, or drawn from the stated model of exits.

Without a trace one is drawn: `ExitModel` says whether each exit is right and how sure it is; the
named class gets that confidence as its probability and the other classes share the rest evenly, a
wrong exit names the same wrong class throughout. Every criterion then decides as on a real trace.
Where thresholds on one exit's confidence decide alone, the law of who leaves where is the model's
own integral (`ExitModel.expected`), and the drawn trace serves percentiles only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.quality.trace import Trace
from dynsearch.sim.batched_exits import depth_law
from dynsearch.sim.decide import exit_layers
from dynsearch.sim.records import named_arrays
from dynsearch.simulate.assumptions import PARAMETRIC, Assumptions
from search_spaces.backbone import Backbone
from search_spaces.candidate import Candidate, policies_of
from search_spaces.exits import exit_criterion
from search_spaces.parts import Exits

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

_GRID = 4001  # confidences that a threshold is read off between


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """N samples or tokens of a stack whose last layer is `depth`."""

    where: I64  # [N] 0-based layer after which each leaves
    law: F64  # [L] share that leaves after each layer
    on: Bool  # [L] early exits
    accuracy: float | None  # of what is answered; None: nobody knows
    origin: str  # "trace" or "parametric"


def no_exits(count: int, depth: int) -> Leaving:
    """Everything runs to the end."""
    where = np.full(count, depth - 1, dtype=np.int64)
    law = depth_law(where, depth)[:, 0]
    return Leaving(
        where=where, law=law, on=np.zeros(depth, dtype=bool), accuracy=None, origin="counted"
    )


def replayed(trace: Trace, exits: Exits, depth: int) -> Leaving:
    """What the exits of a policy do on a recorded trace.

    Raises:
        InputError: the criterion needs an array that the trace does not have.
    """
    where = leaving_layers(trace, exits, depth)
    right = trace.logits.argmax(axis=-1) == trace.labels[:, None]
    return Leaving(
        where=where,
        law=depth_law(where, depth)[:, 0],
        on=exit_mask(exits, depth),
        accuracy=float(right[np.arange(where.size), where].mean()),
        origin="trace",
    )


def assumed(
    rng: np.random.Generator,
    exits: Exits,
    depth: int,
    count: int,
    *,
    classes: int,
    assumptions: Assumptions,
    position: NDArray[Any] | None = None,
    tokens: NDArray[Any] | None = None,
) -> Leaving:
    """What the exits of a policy do on samples of the stated model.

    Args:
        rng: Draws the samples.
        exits: The policy.
        depth: Layers of its stack that run.
        count: Samples N.
        classes: C.
        assumptions: Parameters of the model.
        position: Of each token in its text [N], for schedules by position.
        tokens: Of each sample [N], for hashes (a sample leaves with its last token); None: 1.
    """
    on = exit_mask(exits, depth)
    if assumptions.rates:
        law = _stated_law(assumptions.rates, on)
        where = rng.choice(depth, count, p=law)
        return Leaving(where=where, law=law, on=on, accuracy=None, origin=PARAMETRIC)
    trace = draw_trace(rng, depth, count, classes=classes, assumptions=assumptions)
    trace.aux.update(_fixed_arrays(rng, exits, depth, count, position, tokens))
    where = leaving_layers(trace, exits, depth)
    least = confidence_thresholds(exits, depth, classes)
    if least is None:
        law = depth_law(where, depth)[:, 0]
        right = (trace.logits.argmax(axis=-1) == 0)[np.arange(count), where].mean()
        return Leaving(where=where, law=law, on=on, accuracy=float(right), origin=PARAMETRIC)
    expected = assumptions.exit_model(depth).expected(least[None])
    law = expected.exits[0] / expected.exits[0].sum()
    accuracy = float(expected.accuracy[0])
    return Leaving(where=where, law=law, on=on, accuracy=accuracy, origin=PARAMETRIC)


def draw_trace(
    rng: np.random.Generator, depth: int, count: int, *, classes: int, assumptions: Assumptions
) -> Trace:
    """A trace of the stated model: logits [N, L, C], label 0 throughout, and arrays of its own.

    A learned exit, a halting unit and the likeness of neighbouring states are taken to know what
    the confidence knows: "learned" and "cosine_previous" are the confidence itself, "halting"
    makes the share halted so far the largest confidence so far.
    """
    right, sure = assumptions.exit_model(depth).draw(rng, count)
    sure = np.clip(sure, 1.0 / classes, 1.0 - 1e-9)
    rest = np.log((1.0 - sure) / (classes - 1))
    logits = np.repeat(rest[:, :, None], classes, axis=2)
    named = np.where(right, 0, 1)[:, :, None]
    np.put_along_axis(logits, named, np.log(sure)[:, :, None], axis=2)
    halted = np.maximum.accumulate(sure, axis=1)
    before = np.concatenate([np.zeros((count, 1)), halted[:, :-1]], axis=1)
    none = np.zeros((count, depth), dtype=np.int32)
    arrays = {
        "learned": sure,
        "cosine_previous": sure,
        "halting": halted - before,
        "planned_layer": np.repeat((_first(right) + 1)[:, None], depth, axis=1),
    }
    return Trace(
        logits=logits.astype(np.float32),
        labels=np.zeros(count, dtype=np.int64),
        lengths=np.ones(count, dtype=np.int64),
        tokens_layer=none,
        tokens_ffn=none,
        expert_tokens=none[:, :, None],
        aux={name: array.astype(np.float32) for name, array in arrays.items()},
    )


def leaving_layers(trace: Trace, exits: Exits, depth: int) -> I64:
    """0-based layer after which each row of a trace leaves [N]."""
    layers = trace.num_layers
    plain = Candidate(backbone=_skeleton(layers), depth=depth, exits=exits)
    where: I64 = exit_layers(trace.logits, policies_of([plain]), named_arrays(trace))[0]
    return where


def exit_mask(exits: Exits | None, depth: int) -> Bool:
    """Early exits [L]."""
    on = np.zeros(depth, dtype=bool)
    if exits is not None:
        on[np.asarray(exits.layers, dtype=np.int64) - 1] = True
    return on


def confidence_thresholds(exits: Exits, depth: int, classes: int) -> F64 | None:
    """Least probability of the named class at which each exit answers [L], +inf without an exit.

    Holds where the other classes share the rest evenly. None: one exit's logits do not decide.
    """
    rule = exit_criterion(exits.criterion)
    alone = rule.score is not None and exits.aggregator == "none" and not rule.counts
    if not alone or not exits.thresholds or exits.decay_rate is not None or exits.token_window:
        return None
    assert rule.score is not None
    sure = np.linspace(1.0 / classes, 1.0 - 1e-9, _GRID)
    rest = np.log((1.0 - sure) / (classes - 1))
    logits = np.repeat(rest[:, None], classes, axis=1)
    logits[:, 0] = np.log(sure)
    least = np.full(depth, np.inf)
    warm = exits.temperatures or (exits.temperature,) * len(exits.layers)
    for layer, threshold, temperature in zip(exits.layers, exits.thresholds, warm, strict=True):
        score = rule.score(logits, temperature)
        if score[-1] >= threshold:
            least[layer - 1] = float(np.interp(threshold, score, sure))
    return least


def _fixed_arrays(
    rng: np.random.Generator,
    exits: Exits,
    depth: int,
    count: int,
    position: NDArray[Any] | None,
    tokens: NDArray[Any] | None,
) -> dict[str, NDArray[np.float32]]:
    """What criteria read that are fixed before the input runs, each [N, L]."""
    places = np.zeros(count) if position is None else np.asarray(position, dtype=np.float64)
    sites = np.array([*exits.layers, depth])
    each = np.ones(count) if tokens is None else np.maximum(np.asarray(tokens), 1)
    deepest = np.ceil(rng.random(count) ** (1.0 / each) * sites.size).astype(np.int64) - 1
    arrays = {"position": places, "hash_layer": sites[np.clip(deepest, 0, sites.size - 1)]}
    return {
        name: np.repeat(values[:, None], depth, axis=1).astype(np.float32)
        for name, values in arrays.items()
    }


def _stated_law(rates: tuple[float, ...], on: Bool) -> F64:
    """Shares by layer [L] from those at the early exits; the first ones where there are more."""
    law = np.zeros(on.size)
    early = np.flatnonzero(on)[: len(rates)]
    law[early] = rates[: early.size]
    law[-1] = max(0.0, 1.0 - law.sum())
    found: F64 = law / law.sum()
    return found


def _first(right: Bool) -> I64:
    found: I64 = np.where(right.any(axis=1), right.argmax(axis=1), right.shape[1] - 1)
    return found


def _skeleton(layers: int) -> Backbone:
    """A backbone of which nothing but the number of layers is asked."""
    return replace(_PLAIN, num_layers=layers)


_PLAIN = Backbone(
    name="layers",
    num_layers=1,
    hidden_size=1,
    num_heads=1,
    ffn_size=1,
    vocab_size=1,
    max_len=1,
)
