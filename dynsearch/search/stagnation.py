"""When more passes are not worth it: the hypervolume of all fronts together stands still."""

from __future__ import annotations

from collections.abc import Sequence

from dynsearch.export.records import HypervolumeStep

LEAST_GAIN = 1e-3  # growth, as a share of the hypervolume, below which it stands still


def stands_still(history: Sequence[HypervolumeStep], patience: int | None) -> bool:
    """Whether the last `patience` passes together added less than `LEAST_GAIN`.

    Args:
        history: Hypervolume after each pass, of the union of all fronts, mean over devices; what
            was reused from another run is no pass.
        patience: Passes; None: a search is never called off.
    """
    means = list({step.passes: step.mean for step in history}.values())
    if patience is None or len(means) <= patience:
        return False
    return means[-1] <= means[-1 - patience] * (1.0 + LEAST_GAIN)
