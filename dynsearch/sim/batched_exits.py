"""Expected time of batches whose samples leave at different depths, in closed form.

Samples of a batch are independent draws from a joint law of depth and length. At layer l the
batch has the shape of the b samples that were live at the last compaction before l, padded to the
longest of them, and the layer runs while one sample of the batch is live. With q_k the share of
samples that are live and have at most length k, and S that of all live ones,

    P(b live, none longer than k) = C(B, b) (1 - S)^(B - b) q_k^b,

so every shape has a binomial probability. A batch that never compacts is one that waits for its
last sample; then the deepest layer M has P(M <= l) = F(l)^B, F the distribution of depth. The
same batches are simulated sample by sample by `latencies`, which percentiles need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlogy

from dynsearch.sim.latencies import compaction_points, sample_latencies
from dynsearch.sim.layer_cost import StageTable
from search_spaces.errors import InputError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedBatches:
    """Means over batches of one workload under P policies on D devices."""

    batch_s: F64  # [D, P] start of a batch to its end
    latency_s: F64  # [D, P] start of a batch to a sample's own answer
    runs: F64  # [P, L] share of batches that run each layer
    rows: F64  # [P, L] samples computed per batch at each layer, those included that have left

    @property
    def depth(self) -> F64:
        """Layers that a batch runs [P]: E[M]."""
        depth: F64 = self.runs.sum(axis=-1)
        return depth


def oracle_exit(correct: Bool) -> I64:
    """0-based first layer whose exit is right; the last one where none is [..., N].

    Args:
        correct: Whether each exit is right [..., N, L].
    """
    last = correct.shape[-1] - 1
    first: I64 = np.where(correct.any(axis=-1), correct.argmax(axis=-1), last)
    return first


def depth_law(where: I64, num_layers: int, length: ArrayLike = 0, num_lengths: int = 1) -> F64:
    """Share of samples by the layer after which they leave, and by length [..., L, K].

    Args:
        where: 0-based layer after which each sample leaves [..., N].
        num_layers: L.
        length: Index of each sample's length, 0..K-1, broadcasts against `where`.
        num_lengths: K.
    """
    where, index = np.broadcast_arrays(where, np.asarray(length))
    cell = where * num_lengths + index
    size = num_layers * num_lengths
    rows = cell.reshape(-1, cell.shape[-1])
    start = np.arange(len(rows))[:, None] * size
    counts = np.bincount((rows + start).ravel(), minlength=len(rows) * size)
    shape = (*cell.shape[:-1], num_layers, num_lengths)
    law: F64 = counts.reshape(shape) / cell.shape[-1]
    return law


def affine_stages(
    layer: tuple[ArrayLike, ArrayLike],
    batch: int,
    *,
    check: tuple[ArrayLike, ArrayLike] = (0.0, 0.0),
    head: tuple[ArrayLike, ArrayLike] = (0.0, 0.0),
    compact: tuple[ArrayLike, ArrayLike] = (0.0, 0.0),
) -> StageTable:
    """Stages whose time is `fixed + per_sample * b`, of one length; embedding is free.

    Args:
        layer: Fixed and per-sample time of each layer, each [D, L], in any unit of time.
        batch: Largest live batch B.
        check: Of an early exit after each layer, each broadcasts to [D, L].
        head: Of the last head.
        compact: Of the copy of those that stay.
    """
    shape = np.broadcast_shapes(*(np.shape(x) for x in layer))
    live = np.arange(1, batch + 1)

    def stage(pair: tuple[ArrayLike, ArrayLike]) -> F64:
        fixed, each = (np.broadcast_to(np.asarray(x, np.float64), shape)[..., None] for x in pair)
        times: F64 = (fixed + each * live)[..., None]
        return times

    return StageTable(
        embed=np.zeros((shape[0], batch, 1)),
        layer=stage(layer),
        check=stage(check),
        head=stage(head),
        compact=stage(compact),
    )


def expected_batches(
    t: StageTable, law: F64, on: Bool, batch: int, *, wait: bool = False, period: int = 1
) -> ExpectedBatches:
    """Means over batches of independent samples.

    Args:
        t: Seconds at K lengths, ascending, for live batches of at least `batch`.
        law: Share of samples by layer of exit and by length [P, L, K], see `depth_law`.
        on: Early exits of each policy [P, L]; the last layer with a share has the final head.
        batch: B; 1 is serial execution.
        wait: Everyone waits for the last of the batch.
        period: Else the batch shrinks at every so many early exits.

    Raises:
        InputError: `t` knows no batch so large.
    """
    P, L, _ = law.shape
    if batch > t.layer.shape[2]:
        text = f"stages are priced for batches of up to {t.layer.shape[2]}"
        raise InputError.one("arguments", "batch", batch, text)
    shrinks = compaction_points(on, period) & (not wait)
    gone = np.cumsum(law, axis=1)
    everyone = law.sum(axis=1, keepdims=True)
    alive = np.concatenate([everyone, np.maximum(everyone - gone, 0.0)], axis=1).cumsum(axis=2)
    last = np.where(shrinks, np.arange(1, L + 1), 0)
    since = np.concatenate([np.zeros((P, 1), int), np.maximum.accumulate(last, axis=1)], axis=1)
    at = np.take_along_axis(alive, since[:, :L, None], axis=1)  # [P, L, K] live at the compaction
    final = L - 1 - (law.sum(axis=2) > 0)[:, ::-1].argmax(axis=1)
    ends = np.arange(L) == final[:, None]
    shape = _shape_probability(at, alive[:, :L], batch)
    start = _longest(_at_most(everyone.cumsum(axis=2)[:, 0], batch))[:, -1]  # [P, K]
    copies = shrinks[..., None, None] * _copy_probability(at, alive[:, 1:], batch)

    def priced(runs: F64, moves: F64) -> F64:
        """Seconds of stages that run, and copies that are made, so often [P, L, B, K]."""
        total = _priced(t.embed[:, batch - 1], start) + _priced(t.layer[:, :, :batch], runs)
        total += _priced(t.check[:, :, :batch], runs * on[..., None, None])
        total += _priced(t.head[:, :, :batch], runs * ends[..., None, None])
        return total + _priced(t.compact[:, :, :batch], moves)

    live = np.arange(1.0, batch + 1)
    latency_s = batch_s = priced(shape, copies)
    if not wait:
        waiting = _live_members(at, alive[:, :L], batch) / batch
        latency_s = priced(waiting, copies * live[:, None] / batch)
    rows = np.einsum("plbk,b->pl", shape, live)
    return ExpectedBatches(
        batch_s=batch_s, latency_s=latency_s, runs=shape.sum(axis=(2, 3)), rows=rows
    )


def _priced(table: F64, weight: F64) -> F64:
    """Sum of a stage's seconds [D, ...] times how often they are paid [P, ...], [D, P]."""
    seconds: F64 = table.reshape(len(table), -1) @ weight.reshape(len(weight), -1).T
    return seconds


