"""What a device is asked to do: batch size, lengths, order of arrival, threads, runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SORT_WINDOW = 256  # "sorted" = sorted by length inside windows of this many samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How inputs arrive. A candidate does not know it; the job does."""

    batch: int = 1
    max_len: int = 64  # tokens, [CLS] and [SEP] included; longer texts are cut
    sort: bool = False  # batches are formed after sorting by length in windows of 256
    threads: int = 1
    runtime: str = "torch"
    arrivals: str = "closed"  # closed: the next batch starts when the last has ended
    arrival_rate_per_s: float | None = None

    def at_batch(self, batch: int) -> Workload:
        """The same at another batch size, above 1 sorted by length."""
        return replace(self, batch=batch, sort=batch > 1)


def batch_order(lengths: NDArray[Any], *, batch: int, sort: bool) -> NDArray[np.int64]:
    """Row numbers in the order in which samples are put into batches, [N].

    Args:
        lengths: Unpadded token counts [N].
        batch: Samples per batch; the last one may be smaller.
        sort: Sort by length (stable) inside windows of `SORT_WINDOW` rows.
    """
    n = int(np.asarray(lengths).shape[0])
    order = np.arange(n, dtype=np.int64)
    if not sort or batch == 1:
        return order
    for start in range(0, n, SORT_WINDOW):
        window = order[start : start + SORT_WINDOW]
        order[start : start + SORT_WINDOW] = window[
            np.argsort(np.asarray(lengths)[window], kind="stable")
        ]
    return order
