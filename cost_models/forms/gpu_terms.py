"""What the formulas of the GPU form share: one operator's parts, waves, and the soft maximum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models.forms import Terms
from cost_models.forms.gpu_parameters import NORM

F64 = NDArray[np.float64]
Read = Callable[[str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a formula needs of a device besides parameters."""

    peak: float  # FLOP/s of the operators' type
    bandwidth: float  # bytes/s
    units: float
    l2_bytes: float  # 0 where the device states none


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Seconds of R operators: `fixed` + `body`, the body never below `busy`."""

    fixed: F64  # [R]
    body: F64  # [R] arithmetic and traffic, overlapped
    busy: F64  # [R] arithmetic of the tiles that there are
    whole: F64  # [R] arithmetic of large operators


def soft_max(*times: F64) -> F64:
    """(sum t^NORM)^(1/NORM), NORM = 4."""
    return np.asarray(np.sqrt(np.sqrt(sum(t * t * t * t for t in times))))


def waves(x: F64, whole: float) -> F64:
    """Waves that x tiles a multiprocessor take: whole ones with weight `whole`, else a share.

    A last wave that is not full is lost only in part: its tiles run faster, or start while the
    wave before ends.
    """
    return np.asarray(whole * np.ceil(x) + (1 - whole) * np.maximum(x, 1.0))


def missed(facts: Facts, share: float, working_set: F64 | None) -> F64:
    """Share of bytes that a repeated operator reads from memory; 1 where it runs cold."""
    if working_set is None or facts.l2_bytes <= 0 or share <= 0:
        return np.asarray(1.0)
    kept = share * facts.l2_bytes / np.maximum(working_set, 1e-300)
    return np.asarray(1.0 / (1.0 + np.minimum(kept, 1e100) ** 2))


def told_apart(parts: Parts, weight_bytes: F64, activation_bytes: F64) -> Terms:
    """The parts as `Terms`; traffic counts as far as arithmetic does not hide it."""
    moved = weight_bytes + activation_bytes
    seen = np.maximum(parts.body - parts.busy, 0.0) / np.where(moved > 0, moved, 1.0)
    weights, activations = weight_bytes * seen, activation_bytes * seen
    arithmetic = np.minimum(parts.whole, parts.body - weights - activations)
    return Terms(
        parts.fixed,
        weights,
        activations,
        np.maximum(arithmetic, 0.0),
        parts.body - weights - activations - np.maximum(arithmetic, 0.0),
    )


assert NORM == 4.0, "soft_max takes fourth roots"
