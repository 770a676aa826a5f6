"""Stages of a classifying stack over live batches and classes of texts, priced: a `StageTable`.

The axis that stage tables have for devices holds the four costs of `ledger`; lengths are classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models.device import Device
from cost_models.price import call_overhead_s
from dynsearch.sim.layer_cost import StageTable
from dynsearch.sim.stages import entering_share
from dynsearch.simulate.experts import Loads
from dynsearch.simulate.layers import LayerKind, LayerRows, lower_kind
from dynsearch.simulate.ledger import QUANTITIES, SECONDS, Ledger, Prices
from dynsearch.simulate.texts import Texts, skims_of
from search_spaces.backbone import Backbone
from search_spaces.candidate import DTYPES, POOLING, Candidate, stack_depth
from search_spaces.exits import exit_criterion
from search_spaces.lowering.exit_heads import lower_head, lower_state_check
from search_spaces.lowering.expected import STATE_SCORES
from search_spaces.lowering.heads import HEADS, lower_compaction, lower_embedding, lower_exit_check
from search_spaces.lowering.language import lower_input, lower_token_embedding
from search_spaces.lowering.rows import Rows
from search_spaces.lowering.skimmed import Work
from search_spaces.lowering.stacks import CallShapes, lower_cross_keys
from search_spaces.ops import OpTable
from search_spaces.parts import Exits
from search_spaces.vocabulary import LM_HEADS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

ROOM = 40_000  # shapes that are priced at most; fewer classes of texts beyond it


@dataclass(frozen=True, slots=True, kw_only=True)
class StackCost:
    """Stages of one stack on one device."""

    table: StageTable  # [4, ...]
    prices: Prices


def grouped_calls(device: Device) -> bool:
    """Whether the runtimes of a device serve all experts of a layer by one call."""
    return device.kind in ("gpu", "tpu")


def layer_values(
    ledger: Ledger,
    candidate: Candidate,
    stack: str,
    work: Work,
    batch: I64,
    *,
    kinds: Sequence[LayerKind],
    grouped: bool,
    loads: Mapping[int, Loads],
    cached: I64 | int = 0,
    source: int = 0,
) -> list[I64]:
    """Every layer of a stack at R shapes, each distinct shape of a kind once in the ledger.

    Args:
        ledger: Where stages go.
        candidate: Any.
        stack: "encoder" or "decoder".
        work: Of R calls, each [R, L].
        batch: Sequences of each call [R].
        kinds: Of the layers [L].
        grouped: As `layers.lower_kind`.
        loads: By layer.
        cached: Tokens in a decoder's cache before, of each layer [L] or all.
        source: States of an encoder that it reads.

    Returns:
        For each layer the numbers [R] of its stages.
    """
    found = [np.zeros(0, dtype=np.int64)] * len(kinds)
    held = np.broadcast_to(cached, len(kinds))
    groups: dict[LayerKind, list[int]] = {}
    for layer, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(layer)
    columns = (work.alive, work.entering, work.asking, work.ffn)
    for kind, layers in groups.items():
        shapes = np.concatenate(
            [
                np.stack(
                    [
                        np.full_like(batch, held[layer]),
                        *(np.maximum(c, 1) for c in (batch, *(c[:, layer] for c in columns))),
                    ],
                    axis=1,
                )
                for layer in layers
            ]
        )
        distinct, index = np.unique(shapes, axis=0, return_inverse=True)
        before, b, alive, entering, asking, ffn = distinct.T
        rows = LayerRows(
            batch=b,
            alive=alive,
            entering=entering,
            asking=asking,
            ffn=ffn,
            cached=before,
            source=np.full_like(b, source),
        )
        table = lower_kind(
            candidate, stack, kind, rows, grouped=grouped, loads=loads.get(layers[0])
        )
        start = ledger.add(table, len(rows)).start
        for layer, part in zip(layers, np.split(index.ravel(), len(layers)), strict=True):
            found[layer] = part + start
    return found


def stack_cost(
    candidate: Candidate,
    texts: Texts,
    *,
    device: Device,
    batch: int,
    threads: int,
    num_classes: int,
    reach: F64,
    kinds: Sequence[LayerKind],
    loads: Mapping[int, Loads],
    stack: str = "encoder",
    heads: bool = True,
) -> StackCost:
    """Price embedding, layers, checks, last head and compaction.

    Args:
        candidate: Its backbone has such a stack.
        texts: K classes; the last one is the longest input.
        device: Any.
        batch: Live batches of 1 to this many.
        threads: Of the runtime.
        num_classes: Of every head.
        reach: Share of samples that enter each layer [L], for what stays in cache.
        kinds: Of the layers [L].
        loads: By layer.
        stack: Which stack.
        heads: Whether answers are given and exits checked.
    """
    K, L = texts.work.alive.shape
    live, classes = (x.ravel() for x in np.indices((batch, K)))
    live = live + 1
    work = _laid_out(candidate, stack, texts, live, classes)
    ledger = Ledger()
    places = layer_values(
        ledger,
        candidate,
        stack,
        work,
        live,
        kinds=kinds,
        grouped=grouped_calls(device),
        loads=loads,
    )
    dtype = np.full(live.size, DTYPES.index(candidate.dtype))
    first = texts.longest[classes]
    embed = ledger.add(_embedding(candidate, stack, live, first, dtype), live.size)
    left = _left(candidate, stack, work, first)
    known: dict[bytes, _Ends] = {}
    for at in range(L):
        key = left[:, at].tobytes()
        if key not in known:
            known[key] = _ends(ledger, candidate, live, left[:, at], dtype, num_classes)
    ends = [known[left[:, at].tobytes()] for at in range(L)]
    weights = ledger.weight_bytes()
    full = live.size - 1
    read = np.array([weights[place[full]] for place in places])
    enters = entering_share(reach, batch)
    once = read.max() if candidate.backbone.tied_layers else float(read @ enters)
    prices = ledger.price(device, threads=threads, working_set=once)
    shape = (batch, K)
    start = np.zeros((QUANTITIES, 1, 1))
    start[SECONDS] = call_overhead_s(device, candidate.dtype)
    nothing = np.zeros((QUANTITIES, L, *shape))
    layer = np.stack([prices.at(place, *shape) for place in places], axis=1)
    table = StageTable(
        embed=prices.at(embed, *shape) + start,
        layer=layer,
        check=np.stack([prices.at(e.check, *shape) for e in ends], 1) if heads else nothing,
        head=np.stack([prices.at(e.head, *shape) for e in ends], 1) if heads else nothing,
        compact=np.stack([prices.at(e.compact, *shape) for e in ends], 1),
    )
    table = _one_head(table, candidate.exits) if heads else table
    table = _per_sequence(table, texts) if _layout(candidate, stack) == "per_sequence" else table
    return StackCost(table=table, prices=prices)


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where the stages stand that may end a layer."""

    check: slice
    head: slice
    compact: slice


