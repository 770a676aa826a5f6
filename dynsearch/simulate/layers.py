"""One layer of any stack at many shapes -> operators: its skim, attention, network or experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.simulate.experts import ExpertPlan, Loads, plan_of, touched, with_loads
from dynsearch.simulate.texts import fixed_amounts, skims_of
from search_spaces.backbone import Backbone
from search_spaces.candidate import DTYPES, GRANULARITY, Candidate, stack_depth
from search_spaces.lowering.encoder import LayerShapes, lower_layers
from search_spaces.lowering.experts import lower_exchange
from search_spaces.lowering.heads import lower_token_choice
from search_spaces.lowering.rows import Rows
from search_spaces.lowering.skimmed import chooses, ranks, scores
from search_spaces.lowering.stacks import CallShapes, lower_skipped_kv, lower_stack
from search_spaces.ops import OpTable

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """What layers of one kind have in common, whatever enters them."""

    experts: ExpertPlan | None = None
    ranks: bool = False  # tokens are ranked by the attention that they receive
    chooses: bool = False  # a router, a gate or a learned score decides about each token
    scored: bool = False
    known: bool = False  # how many it leaves is known beforehand
    before: bool = False  # the layer
    returns: bool = False  # skipped tokens keep their places
    copies: bool = False  # they are attended to through a copy of their state
    lookup: int = 0  # n-grams whose stored states stand for the layer
    restores: bool = False  # dropped tokens come back behind it
    gate_width: int = 0  # of a hidden layer of the gate


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRows:
    """R executions of a layer, arrays [R]; tokens are those of each sequence."""

    batch: I64
    alive: I64
    entering: I64
    asking: I64
    ffn: I64
    cached: I64  # in a decoder's cache before
    source: I64  # states of an encoder

    def __len__(self) -> int:
        return int(self.batch.size)


def kinds_of(
    candidate: Candidate,
    stack: str,
    *,
    linked: bool,
    popularity: Mapping[int, tuple[float, ...]] | None = None,
) -> list[LayerKind]:
    """The kind of every layer of a stack up to its depth.

    Args:
        candidate: Any.
        stack: "encoder" or "decoder".
        linked: As `experts.plan_of`.
        popularity: Of the experts of a 0-based layer, where a trace tells.
    """
    depth = stack_depth(candidate, stack)
    skims = skims_of(candidate, stack)
    last_restores = any(s.restore == "last_layer" for s in skims)
    kinds = []
    for layer in range(depth):
        here = [s for s in skims if layer + 1 in s.layers]
        learned = [s for s in here if chooses(s)]
        plan = plan_of(candidate, stack, layer, linked=linked)
        shares = (popularity or {}).get(layer, ())
        if plan is not None and len(shares) == plan.num_experts:
            plan = replace(plan, popularity=shares)
        kinds.append(
            LayerKind(
                experts=plan,
                ranks=any(ranks(s) for s in here),
                chooses=bool(learned),
                scored=any(scores(s) for s in learned),
                known=all(fixed_amounts(s) and s.skipped == "drop" for s in learned),
                before=any(s.point == "before_layer" for s in learned),
                returns=any(s.skipped != "drop" for s in learned),
                copies=any(s.skipped == "copy_state" for s in here),
                lookup=max((s.lookup_order or 0 for s in here), default=0),
                restores=last_restores and layer == depth - 1,
                gate_width=max((s.gate_width or 0 for s in learned), default=0),
            )
        )
    return kinds


def lower_kind(
    candidate: Candidate,
    stack: str,
    kind: LayerKind,
    rows: LayerRows,
    *,
    grouped: bool,
    loads: Loads | None = None,
) -> OpTable:
    """Operators of R executions of layers of one kind.

    Args:
        candidate: Its backbone and number format.
        stack: "encoder" or "decoder".
        kind: Of the layers.
        rows: What enters.
        grouped: Whether one call serves all experts of a layer.
        loads: Of its experts.

    Returns:
        Table whose `candidate` is the row.
    """
    backbone = candidate.backbone
    dtype = np.full(len(rows), DTYPES.index(candidate.dtype))
    zero = np.zeros(len(rows), dtype=np.int64)
    own = backbone.stacks()[-1 if stack == "decoder" else 0]
    if kind.lookup:
        found = Rows(zero, dtype)
        found.values(
            "gather", rows.batch * rows.alive, own.hidden, moves=2, flops=1, count=kind.lookup
        )
        return found.table()
    parts = [
        _attention(backbone, stack, kind, rows, dtype),
        _network(backbone, stack, kind, rows, dtype, grouped=grouped, loads=loads),
    ]
    if kind.chooses:
        parts.append(
            lower_token_choice(
                backbone,
                layer=zero,
                batch=rows.batch,
                n=rows.alive,
                kept=_chosen(kind, rows),
                dtype=dtype,
                scored=kind.scored,
                hidden=kind.gate_width,
                restores=kind.returns,
                known=kind.known,
            )
        )
    if kind.copies and stack == "decoder" and (rows.entering > rows.asking).any():
        left = replace(_calls(rows, dtype), queries=np.maximum(rows.entering - rows.asking, 1))
        parts.append(lower_skipped_kv(backbone, left))
    if kind.restores:
        back = Rows(zero, dtype)
        back.values("gather", rows.batch * rows.alive, own.hidden, moves=2, flops=0)
        parts.append(back.table())
    return OpTable.concat(parts)


def _chosen(kind: LayerKind, rows: LayerRows) -> I64:
    """Tokens that a choice lets through, of each sequence."""
    if kind.returns:
        return np.maximum(rows.asking, rows.ffn)
    return rows.entering if kind.before else rows.ffn


def _attention(
    backbone: Backbone, stack: str, kind: LayerKind, rows: LayerRows, dtype: I64
) -> OpTable:
    if backbone.type == "encoder":
        shapes = _shapes(rows, rows.asking, dtype, ranks=kind.ranks)
        return lower_layers(replace(backbone, num_experts=1), shapes, part="attention")
    plain = replace(backbone, num_experts=1, num_shared_experts=0)
    return lower_stack(plain, _calls(rows, dtype), is_decoder=stack == "decoder", part="attention")


def _network(
    backbone: Backbone,
    stack: str,
    kind: LayerKind,
    rows: LayerRows,
    dtype: I64,
    *,
    grouped: bool,
    loads: Loads | None,
) -> OpTable:
    plan = kind.experts
    if backbone.type == "encoder" and (plan is None or plan.eager):
        shapes = _shapes(rows, rows.ffn, dtype, plan=plan)
        return lower_layers(replace(backbone, num_experts=1), shapes, part="ffn")
    calls = replace(_calls(rows, dtype), queries=rows.ffn, cached=np.zeros_like(rows.ffn))
    is_decoder = stack == "decoder"
    if plan is None:
        plain = replace(backbone, num_experts=1, num_shared_experts=0)
        return lower_stack(plain, calls, is_decoder=is_decoder, part="ffn")
    tokens = rows.batch * rows.ffn
    net = plan.backbone(backbone)
    work = touched(plan, tokens if plan.by_token else rows.batch)
    calls = replace(calls, loaded_experts=work)
    table = lower_stack(net, calls, is_decoder=is_decoder, grouped=grouped, part="ffn")
    most = 1.0 if loads is None else loads.busiest_rank
    table = with_loads(table, plan, tokens, most, 0.0 if loads is None else loads.dropped)
    if plan.ranks == 1:
        return table
    each = np.maximum(tokens // plan.ranks, 1)
    exchange = lower_exchange(net, tokens=each, ranks=plan.ranks, dtype=dtype)
    return OpTable.concat([table, exchange])


def _shapes(
    rows: LayerRows,
    through: I64,
    dtype: I64,
    *,
    ranks: bool = False,
    plan: ExpertPlan | None = None,
) -> LayerShapes:
    one = np.ones(len(rows), dtype=np.int64)
    by_token = plan is not None and plan.by_token
    return LayerShapes(
        layer=np.zeros_like(one),
        n_in=rows.entering,
        n_ffn=through,
        batch=rows.batch,
        drops=(through < rows.entering) & ranks,
        num_experts=one if plan is None else one * plan.num_experts,
        top_k=one if plan is None else one * plan.top_k,
        granularity=one * GRANULARITY.index("token" if by_token else "sequence"),
        dtype=dtype,
        queries=rows.asking,
    )


def _calls(rows: LayerRows, dtype: I64) -> CallShapes:
    return CallShapes(
        layer=np.zeros_like(rows.batch),
        batch=rows.batch,
        queries=rows.asking,
        cached=rows.cached + rows.entering - rows.asking,
        dtype=dtype,
        source=rows.source,
    )
