"""Where each sample's bit stands, so that sets of samples are bytes and words.

Samples are put into groups (a batch, or all samples of one length); a group starts at a byte.
Sets of samples are uint8 arrays [..., num_bytes], little bit order; the number of bytes is a
multiple of 8, so they can be viewed as 64-bit words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.workload import batch_order

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

_PACK_BYTES = 1 << 24  # compare at most this many (set, bit) pairs at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Bit positions of N samples. Equal groups of `group_bytes` bytes, or uneven ones (0)."""

    slot: I64  # [N] bit of each sample
    num_bytes: int  # multiple of 8, padding included
    num_groups: int
    group_bytes: int  # bytes per group; 0 where groups differ

    def spread(self, values: NDArray[Any], fill: float = 0) -> NDArray[Any]:
        """Values per sample [..., N] put at their bits [..., 8 * num_bytes]."""
        out = np.full((*values.shape[:-1], 8 * self.num_bytes), fill, dtype=values.dtype)
        out[..., self.slot] = values
        return out

    def pack(self, member: NDArray[np.bool_]) -> U8:
        """Sets [..., num_bytes] from membership per sample [..., N]."""
        return np.packbits(self.spread(member), axis=-1, bitorder="little")

    def below(self, position: NDArray[np.int32], cuts: I64) -> U8:
        """For each cut [U], the set of samples with `position < cut`, [U, num_bytes].

        Args:
            position: Per sample [N].
            cuts: Any integers up to N.
        """
        bits = self.spread(position, fill=np.iinfo(np.int32).max)
        out = np.empty((cuts.size, self.num_bytes), dtype=np.uint8)
        step = max(1, _PACK_BYTES // bits.size)
        for start in range(0, cuts.size, step):
            part = cuts[start : start + step, None]
            out[start : start + step] = np.packbits(bits < part, axis=-1, bitorder="little")
        return out


def batch_layout(lengths: ArrayLike, *, batch: int, sort: bool) -> Layout:
    """One group a batch; inside it samples stand in ascending length, ties in arrival order.

    Args:
        lengths: Unpadded token counts [N].
        batch: Samples per batch; the last one may be smaller.
        sort: Form batches after sorting inside windows (`search_spaces.workload.batch_order`).
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = batch_order(lengths, batch=batch, sort=sort)
    size, n = -(-batch // 8), lengths.size
    place = np.arange(n)
    by_length = np.lexsort((place, lengths[order], place // batch))
    slot = np.empty(n, dtype=np.int64)
    slot[order[by_length]] = place // batch * size * 8 + place % batch
    groups = -(-n // batch)
    return Layout(slot=slot, num_bytes=_words(groups * size), num_groups=groups, group_bytes=size)


def class_layout(classes: ArrayLike) -> Layout:
    """One group a class, in ascending class; samples in arrival order inside.

    Args:
        classes: Class of each sample, 0..K-1 [N].
    """
    classes = np.asarray(classes, dtype=np.int64)
    sizes = np.bincount(classes)
    starts = np.concatenate([[0], np.cumsum(-(-sizes // 8))])
    order = np.argsort(classes, kind="stable")
    first = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    slot = np.empty(classes.size, dtype=np.int64)
    slot[order] = starts[classes[order]] * 8 + np.arange(classes.size) - first[classes[order]]
    return Layout(
        slot=slot, num_bytes=_words(int(starts[-1])), num_groups=sizes.size, group_bytes=0
    )


def _words(num_bytes: int) -> int:
    return -(-num_bytes // 8) * 8