def _ends(
    ledger: Ledger, candidate: Candidate, live: I64, left: I64, dtype: I64, classes: int
) -> _Ends:
    net = as_encoder(candidate.backbone)
    exits = candidate.exits
    size = live.size
    head = lower_answer(candidate, live, left, dtype, classes)
    check = head
    if exits is not None:
        check = lower_check(net, exits, candidate, live, left, dtype, classes)
    compact = lower_compaction(net, layer=0, remaining=live, n=left, dtype=dtype)
    return _Ends(ledger.add(check, size), ledger.add(head, size), ledger.add(compact, size))


def lower_check(
    net: Backbone,
    exits: Exits,
    candidate: Candidate,
    live: I64,
    left: I64,
    dtype: I64,
    classes: int,
) -> OpTable:
    """An early exit's check of R batches: head and score, a unit of its own, or nothing."""
    if exit_criterion(exits.criterion).fixed or exits.criterion == "learned_upfront":
        return lower_compaction(net, layer=0, remaining=live, n=left, dtype=dtype).take(slice(0))
    if exits.criterion in STATE_SCORES:
        reads = STATE_SCORES[exits.criterion]
        zero = np.zeros_like(live)
        return lower_state_check(net, layer=zero, batch=live, dtype=dtype, states=reads)
    return _classifier(candidate, exits.head, live, left, dtype, classes, check=True)


def lower_answer(candidate: Candidate, live: I64, left: I64, dtype: I64, classes: int) -> OpTable:
    """The last head: of a whole text, or of every token."""
    net = as_encoder(candidate.backbone)
    if candidate.output in ("tokens", "span"):
        rows = Rows(np.zeros_like(live), dtype)
        rows.matmul(live * left, net.hidden_size, 2 if candidate.output == "span" else classes)
        return rows.table()
    exits = candidate.exits
    kind = "pooler_linear" if exits is None or exits.head in LM_HEADS else exits.head
    return _classifier(candidate, kind, live, left, dtype, classes, check=False)


