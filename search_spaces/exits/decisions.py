"""Who leaves at which exit, and with what answer, for every criterion of the vocabulary.

One home for the order of things: temperatures divide logits, an aggregator turns them into what is
answered, the criterion scores that, thresholds (which may decay) are compared, passes in a row are
counted where the criterion asks for patience.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import InputError
from search_spaces.exits import exit_criterion
from search_spaces.exits.base import F64, Aggregator, Evidence, run_lengths
from search_spaces.exits.decay import decayed
from search_spaces.parts import Exits
from search_spaces.records import require_known
from search_spaces.registry import scan


@cache
def aggregators() -> dict[str, Aggregator]:
    """All aggregators by kind; "none" is not one."""
    return scan("search_spaces.exits", "AGGREGATOR")


def answered_logits(exits: Exits, logits: NDArray[Any], layers: NDArray[Any], depth: int) -> F64:
    """What each exit answers, as logits in float64: divided by temperatures, then aggregated.

    Args:
        exits: The policy.
        logits: [N, K, C] of its early exits and, last, maybe of the exit at the depth.
        layers: Their layers [K], 1-based.
        depth: L.

    Raises:
        InputError: unknown aggregator.
    """
    divided = np.asarray(logits, dtype=np.float64) / _temperatures(exits, len(layers))[:, None]
    if exits.aggregator == "none":
        return divided
    known = aggregators()
    require_known(exits.aggregator, ["none", *known], "exits.aggregator", "aggregator")
    return known[exits.aggregator].combine(divided, np.asarray(layers), depth, exits)


def required_aux(exits: Exits) -> tuple[str, ...]:
    """Trace arrays that the policy needs besides logits."""
    names = list(exit_criterion(exits.criterion).aux)
    if exits.decay_rate is not None:
        names.append("position")
    if exits.token_window:
        names.append("sequence")
    return tuple(dict.fromkeys(names))


def gather_evidence(
    exits: Exits, logits: NDArray[Any], aux: Mapping[str, NDArray[Any]], depth: int
) -> Evidence:
    """What the early exits of a policy know, from arrays over all layers.

    Args:
        exits: The policy.
        logits: [N, L, C], raw.
        aux: Named arrays [N, L]; more than needed is fine.
        depth: Deepest layer that runs.

    Raises:
        InputError: an array that the policy needs is missing (all are named), has another shape
            or holds NaN at an exit.
    """
    columns = np.asarray(exits.layers, dtype=np.int64) - 1
    needed = required_aux(exits)
    missing = [name for name in needed if name not in aux]
    if missing:
        text = f"criterion {exits.criterion} needs it, and the trace has not recorded it"
        raise InputError.one("trace", f"aux.{', aux.'.join(missing)}", None, text)
    taken: dict[str, NDArray[Any]] = {}
    for name in needed:
        if aux[name].shape != logits.shape[:2]:
            text = f"must have one value per sample and layer: {logits.shape[:2]}"
            raise InputError.one("trace", f"aux.{name}", aux[name].shape, text)
        taken[name] = np.asarray(aux[name], dtype=np.float64)[:, columns]
        if np.isnan(taken[name]).any():
            raise InputError.one("trace", f"aux.{name}", "NaN", "was not recorded at every exit")
    layers = columns + 1
    return Evidence(
        logits=answered_logits(exits, logits[:, columns], layers, depth),
        votes=np.asarray(logits[:, columns].argmax(axis=-1), dtype=np.int64),
        layers=layers,
        temperature=_temperatures(exits, columns.size)
        if exits.aggregator == "none"
        else np.ones(columns.size),
        aux=taken,
    )


def exit_scores(exits: Exits, seen: Evidence) -> F64:
    """Score of each early exit [N, X], larger = surer.

    Raises:
        InputError: unknown criterion.
    """
    scores = exit_criterion(exits.criterion).scores(exits, seen)
    if exits.token_window:
        scores = _neighbours(scores, seen.array("sequence"), exits.token_window)
    return scores


def exit_goals(exits: Exits, seen: Evidence) -> F64:
    """What a score must reach: [X], or [N, X] where thresholds depend on the position."""
    if not exit_criterion(exits.criterion).has_thresholds:
        return np.zeros(len(exits.layers))
    goals = np.asarray(exits.thresholds, dtype=np.float64)
    if exits.decay_rate is None or exits.decay_length is None:
        return goals
    return decayed(
        goals,
        seen.array("position"),
        rate=exits.decay_rate,
        length=exits.decay_length,
        share=exits.decay_share,
    )


def decided(exits: Exits, seen: Evidence, scores: F64) -> NDArray[np.bool_]:
    """Whether a sample that is still there would leave at each early exit [N, X].

    Args:
        exits: The policy.
        seen: Evidence of its exits.
        scores: Their scores [N, X] (`exit_scores`).
    """
    passes: NDArray[np.bool_] = scores >= exit_goals(exits, seen)
    rule = exit_criterion(exits.criterion)
    if not rule.counts:
        return passes
    if rule.compares:
        passes[..., 0] = False
    reached: NDArray[np.bool_] = run_lengths(passes) >= (exits.patience or 1)
    return reached


def leaves(exits: Exits, seen: Evidence) -> NDArray[np.bool_]:
    """`decided` on the policy's own scores [N, X].

    Raises:
        InputError: unknown criterion.
    """
    return decided(exits, seen, exit_scores(exits, seen))


def _temperatures(exits: Exits, count: int) -> F64:
    """One per exit [count]; the exit at the depth, where it is among them, is left as it is."""
    if exits.temperatures:
        own = np.ones(count)
        own[: len(exits.temperatures)] = exits.temperatures
        return own
    return np.full(count, exits.temperature)


def _neighbours(scores: F64, sequence: F64, reach: int) -> F64:
    """Least score among a token and up to `reach` neighbours on each side in its text [N, X].

    SENTEE / TOKEE (Li et al., Accelerating BERT Inference for Sequence Labeling via Early-Exit,
    ACL 2021): a token leaves where the window around it is sure. Rows are tokens in order.
    """
    least = scores.copy()
    for step in range(1, min(reach, len(scores) - 1) + 1):
        same = sequence[step:, :1] == sequence[:-step, :1]
        least[step:] = np.where(same, np.minimum(least[step:], scores[:-step]), least[step:])
        least[:-step] = np.where(same, np.minimum(least[:-step], scores[step:]), least[:-step])
    return least
