"""Size of a nested prediction set.

Early-exit neural networks with nested prediction sets (Jazbec et al., UAI 2024). The set of exit l
is C_l = {y: prod_{j <= l} p_jy / pi_jy <= 1 / a}, intersected with the sets before it, where
p_j = alpha_j / sum alpha_j is the mean and pi_j one draw of a Dirichlet distribution with
alpha_j = max(logit - t_j, 0). A sample leaves where the set has at most s classes (that rule is
ours): the score is minus the size, the threshold -s.

A class without evidence (alpha = 0) is in no set. An empty set is a warning sign, not certainty:
it scores below every set and leaves at the last exit. The draws use the same random numbers for
all samples, as one draw of weights would, so that a sample's set does not depend on batch mates.
"""

from __future__ import annotations

import numpy as np

from search_spaces.exits.base import F64, Evidence, ExitCriterion
from search_spaces.parts import Exits

_PROPOSALS = 24  # each is accepted with probability above 0.95
_SEED = 20240613


def trail(exits: Exits, seen: Evidence) -> F64:
    """Minus the classes in the set, [N, X]; -(C + 1) where it is empty."""
    floors = np.asarray(exits.set_floors or (0.0,) * seen.layers.size)
    size = nested_sets(seen.logits, seen.layers, floors, exits.set_level or 0.05).sum(axis=-1)
    score: F64 = np.where(size > 0, -size, -(seen.logits.shape[-1] + 1)).astype(np.float64)
    return score


def nested_sets(logits: F64, layers: np.ndarray, floors: F64, level: float) -> np.ndarray:
    """Membership of each class in each exit's set [N, X, C].

    Args:
        logits: [N, X, C].
        layers: [X], which choose the random numbers, so that an exit's draw is its own.
        floors: t_j [X].
        level: a; the sets cover the label at all exits at once with probability 1 - a, as far as
            the model is right.
    """
    alpha = np.maximum(logits - floors[:, None], 0.0)
    member = np.zeros(logits.shape, dtype=bool)
    log_ratio = np.zeros(logits[..., 0, :].shape)
    inside = np.ones(log_ratio.shape, dtype=bool)
    for x, layer in enumerate(layers):
        some = alpha[..., x, :] > 0.0
        a = np.where(some, alpha[..., x, :], 1.0)
        log_draw = np.where(some, log_gamma_draw(a, int(layer)), -np.inf)
        log_mean = np.log(a)
        log_mean -= _log_sum(np.where(some, log_mean, -np.inf))
        log_draw = np.where(some, log_draw - _log_sum(log_draw), 0.0)
        log_ratio = log_ratio + log_mean - log_draw
        inside &= some & (log_ratio <= -np.log(level))
        member[..., x, :] = inside
    return member


def log_gamma_draw(shape: F64, layer: int) -> F64:
    """Ln of a Gamma(shape, 1) variate for each entry [..., C], by Marsaglia and Tsang (2000).

    Gamma(a) = Gamma(a + 1) U^(1/a); with d = a + 2/3, c = 1 / sqrt(9 d) a proposal
    v = (1 + c x)^3 is accepted where ln u < x^2 / 2 + d - d v + d ln v, and d v is the variate.
    """
    rng = np.random.default_rng([_SEED, layer])
    classes = shape.shape[-1]
    boost = np.log(rng.random(classes))
    d = shape + 2.0 / 3.0
    drawn = np.zeros(shape.shape)
    waiting = np.ones(shape.shape, dtype=bool)
    for _ in range(_PROPOSALS):
        x, log_u = rng.standard_normal(classes), np.log(rng.random(classes))
        v = (1.0 + x / np.sqrt(9.0 * d)) ** 3
        log_v = np.log(np.maximum(v, np.finfo(np.float64).tiny))
        taken = waiting & (v > 0.0) & (log_u < 0.5 * x**2 + d - d * v + d * log_v)
        drawn = np.where(taken, log_v, drawn)
        waiting &= ~taken
    variate: F64 = np.log(d) + drawn + boost / shape
    return variate


def _log_sum(values: F64) -> F64:
    """Ln sum exp over the last axis, kept; 0 where nothing is finite."""
    highest = values.max(axis=-1, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    total = np.exp(values - highest).sum(axis=-1, keepdims=True)
    logs: F64 = highest + np.log(np.where(total > 0.0, total, 1.0))
    return logs


CRITERION = ExitCriterion(
    kind="prediction_set",
    trail=trail,
    always_exits_at=lambda num_classes: -float(num_classes),
    highest=-1.0,
    fields={"set_level": 0.05, "set_floors": ()},
)
