"""The stages of an outer setting as operator tables, over live batches and a grid of lengths.

A stage is the embedding, one layer, an early exit's check, the last head, or the copy of the
sequences that stay into a smaller batch. What they cost is `layer_cost`'s business.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cost_models.candidates import working_set_bytes
from search_spaces.candidate import (
    DTYPES,
    GRANULARITY,
    POOLING,
    Candidate,
    keep_counts,
    layer_schedule,
    stack,
)
from search_spaces.lowering.encoder import (
    LayerShapes,
    lower_compaction,
    lower_entry,
    lower_exit_check,
    lower_layers,
)
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Stages = list[tuple[OpTable, tuple[int, ...]]]  # tables with the shape of their rows

FULL_GRID_LEN = 64  # up to this longest input every length is priced
GRID_POINTS = 24  # above it, this many lengths, with straight lines between them


def entering_share(reach: F64, batch: ArrayLike) -> F64:
    """Share of batches that enter each layer: a batch does when one of its samples does.

    The samples of a batch are taken as independent here; this enters nothing but how much of
    the weights is still in cache.

    Args:
        reach: Share of samples that enter each layer [..., L].
        batch: Samples of a batch, broadcasts.
    """
    share: F64 = 1.0 - (1.0 - np.clip(reach, 0.0, 1.0)) ** np.asarray(batch)
    return share


def layer_weight_bytes(outer: Candidate) -> F64:
    """Weights that one execution of each layer of an outer setting reads, bytes [L]."""
    L = outer.backbone.num_layers
    return working_set_bytes(stack([replace(outer, depth=L, exits=None)] * L), np.eye(L))


def length_grid(max_len: int) -> I64:
    """Lengths that are priced, ascending: all up to FULL_GRID_LEN, else GRID_POINTS of them."""
    if max_len <= FULL_GRID_LEN:
        return np.arange(1, max_len + 1)
    return np.unique(np.linspace(1, max_len, GRID_POINTS).round().astype(np.int64))


def stage_shapes(outer: Candidate, batch: int, grid: I64) -> tuple[LayerShapes, I64]:
    """Layers of an outer setting at every live batch 1..B and every length of the grid [G].

    Layers of one kind (same tokens in and out, same experts) stand there once.

    Returns:
        Shapes of the rows (U, B, G), flattened, and the kind 0..U-1 of each layer [L]. The
        kind stands in `layer`.
    """
    plan = layer_schedule(outer)
    traits = np.stack(
        [plan[name] for name in ("keep_before", "keep_rate", "num_experts", "top_k")], axis=1
    )
    kinds, layer_kind = np.unique(traits, axis=0, return_inverse=True)
    shape = (len(kinds), batch, grid.size)
    u, b, g = (x.ravel() for x in np.indices(shape))
    b, keep = b + 1, kinds[u, 1]
    n_in, n_ffn = keep_counts(grid[g], kinds[u, 0]), keep_counts(grid[g], keep)
    dtype = np.full(u.size, DTYPES.index(outer.dtype))
    experts = outer.moe.granularity if outer.moe else "sequence"
    shapes = LayerShapes(
        layer=u,
        n_in=n_in,
        n_ffn=n_ffn,
        batch=b,
        drops=keep < kinds[u, 0],
        num_experts=kinds[u, 2].astype(np.int64),
        top_k=kinds[u, 3].astype(np.int64),
        granularity=np.full(u.size, GRANULARITY.index(experts)),
        dtype=dtype,
    )
    return shapes, layer_kind.ravel()


def lower_stages(
    outer: Candidate, batch: int, grid: I64, num_classes: int, head: str
) -> tuple[Stages, I64]:
    """Operators of embed, layer, check, head, compact, each with the shape of its rows.

    Returns:
        The tables with their shapes, ([U,] B, G), and the kind 0..U-1 of each layer [L].
    """
    layers, layer_kind = stage_shapes(outer, batch, grid)
    shape = (int(layer_kind.max()) + 1, batch, grid.size)
    u, b, g = (x.ravel() for x in np.indices(shape))
    b, n_ffn, dtype = layers.batch, layers.n_ffn, layers.dtype
    first = u == 0
    net = outer.backbone
    heads = [
        lower_exit_check(
            net,
            layer=u,
            batch=b,
            n=n_ffn,
            dtype=dtype,
            num_classes=num_classes,
            head=head,
            check=check,
            pooling=POOLING.index(outer.pooling),
        )
        for check in (True, False)
    ]
    start = {"batch": b[first], "n": grid[g[first]], "dtype": dtype[first]}
    kept = keep_counts(grid[g[first]], layer_schedule(outer)["keep_before"][0])
    tables = [
        (lower_entry(net, kept=kept, **start), shape[1:]),
        (lower_layers(net, layers), shape),
        (heads[0], shape),
        (heads[1], shape),
        (lower_compaction(net, layer=u, remaining=b, n=n_ffn, dtype=dtype), shape),
    ]
    return tables, layer_kind


def length_weights(grid: I64, wanted: I64) -> F64:
    """Matrix [G, K] whose column k holds the weights of the grid points around wanted[k]."""
    weights = np.zeros((grid.size, wanted.size))
    right = np.clip(np.searchsorted(grid, wanted), 1, max(grid.size - 1, 1))
    left = right - 1
    columns = np.arange(wanted.size)
    if grid.size == 1:
        weights[0] = 1.0
        return weights
    share = (wanted - grid[left]) / (grid[right] - grid[left])
    weights[left, columns] = 1.0 - share
    weights[right, columns] += share
    return weights
