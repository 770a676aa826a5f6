"""Feed-forward networks cut into experts: routers, dispatch, and the experts that got work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.candidate import GRANULARITY, Backbone
from search_spaces.lowering.heads import require_encoder
from search_spaces.lowering.rows import FLOPS_GELU, FLOPS_SOFTMAX, Rows, as_ints, broadcast
from search_spaces.ops import COLLECTIVE, OpTable

if TYPE_CHECKING:
    from search_spaces.lowering.encoder import LayerShapes

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

_TOKEN = GRANULARITY.index("token")


def lower_expert_overheads(backbone: Backbone, shapes: LayerShapes) -> tuple[OpTable, OpTable]:
    """What the experts of R layers cost besides their own arithmetic; part of `lower_layers`.

    Args:
        backbone: Geometry; must be of type "encoder".
        shapes: What enters each layer, arrays [R].

    Returns:
        The operators of the routers with the host's wait for their choice, and those that bring
        rows to their experts and the answers back. `candidate` is the row of `shapes`.

    Raises:
        InputError: the backbone is not an encoder.
    """
    require_encoder(backbone)
    real: ArrayLike = 1.0
    if shapes.real_ffn is not None:
        real = shapes.real_ffn / as_ints(shapes.n_ffn)
    tables = []
    for part in (_router, _dispatch):
        rows = Rows(as_ints(shapes.layer), as_ints(shapes.dtype))
        part(rows, backbone, shapes, real)
        tables.append(rows.table())
    return tables[0], tables[1]


def expected_experts(num_experts: ArrayLike, top_k: ArrayLike, routed: ArrayLike) -> F64:
    """Expected number of experts that get work: E (1 - (1 - k/E)^T) (methods.md C5).

    Args:
        num_experts: E, any shape.
        top_k: k, broadcasts.
        routed: T, independently routed items (tokens or sequences), broadcasts.

    Returns:
        Float array of the broadcast shape, between k and E.
    """
    E = np.asarray(num_experts, dtype=np.float64)
    idle = 1.0 - np.asarray(top_k, dtype=np.float64) / E
    return E * (1.0 - idle ** np.asarray(routed, dtype=np.float64))


def add_expert_ffn(rows: Rows, backbone: Backbone, shapes: LayerShapes, real: ArrayLike) -> None:
    """Router, host synchronisation, dispatch and combine, and the experts that got work."""
    E = np.maximum(as_ints(shapes.num_experts), 1)
    split = E > 1
    if not split.any():
        return
    _router(rows, backbone, shapes, real)
    _dispatch(rows, backbone, shapes, real)
    k, batch, n = as_ints(shapes.top_k), as_ints(shapes.batch), as_ints(shapes.n_ffn)
    tokens = batch * n
    touched = np.maximum(expected_experts(E, k, _routed(shapes)), 1.0)
    asked = tokens * k / touched  # rows per expert before rounding
    m = np.maximum(np.floor(asked + 0.5), 1.0)
    width = backbone.ffn_size // E
    h = np.full_like(width, backbone.hidden_size)
    more: dict[str, Any] = {"count": touched, "real": np.asarray(real) * asked / m, "where": split}
    _expert_matrices(rows, m, h, width, up_projections(backbone), **more)


def add_experts(
    rows: Rows,
    backbone: Backbone,
    *,
    tokens: I64,
    hidden: I64,
    loaded: F64 | None,
    grouped: bool,
    where: Bool,
) -> None:
    """The experts of a backbone that has them: router, dispatch, loaded experts, weighted sum.

    Args:
        rows: Where the operators go; arrays below [R].
        backbone: States experts, how many a token sees, and their width.
        tokens: Tokens that enter the layer.
        hidden: Width of the layer.
        loaded: Experts that get tokens; None: expected of a fair router (`expected_experts`).
        grouped: One call for all experts, counted on the device; else one call per expert, and
            the host waits for the router.
        where: Rows that have experts.
    """
    E, k = backbone.num_experts, backbone.experts_per_token
    n = tokens.astype(np.float64)
    rows.matmul(tokens, hidden, np.full_like(hidden, E), bias=0, where=where)
    rows.values("reduce", tokens, E, moves=2, flops=FLOPS_SOFTMAX + 1, where=where)  # and top-k
    rows.add("host_sync", m=tokens, where=where & (not grouped))
    rows.values("gather", tokens * k, hidden, moves=2, flops=0, where=where)
    fair = expected_experts(E, k, tokens) if loaded is None else np.asarray(loaded, np.float64)
    touched = np.maximum(fair, 1.0)
    batch = np.maximum(np.floor(touched + 0.5), 1.0) if grouped else np.ones_like(touched)
    asked = n * k / (batch if grouped else touched)
    m = np.maximum(np.floor(asked + 0.5), 1.0)
    more: dict[str, Any] = {"batch": batch, "real": np.minimum(asked / m, 1.0), "where": where}
    more["count"] = 1.0 if grouped else touched
    bias = backbone.biases in ("all", "no_key")
    width = np.full_like(hidden, backbone.expert_width)
    _expert_matrices(rows, m, hidden, width, backbone.up_projections, bias=bias, **more)
    rows.values("reduce", tokens * hidden, k, moves=1, flops=2, where=where)


def _expert_matrices(
    rows: Rows, m: F64, h: I64, width: I64, up: int, *, bias: bool = True, **more: Any
) -> None:
    """Up, activation and down of `batch` experts of m rows each."""
    _expert_matmul(rows, m, h, up * width, bias=bias, **more)
    every = m * more.get("batch", 1.0)
    same = {name: value for name, value in more.items() if name != "batch"}
    rows.values("elementwise", every, width, moves=up + 1, flops=FLOPS_GELU, **same)
    _expert_matmul(rows, m, width, h, bias=bias, **more)


def _by_token(shapes: LayerShapes) -> Bool:
    """Layers whose experts take single tokens [R]."""
    by_token: Bool = as_ints(shapes.granularity) == _TOKEN
    return by_token & (as_ints(shapes.num_experts) > 1)


def _routed(shapes: LayerShapes) -> I64:
    """Tokens or sequences that the router sends [R]."""
    batch = as_ints(shapes.batch)
    return np.where(_by_token(shapes), batch * as_ints(shapes.n_ffn), batch)


def _router(rows: Rows, backbone: Backbone, shapes: LayerShapes, real: ArrayLike) -> None:
    """Scores of all experts, their softmax, and the host's wait for the choice."""
    E = np.maximum(as_ints(shapes.num_experts), 1)
    split, by_token, h = E > 1, _by_token(shapes), backbone.hidden_size
    batch, n, routed = as_ints(shapes.batch), as_ints(shapes.n_ffn), _routed(shapes)
    rows.values("reduce", batch * h, n, moves=1, flops=2, real=real, where=split & ~by_token)
    rows.add(
        "matmul",
        m=routed,
        k=h,
        n=E,
        weights=h * E,
        activations=routed * (h + E),
        executed=2.0 * routed * h * E,
        real=np.where(by_token, real, 1.0),
        where=split,
    )
    rows.values("reduce", routed, E, moves=2, flops=FLOPS_SOFTMAX, where=split)
    rows.add("host_sync", m=routed, where=split)