def deepest_cdf(law: F64, batch: int) -> F64:
    """P(no sample of a batch goes deeper than layer l) [..., L]: F(l)^B.

    Args:
        law: Share of samples by the layer after which they leave [..., L].
        batch: Independent samples B.
    """
    cdf: F64 = np.minimum(np.cumsum(law, axis=-1), 1.0) ** batch
    return cdf


def draw_latencies(
    rng: np.random.Generator,
    t: StageTable,
    where: I64,
    on: Bool,
    batch: int,
    draws: int,
    *,
    length: I64 | None = None,
    wait: bool = False,
    period: int = 1,
) -> F64:
    """Latencies of samples in batches drawn with replacement from a trace [D, draws, B].

    Args:
        rng: Draws the samples.
        t: Seconds at the distinct lengths.
        where: 0-based layer after which each sample of the trace leaves [N].
        on: Early exits [L].
        batch: B.
        draws: Batches.
        length: Index of each sample's length [N]; None: all alike.
        wait: As in `expected_batches`.
        period: As there.
    """
    drawn = rng.integers(0, where.size, draws * batch)
    index = np.zeros(where.size, dtype=np.int64) if length is None else length
    batches = np.arange(drawn.size).reshape(draws, batch)
    found = sample_latencies(t, batches, index[drawn], where[drawn], on, wait=wait, period=period)
    return found.reshape(-1, draws, batch)


def _log_ways(batch: int) -> F64:
    """Logarithm of C(B, b) for b = 1..B [B, 1]."""
    b = np.arange(1, batch + 1)
    ways: F64 = gammaln(batch + 1) - gammaln(b + 1) - gammaln(batch - b + 1)
    return ways[:, None]


def _log_left(alive: F64, batch: int) -> F64:
    """Logarithm of (1 - S)^(B - b) [..., B, 1] from `alive` [..., K], whose last column is S."""
    b = np.arange(1, batch + 1)
    gone = np.maximum(1.0 - alive[..., -1:], 0.0)
    logs: F64 = xlogy(batch - b, gone)[..., None]
    return logs


def _at_most(alive: F64, batch: int, among: F64 | None = None) -> F64:
    """P(b live, none longer than k) [..., B, K], b = 1..B, from `alive` [..., K].

    `among` takes the place of what the b live ones must be: a share within the live ones.
    """
    b = np.arange(1, batch + 1)[:, None]
    inside = alive if among is None else among
    log_inside = xlogy(b, inside[..., None, :])
    chance: F64 = np.exp(_log_ways(batch) + _log_left(alive, batch) + log_inside)
    return chance


def _longest(at_most: NDArray[Any]) -> F64:
    """Probabilities of the longest being k from those of none being longer."""
    parts: F64 = np.diff(at_most, axis=-1, prepend=0.0)
    return parts


def _shape_probability(at: F64, now: F64, batch: int) -> F64:
    """P(shape b, longest k at the compaction, some sample live now) [..., B, K]."""
    left = np.maximum(at - now, 0.0)
    return _longest(_at_most(at, batch) - _at_most(at, batch, left))


def _copy_probability(at: F64, then: F64, batch: int) -> F64:
    """P(b live after the exit, longest k, some sample gone since the last compaction)."""
    return _longest(_at_most(then, batch) - _at_most(at, batch, then))


def _live_members(at: F64, now: F64, batch: int) -> F64:
    """E[live samples now; shape b, longest k at the compaction] [..., B, K]."""
    b = np.arange(1, batch + 1)[:, None]
    others = np.exp(_log_ways(batch) + _log_left(at, batch) + xlogy(b - 1, at[..., None, :]))
    return _longest(others * b * now[..., None, :])
