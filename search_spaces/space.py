"""The search space: what can be built on a backbone, outer knobs and inner knobs.

TOML form, the `[space]` table of a job. A family whose table is absent is switched off.

    [space]
    dtype = ["fp32", "bf16"]             # default ["fp32"]
    pooling = ["mean"]                   # a knob only where there is more than one

    [space.skim]
    layers = [0, 1, 3]                   # a knob keep_after_<l> each; 0: before the first layer
    keep = [1.0, 0.75, 0.5, 0.25]        # absolute rates; 1.0 must be among them

    [space.experts]
    groups = [[1, 3], [4, 6]]            # knobs experts_<lo>_<hi>, active_<lo>_<hi> each
    counts = [1, 4, 8]                   # 1 = dense, must be among them
    active = [0.25, 0.5]                 # top_k = max(1, round(share * count)), halves go up
    granularity = ["sequence", "token"]

    [space.exits]
    layers = [1, 2, 3, 4, 5]             # default: all below the deepest
    min_depth = 2                        # default 1
    max_depth = 6                        # default: all layers
    criteria = ["max_prob", "patience"]
    batching = ["serial"]
    temperatures = [1.0]
    patience = [1, 2]
    max_exits = 3                        # default: no limit

Outer knobs form a fixed space (names never depend on values). A knob without effect is inactive
and normalised to a default, so that equal networks have equal parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.candidate import (
    DTYPES,
    GRANULARITY,
    POOLING,
    Backbone,
    Candidate,
    CandidateBatch,
    Experts,
    PolicyBatch,
    Skim,
    layer_schedule,
    skims_of,
)
from search_spaces.domains import Choice, Domain
from search_spaces.errors import InputError, Problem
from search_spaces.inner import InnerSpace
from search_spaces.knobs import as_array
from search_spaces.records import nearest
from search_spaces.space_file import ExpertTable, SpaceTable, read_space, space_table

FAMILIES: tuple[str, ...] = ("exit-only", "skim-only", "experts-only", "joint")

Params = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """Candidates that a search may propose. Made by `from_dict`; narrowed by `restrict`."""

    backbone: Backbone
    table: SpaceTable

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, backbone: Backbone, file: object = "space"
    ) -> SearchSpace:
        """The space in a `[space]` table.

        Args:
            data: The table.
            backbone: What it acts on.
            file: Name for messages.

        Raises:
            InputError: lists every problem of the table at once.
        """
        return cls(backbone=backbone, table=read_space(data, backbone, file, "space"))

    def to_dict(self) -> dict[str, Any]:
        """The plain table that `from_dict` reads back to an equal space."""
        return space_table(self.table, self.backbone.num_layers)

    @property
    def inner(self) -> InnerSpace:
        """The inner knobs."""
        return self.table.inner

    @property
    def skim_layers(self) -> tuple[int, ...]:
        """Layers (1-based) after whose attention tokens may be dropped; 0: before the first."""
        return self.table.skim.layers if self.table.skim else ()

    @property
    def expert_groups(self) -> tuple[tuple[int, int], ...]:
        """Layer groups (first, last; 1-based) whose feed-forward networks may be cut up."""
        return tuple((g[0], g[1]) for g in self.table.experts.groups) if self.table.experts else ()

    def restrict(self, family: str) -> SearchSpace:
        """The sub-space of one family; dtype and pooling stay free.

        Args:
            family: One of FAMILIES. "skim-only" and "experts-only" have no early exit and the
                largest depth of the space.

        Raises:
            InputError: unknown family.
        """
        if family not in FAMILIES:
            raise InputError.one(
                "arguments", "family", family, f"is not known{nearest(family, FAMILIES)}"
            )
        if family == "joint":
            return self
        inner = self.inner
        if family != "exit-only":
            top = inner.max_depth
            inner = InnerSpace(exit_layers=(), min_depth=top, max_depth=top)
            inner = replace(inner, exit_batching=self.inner.exit_batching)
        table = replace(
            self.table,
            skim=self.table.skim if family == "skim-only" else None,
            experts=self.table.experts if family == "experts-only" else None,
            inner=inner,
        )
        return replace(self, table=table)

    def outer_domains(self) -> dict[str, Domain]:
        """The outer knobs by name, in a fixed order."""
        return dict(_domains(self.table))

    def outer_size(self) -> int:
        """Number of different outer settings (normalised parameters)."""
        size = len(self.table.dtype) * len(self.table.pooling)
        if self.table.skim is not None:
            m, k = len(self.skim_layers), len(self.table.skim.keep)
            size *= math.comb(k + m - 1, m)  # non-increasing sequences of m out of k
        if self.table.experts is not None:
            splits = {
                (e, _top_k(e, a))
                for e in self.table.experts.counts
                for a in self.table.experts.active
            }
            kinds = 1 + sum(k < e for e, k in splits)
            settings = kinds ** len(self.expert_groups) - 1
            size *= 1 + settings * len(self.table.experts.granularity)
        return size

    def normalise(self, params: Mapping[str, Any]) -> Params:
        """Canonical form: equal networks get equal parameters.

        Keep rates become their running minimum; experts with top_k = count become dense; a share
        becomes the first one of the same top_k; knobs without effect take their first value.

        Raises:
            InputError: lists unknown knobs, missing knobs and values outside their domain.
        """
        out = self._checked(params)
        rate = 1.0
        for layer in self.skim_layers:
            rate = out[f"keep_after_{layer}"] = min(rate, out[f"keep_after_{layer}"])
        if self.table.experts is None:
            return out
        pairs, split = _pairs(self.table.experts), False
        for lo, hi in self.expert_groups:
            names = f"experts_{lo}_{hi}", f"active_{lo}_{hi}"
            out[names[0]], out[names[1]] = pairs[out[names[0]], out[names[1]]]
            split = split or out[names[0]] > 1
        if not split:
            out["granularity"] = self.table.experts.granularity[0]
        return out

    def canonical(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """`normalise` of many settings: values [B] by knob, each of them from its domain."""
        out = dict(values)
        rate: Any = 1.0
        for layer in self.skim_layers:
            rate = out[f"keep_after_{layer}"] = np.minimum(rate, out[f"keep_after_{layer}"])
        if self.table.experts is None:
            return out
        pairs, split = _pairs(self.table.experts), np.zeros(1, dtype=bool)
        for lo, hi in self.expert_groups:
            names = f"experts_{lo}_{hi}", f"active_{lo}_{hi}"
            count, share = out[names[0]], out[names[1]]
            for (c, s), (same_c, same_s) in pairs.items():
                here = (out[names[0]] == c) & (out[names[1]] == s)
                count, share = np.where(here, same_c, count), np.where(here, same_s, share)
            out[names[0]], out[names[1]] = count, share
            split = split | (count > 1)
        plain = self.table.experts.granularity[0]
        out["granularity"] = np.where(split, out["granularity"], plain)
        return out

    def cut(self, params: Mapping[str, Any], depth: int) -> Params:
        """Canonical form where no input sees more than the first `depth` layers.

        Knobs of the layers below have no effect and take their first value.

        Raises:
            InputError: as `normalise`.
        """
        out = self.normalise(params)
        for layer in self.skim_layers:
            if layer > depth:
                out[f"keep_after_{layer}"] = out.get(f"keep_after_{layer - 1}", 1.0)
        for lo, hi in self.expert_groups:
            if lo > depth:
                out[f"experts_{lo}_{hi}"] = 1
        return self.normalise(out)

    def decode(self, params: Mapping[str, Any]) -> Candidate:
        """The candidate of an outer setting: full depth, no exits.

        Raises:
            InputError: as `normalise`.
        """
        values = self.normalise(params)
        return Candidate(
            backbone=self.backbone,
            depth=self.backbone.num_layers,
            moe=self._experts(values),
            skim=self._skim(values),
            dtype=values["dtype"],
            pooling=values.get("pooling", self.table.pooling[0]),
            exit_batching=self.inner.exit_batching[0],
        )

    def encode(self, candidate: Candidate) -> Params:
        """The (normalised) outer setting of a candidate; its depth and exits do not matter.

        Raises:
            InputError: the candidate has another backbone or a value that the space does not.
        """
        params: Params = {"dtype": candidate.dtype}
        if len(self.table.pooling) > 1:
            params["pooling"] = candidate.pooling
        schedule = layer_schedule(candidate)
        for layer in self.skim_layers:
            point = ("keep_rate", layer - 1) if layer else ("keep_before", 0)
            params[f"keep_after_{layer}"] = float(schedule[point[0]][point[1]])
        if self.table.experts is not None:
            for lo, hi in self.expert_groups:
                count, k = (int(schedule[n][lo - 1]) for n in ("num_experts", "top_k"))
                shares = [a for a in self.table.experts.active if _top_k(count, a) == k]
                params[f"experts_{lo}_{hi}"] = count
                params[f"active_{lo}_{hi}"] = shares[0] if shares else k / count
            moe = candidate.moe
            params["granularity"] = moe.granularity if moe else self.table.experts.granularity[0]
        built = self.decode(params)
        again = layer_schedule(built)
        reached = np.arange(self.backbone.num_layers) < candidate.depth
        same = candidate.backbone == self.backbone and candidate.pooling == built.pooling
        if not same or any(
            not np.array_equal(again[name][reached], schedule[name][reached]) for name in schedule
        ):
            raise InputError.one(
                "candidate",
                "",
                None,
                "is not in this space: no setting has its backbone, pooling and layers",
            )
        return self.normalise(params)

    def full(self) -> Candidate:
        """The full network: all layers, all experts, no skim, no exit, first dtype."""
        return self.decode(self.full_params())

    def full_params(self) -> Params:
        """The outer setting of `full()`."""
        neutral = {"keep": 1.0, "experts": 1}
        domains = self.outer_domains()
        return self.normalise(
            {
                name: neutral.get(name.split("_")[0], domain.values[0])
                for name, domain in domains.items()
                if isinstance(domain, Choice)
            }
        )

    def sample_outer(self, rng: np.random.Generator, n: int) -> list[Params]:
        """`n` normalised outer settings, each knob drawn uniformly."""
        domains = self.outer_domains().items()
        drawn = self.canonical({name: as_array(domain.sample(rng, n)) for name, domain in domains})
        rows = zip(*(values.tolist() for values in drawn.values()), strict=True)
        return [dict(zip(drawn, row, strict=True)) for row in rows]

    def sample(self, rng: np.random.Generator, n: int, *, num_classes: int = 2) -> CandidateBatch:
        """`n` full candidates, outer and inner knobs drawn uniformly, as arrays.

        Args:
            rng: Source of randomness.
            n: Candidates.
            num_classes: C, which sets the range of the exit thresholds.
        """
        L = self.backbone.num_layers
        policies = self.inner.sample(rng, n, num_layers=L, num_classes=num_classes)
        before, keep = self._sample_keep(rng, n)
        experts, top_k, granularity = self._sample_experts(rng, n)
        valid = np.arange(L) < policies.depth[:, None]
        last = np.take_along_axis(keep, policies.depth[:, None] - 1, axis=1)
        keep = np.where(valid, keep, last)
        experts, top_k = np.where(valid, experts, 1), np.where(valid, top_k, 1)
        dense = (experts == 1).all(axis=1)
        return CandidateBatch(
            backbone=self.backbone,
            **{f.name: getattr(policies, f.name) for f in fields(PolicyBatch)},
            keep_rate=keep,
            keep_before=np.concatenate([before, keep[:, :-1]], axis=1),
            num_experts=experts,
            top_k=top_k,
            granularity=np.where(dense, GRANULARITY.index("sequence"), granularity),
            dtype=_pick(rng, [DTYPES.index(d) for d in self.table.dtype], n),
            pooling=_pick(rng, [POOLING.index(p) for p in self.table.pooling], n),
            valid=valid,
        )

    def _sample_keep(
        self, rng: np.random.Generator, n: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shares of tokens before the first layer [n, 1] and after each [n, L]."""
        keep = np.ones((n, self.backbone.num_layers + 1))
        if self.table.skim is not None:
            rates = np.array(self.table.skim.keep)
            columns = np.array(self.skim_layers, dtype=np.int64)
            keep[:, columns] = rates[rng.integers(len(rates), size=(n, len(columns)))]
        keep = np.minimum.accumulate(keep, axis=1)
        return keep[:, :1], keep[:, 1:]

    def _sample_experts(
        self, rng: np.random.Generator, n: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        shape = (n, self.backbone.num_layers)
        experts, top_k = np.ones(shape, dtype=np.int64), np.ones(shape, dtype=np.int64)
        if self.table.experts is None:
            return experts, top_k, np.full(n, GRANULARITY.index("sequence"))
        pairs = [
            (e, k) if (k := _top_k(e, a)) < e else (1, 1)
            for e in self.table.experts.counts
            for a in self.table.experts.active
        ]
        for lo, hi in self.expert_groups:
            picked = np.array(pairs, dtype=np.int64)[rng.integers(len(pairs), size=n)]
            experts[:, lo - 1 : hi] = picked[:, :1]
            top_k[:, lo - 1 : hi] = picked[:, 1:]
        kinds = [GRANULARITY.index(g) for g in self.table.experts.granularity]
        return experts, top_k, _pick(rng, kinds, n)

    def _checked(self, params: Mapping[str, Any]) -> Params:
        domains, problems, out = _domains(self.table), [], dict[str, Any]()
        for name in params:
            if name not in domains:
                problems.append(
                    Problem("parameters", name, "", f"unknown knob{nearest(name, domains)}")
                )
        for name, domain in domains.items():
            assert isinstance(domain, Choice)
            if name not in params:
                problems.append(Problem("parameters", name, "", "is missing"))
            elif not domain.contains(params[name]):
                way = f"not in {list(domain.values)}, nearest is {domain.nearest(params[name])}"
                problems.append(Problem("parameters", name, str(params[name]), way))
            else:
                out[name] = domain.values[domain.values.index(params[name])]
        if problems:
            raise InputError(problems)
        return out

    def _skim(self, values: Params) -> tuple[Skim, ...]:
        keep = np.ones(self.backbone.num_layers + 1)
        for layer in self.skim_layers:
            keep[layer] = values[f"keep_after_{layer}"]
        alive = np.minimum.accumulate(keep)
        early = skims_of(alive[:1], np.ones(1), before=True)
        return early + skims_of(alive[1:], alive[:-1], before=False)

    def _experts(self, values: Params) -> Experts | None:
        layers: list[int] = []
        counts: list[int] = []
        top_k: list[int] = []
        for lo, hi in self.expert_groups:
            count = values[f"experts_{lo}_{hi}"]
            if count > 1:
                layers += range(lo, hi + 1)
                counts += [count] * (hi - lo + 1)
                top_k += [_top_k(count, values[f"active_{lo}_{hi}"])] * (hi - lo + 1)
        if not layers:
            return None
        order = sorted(range(len(layers)), key=lambda i: layers[i])
        return Experts(
            layers=tuple(layers[i] for i in order),
            num_experts=tuple(counts[i] for i in order),
            top_k=tuple(top_k[i] for i in order),
            granularity=values["granularity"],
        )


@lru_cache(maxsize=8)  # thousands of settings are checked against one table
def _domains(table: SpaceTable) -> dict[str, Domain]:
    domains: dict[str, Domain] = {"dtype": Choice(table.dtype)}
    if len(table.pooling) > 1:
        domains["pooling"] = Choice(table.pooling)
    if table.skim is not None:
        for layer in table.skim.layers:
            domains[f"keep_after_{layer}"] = Choice(table.skim.keep)
    if table.experts is not None:
        for lo, hi in table.experts.groups:
            domains[f"experts_{lo}_{hi}"] = Choice(table.experts.counts)
            domains[f"active_{lo}_{hi}"] = Choice(table.experts.active)
        domains["granularity"] = Choice(table.experts.granularity)
    return domains


@lru_cache(maxsize=8)
def _pairs(table: ExpertTable) -> dict[tuple[int, float], tuple[int, float]]:
    """Counts and shares in canonical form: dense where no expert rests, else the first share."""
    found = {}
    for count in table.counts:
        for share in table.active:
            top_k = _top_k(count, share)
            first = next(a for a in table.active if _top_k(count, a) == top_k)
            found[count, share] = (count, first) if top_k < count else (1, table.active[0])
    return found


def _top_k(count: int, share: float) -> int:
    return max(1, math.floor(share * count + 0.5))


def _pick(rng: np.random.Generator, values: list[int], n: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)[rng.integers(len(values), size=n)]