def _dispatch(rows: Rows, backbone: Backbone, shapes: LayerShapes, real: ArrayLike) -> None:
    """What brings rows to their experts and the answers back, and adds the k answers of a row.

    Rows are sorted by expert, computed in stretches, joined and looked up again: two gathers and
    a copy of `tokens k` rows. A lone sequence goes to its experts whole. Tokens of a batch leave
    their padding behind first and get it back afterwards: two gathers more.
    """
    k, batch = as_ints(shapes.top_k), as_ints(shapes.batch)
    split, by_token = as_ints(shapes.num_experts) > 1, _by_token(shapes)
    tokens = batch * as_ints(shapes.n_ffn)
    h, asked = backbone.hidden_size, tokens * k
    sorted_rows = by_token | (split & (batch > 1))
    several = sorted_rows & (k > 1)
    rows.values("gather", asked, h, moves=2, flops=0, count=2.0, where=sorted_rows)
    rows.values("elementwise", asked, h, moves=2, flops=0, where=sorted_rows)
    rows.values("reduce", tokens * h, k, moves=1, flops=1, where=several)
    rows.values("elementwise", tokens, h, moves=2, flops=1, where=sorted_rows)
    rows.values("elementwise", tokens, h, moves=3, flops=1, count=k, where=split & ~sorted_rows)
    unpadded = by_token & (batch > 1)
    rows.values("gather", tokens, h, moves=2, flops=0, count=2.0, where=unpadded)


def _expert_matmul(
    rows: Rows, m: F64, k: I64, n: I64, *, bias: bool, batch: ArrayLike = 1.0, **more: Any
) -> None:
    experts = np.asarray(batch, dtype=np.float64)
    rows.add(
        "grouped_matmul",
        m=m,
        k=k,
        n=n,
        batch=experts,
        weights=experts * (k * n + n * bias),
        activations=experts * m * (k + n),
        executed=2.0 * experts * m * k * n,
        body=True,
        **more,
    )


def up_projections(backbone: Backbone) -> int:
    """Matmuls that lead into the feed-forward network."""
    return backbone.up_projections


def lower_exchange(
    backbone: Backbone,
    *,
    tokens: ArrayLike,
    ranks: ArrayLike,
    dtype: ArrayLike,
    layer: ArrayLike = 0,
    low_latency: bool = False,
) -> OpTable:
    """Tokens that travel to the ranks of their experts, and the answers back.

    Args:
        backbone: States how many experts a token sees.
        tokens: Tokens on one rank [R].
        ranks: Devices that the experts are spread over [R].
        dtype: Index into DTYPES [R] of what flows between operators.
        layer: 0-based layer [R].
        low_latency: Kernels for few tokens, one copy per chosen expert; else those for many.

    Returns:
        A dispatch and a combine per row, as `search_spaces.ops.COLLECTIVES` counts their bytes.
    """
    n, places, types, layers = broadcast(tokens, ranks, dtype, layer)
    rows = Rows(layers, types)
    tail = "_low_latency" if low_latency else ""
    h = float(backbone.hidden_size)
    for name in (f"dispatch{tail}", f"combine{tail}"):
        rows.add(
            "collective",
            m=np.rint(n * h * rows.width).astype(np.int64),
            k=COLLECTIVE[name],
            n=places,
            batch=backbone.experts_per_token,
            weights=h,
            where=places > 1,
        )
    return rows.table()