def _classifier(
    candidate: Candidate,
    kind: str,
    live: I64,
    left: I64,
    dtype: I64,
    classes: int,
    *,
    check: bool,
) -> OpTable:
    """A head over pooled states, as the runnable model has, or any other of the vocabulary."""
    net = as_encoder(candidate.backbone)
    zero = np.zeros_like(live)
    if kind in HEADS:
        return lower_exit_check(
            net,
            layer=0,
            batch=live,
            n=left,
            dtype=dtype,
            num_classes=classes,
            head=kind,
            check=check,
            pooling=POOLING.index(candidate.pooling),
        )
    return lower_head(
        net,
        kind=kind,
        layer=zero,
        batch=live,
        tokens=left,
        cached=zero,
        dtype=dtype,
        num_classes=classes,
        check=check,
    )


def as_encoder(backbone: Backbone) -> Backbone:
    """An encoder of the width of a backbone's last stack: what its heads see."""
    if backbone.type == "encoder":
        return backbone
    last = backbone.stacks()[-1]
    return replace(
        backbone,
        type="encoder",
        num_decoder_layers=0,
        hidden_size=last.hidden,
        num_heads=last.heads,
        num_experts=1,
    )


def _embedding(candidate: Candidate, stack: str, live: I64, tokens: I64, dtype: I64) -> OpTable:
    """What comes before the layers; behind an encoder also the keys for those that read it."""
    backbone = candidate.backbone
    if backbone.type == "encoder":
        return lower_embedding(backbone, batch=live, n=tokens, dtype=dtype)
    if stack == "encoder":
        zero = np.zeros_like(live)
        calls = CallShapes(
            layer=zero, batch=live, queries=zero, cached=zero, dtype=dtype, source=tokens
        )
        keys = lower_cross_keys(backbone, calls)
        keys = replace(keys, count=keys.count * stack_depth(candidate, "decoder"))
        return OpTable.concat([lower_input(backbone, live, tokens, dtype), keys])
    return lower_token_embedding(backbone, batch=live, tokens=tokens, dtype=dtype)


def _one_head(table: StageTable, exits: Exits | None) -> StageTable:
    """Where no exit needs a head to decide, every sample pays for one, wherever it leaves."""
    if exits is None:
        return table
    rule = exit_criterion(exits.criterion)
    if not (rule.fixed or exits.criterion in (*STATE_SCORES, "learned_upfront")):
        return table
    last = table.head[:, -1]
    return replace(table, embed=table.embed + last, head=np.zeros_like(table.head))


def _layout(candidate: Candidate, stack: str) -> str:
    layouts = [s.layout for s in skims_of(candidate, stack) if s.layout != "pad_to_max"]
    return layouts[0] if layouts else "pad_to_max"


def _laid_out(candidate: Candidate, stack: str, texts: Texts, live: I64, classes: I64) -> Work:
    """Work of each (live batch, class): padded to the class, or packed to the mean text."""
    work = texts.work.take(classes)
    if _layout(candidate, stack) != "packed":
        return work
    several = (live > 1)[:, None]
    mean = {
        name: np.ceil(getattr(texts.own, name).mean(axis=0)).astype(np.int64)
        for name in ("alive", "entering", "asking", "ffn")
    }
    return Work(**{n: np.where(several, mean[n], getattr(work, n)) for n in mean})


def _per_sequence(table: StageTable, texts: Texts) -> StageTable:
    """Layers that run one sequence after another: the live batch times the mean one."""
    K = table.layer.shape[-1]
    share = np.bincount(texts.index, minlength=K) / texts.index.size
    mean = table.layer[:, :, :1] @ share  # [4, L, 1]
    live = np.arange(1, table.layer.shape[2] + 1)
    layer = np.repeat((mean * live)[..., None], K, axis=3)
    layer[:, :, 0] = table.layer[:, :, 0]
    return replace(table, layer=layer)


def _left(candidate: Candidate, stack: str, work: Work, first: I64) -> I64:
    """Tokens of each sequence behind every layer [R, L], which heads and copies see."""
    skims = skims_of(candidate, stack)
    last = work.alive[:, -1:]
    if any(s.restore == "last_layer" for s in skims):
        last = first[:, None]
    elif any(s.skipped == "drop" for s in skims):
        last = np.minimum(last, work.ffn[:, -1:])
    left: I64 = np.maximum(np.concatenate([work.alive[:, 1:], last], axis=1), 1)
    return left
