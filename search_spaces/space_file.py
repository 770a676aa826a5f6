"""Reads the `[space]` table of a job: every problem at once, with the way out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from search_spaces.candidate import (
    DTYPES,
    EXIT_BATCHING,
    GRANULARITY,
    POOLING,
    RUNNABLE_CRITERIA,
    RUNNABLE_DTYPES,
    Backbone,
)
from search_spaces.inner import InnerSpace
from search_spaces.records import Reader, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class SkimTable:
    """`[space.skim]`."""

    layers: tuple[int, ...]
    keep: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTable:
    """`[space.experts]`."""

    groups: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...] = (1, 4, 8)
    active: tuple[float, ...] = (0.25, 0.5)
    granularity: tuple[str, ...] = ("sequence",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitTable:
    """`[space.exits]`; None: every layer that makes sense."""

    layers: tuple[int, ...] | None = None
    min_depth: int = 1
    max_depth: int | None = None
    criteria: tuple[str, ...] = ("max_prob",)
    batching: tuple[str, ...] = ("serial",)
    temperatures: tuple[float, ...] = (1.0,)
    patience: tuple[int, ...] = (1,)
    max_exits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceTable:
    """The `[space]` table, checked."""

    dtype: tuple[str, ...]
    pooling: tuple[str, ...]
    skim: SkimTable | None
    experts: ExpertTable | None
    inner: InnerSpace


def read_space(data: object, backbone: Backbone, file: object, key: str) -> SpaceTable:
    """The table as records.

    Raises:
        InputError: lists every problem.
    """
    reader = Reader(file)
    table = reader.table(data, key, ("dtype", "pooling", "skim", "experts", "exits"))
    names = tuple[str, ...]
    dtype = reader.value(table.get("dtype", ["fp32"]), names, f"{key}.dtype")
    pooling = reader.value(table.get("pooling", ["mean"]), names, f"{key}.pooling")
    parts = {
        name: reader.record(cls, table[name], f"{key}.{name}")
        for name, cls in (("skim", SkimTable), ("experts", ExpertTable), ("exits", ExitTable))
        if name in table
    }
    reader.stop_if_bad()
    _check_dtype(reader, dtype, f"{key}.dtype")
    _known(reader, pooling, POOLING, f"{key}.pooling")
    skim, experts = parts.get("skim"), parts.get("experts")
    if skim is not None:
        _check_skim(reader, skim, backbone, f"{key}.skim")
    if experts is not None:
        _check_experts(reader, experts, backbone, f"{key}.experts")
    inner = _inner(reader, parts.get("exits"), backbone, f"{key}.exits")
    reader.stop_if_bad()
    return SpaceTable(dtype=dtype, pooling=pooling, skim=skim, experts=experts, inner=inner)


def _check_dtype(reader: Reader, dtype: tuple[str, ...], key: str) -> None:
    _known(reader, dtype, DTYPES, key)
    for name in dtype:
        if name in DTYPES and name not in RUNNABLE_DTYPES:
            runs = ", ".join(RUNNABLE_DTYPES)
            reader.fail(key, name, f"can be costed but not run yet: a search takes {runs}")


def _check_skim(reader: Reader, skim: SkimTable, backbone: Backbone, key: str) -> None:
    _layers(reader, skim.layers, backbone.num_layers, f"{key}.layers", first=0)
    _numbers(reader, skim.keep, lambda x: 0.0 < x <= 1.0, "must lie in (0, 1]", f"{key}.keep")
    if skim.keep and 1.0 not in skim.keep:
        reader.fail(
            f"{key}.keep", list(skim.keep), "add 1.0: the full network must be in the space"
        )


def _check_experts(reader: Reader, experts: ExpertTable, backbone: Backbone, key: str) -> None:
    counts, ffn = experts.counts, backbone.ffn_size
    seen: set[int] = set()
    if not experts.groups:
        reader.fail(f"{key}.groups", [], "needs at least one group [first, last] of layers")
    for i, group in enumerate(experts.groups):
        place = f"{key}.groups[{i}]"
        if len(group) != 2 or not 1 <= group[0] <= group[1] <= backbone.num_layers:
            reader.fail(
                place,
                list(group),
                f"must be [first, last] with 1 <= first <= last <= {backbone.num_layers}",
            )
            continue
        layers = set(range(group[0], group[1] + 1))
        if layers & seen:
            reader.fail(place, list(group), "overlaps an earlier group: cut it")
        seen |= layers
    _numbers(reader, counts, lambda x: x >= 1, "must be at least 1", f"{key}.counts")
    _numbers(
        reader,
        [c for c in counts if c > 1],
        lambda x: ffn % x == 0,
        f"does not divide ffn_size {ffn}",
        f"{key}.counts",
        empty=True,
    )
    if counts and 1 not in counts:
        reader.fail(f"{key}.counts", list(counts), "add 1: the full network must be in the space")
    _numbers(
        reader, experts.active, lambda x: 0.0 < x <= 1.0, "must lie in (0, 1]", f"{key}.active"
    )
    _known(reader, experts.granularity, GRANULARITY, f"{key}.granularity")


def _inner(reader: Reader, table: ExitTable | None, backbone: Backbone, key: str) -> InnerSpace:
    n = backbone.num_layers
    if table is None:
        return InnerSpace(exit_layers=(), min_depth=n, max_depth=n)
    top = n if table.max_depth is None else table.max_depth
    if not 1 <= top <= n:
        reader.fail(f"{key}.max_depth", top, f"must lie in 1..{n}")
    elif not 1 <= table.min_depth <= top:
        reader.fail(f"{key}.min_depth", table.min_depth, f"must lie in 1..{top} (max_depth)")
    layers = tuple(range(1, min(top, n))) if table.layers is None else table.layers
    if table.layers:
        _layers(reader, layers, n, f"{key}.layers")
        for layer in layers:
            if top <= layer <= n:
                reader.fail(
                    f"{key}.layers",
                    layer,
                    f"the exit at the deepest layer {top} is always there: list early ones only",
                )
    _known(reader, table.criteria, RUNNABLE_CRITERIA, f"{key}.criteria")
    _known(reader, table.batching, EXIT_BATCHING, f"{key}.batching")
    _numbers(reader, table.temperatures, lambda x: x > 0, "must be above 0", f"{key}.temperatures")
    _numbers(reader, table.patience, lambda x: x >= 1, "must be at least 1", f"{key}.patience")
    most = sum(layer < top for layer in layers)
    most = most if table.max_exits is None else min(most, table.max_exits)
    if "patience" in table.criteria and table.patience and min(table.patience) >= most:
        reader.fail(
            f"{key}.patience",
            list(table.patience),
            f"never fires with at most {most} early exits: it must be below their number",
        )
    if table.max_exits is not None and table.max_exits < 0:
        reader.fail(f"{key}.max_exits", table.max_exits, "must be at least 0")
    return InnerSpace(
        exit_layers=layers,
        min_depth=table.min_depth,
        max_depth=top,
        criteria=table.criteria,
        exit_batching=table.batching,
        temperatures=table.temperatures,
        patience=table.patience,
        max_exits=table.max_exits,
    )


def _layers(
    reader: Reader, layers: tuple[int, ...], num_layers: int, key: str, first: int = 1
) -> None:
    if list(layers) != sorted(set(layers)):
        reader.fail(key, list(layers), f"must ascend: {sorted(set(layers))}")
    for layer in layers:
        if not first <= layer <= num_layers:
            nought = "" if first else ", 0 stands before the first"
            reader.fail(key, layer, f"layers are numbered 1..{num_layers}{nought}")


def _known(reader: Reader, values: tuple[str, ...], known: tuple[str, ...], key: str) -> None:
    _numbers(reader, values, lambda x: True, "", key)
    for value in values:
        if value not in known:
            reader.fail(key, value, f"is not known{nearest(value, known)}")


def _numbers(
    reader: Reader,
    values: Any,
    legal: Callable[[Any], bool],
    rule: str,
    key: str,
    empty: bool = False,
) -> None:
    if not values and not empty:
        reader.fail(key, [], "must not be empty")
    if len(set(values)) != len(values):
        reader.fail(key, list(values), "has a value twice")
    for value in values:
        if not legal(value):
            reader.fail(key, value, rule)


def space_table(table: SpaceTable, num_layers: int) -> dict[str, Any]:
    """The plain table that `read_space` reads back to an equal record."""
    out: dict[str, Any] = {"dtype": list(table.dtype), "pooling": list(table.pooling)}
    if table.skim is not None:
        out["skim"] = {"layers": list(table.skim.layers), "keep": list(table.skim.keep)}
    if table.experts is not None:
        out["experts"] = {
            "groups": [list(g) for g in table.experts.groups],
            "counts": list(table.experts.counts),
            "active": list(table.experts.active),
            "granularity": list(table.experts.granularity),
        }
    inner = table.inner
    if inner != InnerSpace(exit_layers=(), min_depth=num_layers, max_depth=num_layers):
        out["exits"] = {
            "layers": list(inner.exit_layers),
            "min_depth": inner.min_depth,
            "max_depth": inner.max_depth,
            "criteria": list(inner.criteria),
            "batching": list(inner.exit_batching),
            "temperatures": list(inner.temperatures),
            "patience": list(inner.patience),
        }
        if inner.max_exits is not None:
            out["exits"]["max_exits"] = inner.max_exits
    return out
