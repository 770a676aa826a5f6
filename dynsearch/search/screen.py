"""What cannot be within a budget is not worth a forward pass.

Whatever policy the inner search finds for an outer setting, it costs at least as much latency and
memory as the shallowest depth that the space allows, with no earlier exit. If the lower end of
that cost's interval breaks a budget on every device, the pass is not run. Passing proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dynsearch.search.types import F64
from search_spaces.candidate import Candidate, apply_policy, static_policies

# Lower ends of the cost intervals of B candidates: by device, by budgeted cost, [B] in SI units.
# A cost that is left out is not screened.
LowerBound = Callable[[Sequence[Candidate]], Mapping[str, Mapping[str, F64]]]


def shallowest(outer: Candidate, min_depth: int) -> Candidate:
    """The candidate cut to `min_depth` layers, with no exit before the last."""
    policy = static_policies(
        [min_depth], num_layers=outer.backbone.num_layers, exit_batching=outer.exit_batching
    )
    return apply_policy(outer, policy, 0)


def hopeless(
    outer: Sequence[Candidate],
    *,
    lower_bound: LowerBound,
    budgets: Mapping[str, Mapping[str, float]],
    min_depth: int,
) -> NDArray[np.bool_]:
    """Which outer settings break a budget on every device, whatever their policy.

    Args:
        outer: B candidates; their own depth and exits do not matter.
        lower_bound: Prices the shallowest candidates.
        budgets: Limit by device and cost, SI units.
        min_depth: Shallowest depth that the space allows, 1-based.

    Returns:
        [B], True where the pass would be wasted.
    """
    bounds = lower_bound([shallowest(candidate, min_depth) for candidate in outer])
    broken = np.full(len(outer), bool(bounds))
    for device, costs in bounds.items():
        here = np.zeros(len(outer), dtype=bool)
        for name, limit in budgets[device].items():
            if name in costs:
                here |= np.asarray(costs[name]) > limit
        broken &= here
    return broken


def make_screen(
    *, lower_bound: LowerBound, budgets: Mapping[str, Mapping[str, float]], min_depth: int
) -> Callable[[Sequence[Candidate]], NDArray[np.bool_]]:
    """`hopeless` with everything but the candidates filled in, as the sampler's gate wants it."""

    def screen(outer: Sequence[Candidate]) -> NDArray[np.bool_]:
        return hopeless(outer, lower_bound=lower_bound, budgets=budgets, min_depth=min_depth)

    return screen
