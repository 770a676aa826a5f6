"""What a candidate is: a backbone and a policy that decides how much of it an input gets.

The vocabulary follows the survey's three families: `Exits` (how many layers an input gets),
`Experts` (which weights a token sees), `Skim` (which tokens get which layers). A candidate knows
no device and no traffic; those belong to the job and to `Workload`.

`Candidate` is the readable single record, `CandidateBatch` the same thing as arrays with a
leading candidate axis B. Formulas are written for the batch; one candidate is a batch of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from search_spaces.backbone import Backbone as Backbone
from search_spaces.parts import Cascade as Cascade
from search_spaces.parts import Exits as Exits
from search_spaces.parts import Experts as Experts
from search_spaces.parts import Skim as Skim
from search_spaces.parts import later_defaults
from search_spaces.tokens import SCORER_WIDTH
from search_spaces.tokens import keep_counts as keep_counts
from search_spaces.tokens import tokens_per_layer as tokens_per_layer
from search_spaces.vocabulary import POINTS

# Order is part of every OpTable: new types are appended.
DTYPES: tuple[str, ...] = ("fp32", "bf16", "fp16", "int8", "tf32", "fp8", "int4")
DTYPE_BYTES: dict[str, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "int8": 1.0,
    "tf32": 4.0,  # fp32 in memory, rounded on its way into a matrix unit
    "fp8": 1.0,
    "int4": 0.5,  # scales and zero points of its groups not counted
}
# The type of what flows between operators, and of every operator but the layers' matrices (QKV,
# attention output, feed-forward network, experts). int8 is dynamic quantisation of an fp32
# network; fp8 and int4 are serving formats of a bf16 one, int4 of weights only: its matrices are
# multiplied in bf16.
PLAIN_DTYPE: dict[str, str] = {
    "fp32": "fp32",
    "bf16": "bf16",
    "fp16": "fp16",
    "int8": "fp32",
    "tf32": "fp32",
    "fp8": "bf16",
    "int4": "bf16",
}
# What the dynamic model runs and a job may search; all others can be described and costed.
RUNNABLE_DTYPES: tuple[str, ...] = ("fp32", "bf16", "int8")
EXIT_BATCHING: tuple[str, ...] = ("serial", "wait_all", "compact", "regroup")
GRANULARITY: tuple[str, ...] = ("token", "sequence")
POOLING: tuple[str, ...] = ("mean", "cls")
# Order is part of every PolicyBatch: new criteria are appended.
CRITERIA: tuple[str, ...] = (
    "max_prob",
    "margin",
    "entropy",
    "entropy_normalized",
    "patience",
    "energy",
    "state_similarity",
    "learned",
    "learned_upfront",
    "halting_sum",
    "halting_cdf",
    "flexible_patience",
    "patience_confidence",
    "vote",
    "hash",
    "prediction_set",
    "position_schedule",
    "window",
    "static",
    "oracle",
)
# What the dynamic model runs and a job may search; all others can be described and replayed.
RUNNABLE_CRITERIA: tuple[str, ...] = CRITERIA[:5]

Part = TypeVar("Part", Experts, Skim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One dynamic transformer: backbone, depth and policies."""

    backbone: Backbone
    depth: int  # layers above it do not exist; 1 <= depth <= num_layers
    exits: Exits | None = None
    moe: Experts | None = None
    skim: tuple[Skim, ...] = ()
    cascade: Cascade | None = None
    exit_batching: str = "serial"
    dtype: str = "fp32"
    pooling: str = "mean"
    # later: left out of files and hashes where they have their default
    compact_every: int = 1  # exit_batching "compact": exits between two compactions
    decoder_depth: int | None = None  # of an enc_dec, whose `depth` is its encoder's; None: all
    output: str = "class"  # what is answered: class, tokens (a label each), span, text

    def with_policy(self, **changes: Any) -> Candidate:
        """A copy with the named fields replaced."""
        return replace(self, **changes)


def stacks_of(backbone: Backbone, stack: str | None, *, default: str) -> tuple[str, ...]:
    """Stacks that a part acts on, of "encoder" and "decoder".

    Args:
        backbone: Of the candidate; one that is no enc_dec has a single stack.
        stack: The part's own word; "both" names two.
        default: What is meant by no word in an enc_dec: "encoder", "decoder" or "both".
    """
    if backbone.type != "enc_dec":
        return ("decoder",) if backbone.type == "decoder" else ("encoder",)
    chosen = stack or default
    return ("encoder", "decoder") if chosen == "both" else (chosen,)


def stack_depth(candidate: Candidate, stack: str) -> int:
    """Layers of the candidate's encoder or decoder."""
    if candidate.backbone.type != "enc_dec" or stack == "encoder":
        return candidate.depth
    given = candidate.decoder_depth
    return candidate.backbone.num_decoder_layers if given is None else given


F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Records = NDArray[np.object_]


def _no_records() -> Records:
    return np.empty(0, dtype=object)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBatch:
    """The part of a candidate that only decides when to stop reading a trace. P policies."""

    depth: I64  # [P] deepest exit, always taken
    exit_on: Bool  # [P, L] early exits; column l is layer l + 1; False at and above depth
    criterion: I64  # [P] index into CRITERIA
    thresholds: F64  # [P, L] +inf where there is no early exit or criterion is patience
    patience: I64  # [P] 0 unless criterion is patience
    temperature: F64  # [P]
    exit_batching: I64  # [P] index into EXIT_BATCHING
    # [P] the Exits of a policy that the arrays do not tell whole, None elsewhere; empty: all None
    records: Records = field(default_factory=_no_records)

    def __post_init__(self) -> None:
        if not self.records.size:
            object.__setattr__(self, "records", np.full(self.depth.shape, None, dtype=object))

    def __len__(self) -> int:
        return int(self.depth.shape[0])

    def take(self, rows: NDArray[Any]) -> PolicyBatch:
        """The policies at `rows` (indices or mask)."""
        return PolicyBatch(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def concat(parts: list[PolicyBatch]) -> PolicyBatch:
        """All policies of `parts` one after another."""
        return PolicyBatch(
            **{
                f.name: np.concatenate([getattr(p, f.name) for p in parts])
                for f in fields(PolicyBatch)
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateBatch:
    """B candidates on one backbone as arrays; layers are padded to the backbone's depth L."""

    backbone: Backbone
    depth: I64  # [B]
    exit_on: Bool  # [B, L]
    criterion: I64  # [B] index into CRITERIA
    thresholds: F64  # [B, L] +inf where unused
    patience: I64  # [B]
    temperature: F64  # [B]
    exit_batching: I64  # [B] index into EXIT_BATCHING
    keep_rate: F64  # [B, L] share of tokens alive after layer l + 1, absolute
    keep_before: F64  # [B, L] share of tokens that enter layer l + 1
    num_experts: I64  # [B, L] 1 = dense
    top_k: I64  # [B, L] 1 where dense
    granularity: I64  # [B] index into GRANULARITY
    dtype: I64  # [B] index into DTYPES
    pooling: I64  # [B] index into POOLING
    valid: Bool = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))  # [B, L] l < depth
    records: Records = field(default_factory=_no_records)  # [B] as in PolicyBatch

    def __post_init__(self) -> None:
        if not self.records.size:
            object.__setattr__(self, "records", np.full(self.depth.shape, None, dtype=object))

    def __len__(self) -> int:
        return int(self.depth.shape[0])

    def row(self, i: int) -> Candidate:
        """Candidate i as a readable record."""
        return _row(self, i)

    def take(self, rows: NDArray[Any]) -> CandidateBatch:
        """The candidates at `rows` (indices or mask)."""
        names = [f.name for f in fields(self) if f.name != "backbone"]
        return CandidateBatch(backbone=self.backbone, **{n: getattr(self, n)[rows] for n in names})

    def policies(self) -> PolicyBatch:
        """The exit policies alone."""
        return PolicyBatch(**{f.name: getattr(self, f.name) for f in fields(PolicyBatch)})


def layer_schedule(candidate: Candidate) -> dict[str, NDArray[Any]]:
    """Per-layer arrays [L] of one candidate: keep_before, keep_rate, num_experts, top_k.

    `keep_before[l]` and `keep_rate[l]` are the cumulative minimum over the skims up to the
    attention of layer l + 1 and up to its feed-forward network. They cover skims that drop
    tokens at given rates; what else a skim can do is not expressible as such a rate.
    """
    n = candidate.backbone.num_layers
    keep = np.ones((n, 2), dtype=np.float64)
    for skim in candidate.skim:
        if skim.skipped != "drop" or not skim.keep_rate:
            continue
        for layer, rate in zip(skim.layers, skim.keep_rate, strict=True):
            place = (layer - 1, POINTS.index(skim.point))
            keep[place] = min(keep[place], rate)
    keep = np.minimum.accumulate(keep.ravel()).reshape(n, 2)
    experts = np.ones(n, dtype=np.int64)
    top_k = np.ones(n, dtype=np.int64)
    if candidate.moe is not None:
        moe = candidate.moe
        for layer, e, k in zip(moe.layers, moe.num_experts, moe.top_k, strict=True):
            experts[layer - 1], top_k[layer - 1] = (e, k) if k < e else (1, 1)
    return {
        "keep_before": keep[:, 0],
        "keep_rate": keep[:, 1],
        "num_experts": experts,
        "top_k": top_k,
    }


def stack(candidates: list[Candidate]) -> CandidateBatch:
    """The candidates as one batch.

    Raises:
        ValueError: when the list is empty or backbones differ.
    """
    if not candidates:
        raise ValueError("stack() needs at least one candidate")
    backbone = candidates[0].backbone
    if any(c.backbone != backbone for c in candidates):
        raise ValueError("stack() needs candidates of one backbone")
    size, n = len(candidates), backbone.num_layers
    exit_on = np.zeros((size, n), dtype=bool)
    thresholds = np.full((size, n), np.inf)
    criterion = np.zeros(size, dtype=np.int64)
    patience = np.zeros(size, dtype=np.int64)
    temperature = np.ones(size)
    records = np.full(size, None, dtype=object)
    for i, c in enumerate(candidates):
        if c.exits is None:
            continue
        columns = np.asarray(c.exits.layers, dtype=np.int64) - 1
        exit_on[i, columns] = True
        criterion[i] = CRITERIA.index(c.exits.criterion)
        temperature[i] = c.exits.temperature
        if c.exits.criterion == "patience":
            patience[i] = c.exits.patience or 1
        elif c.exits.thresholds:
            thresholds[i, columns] = c.exits.thresholds
        if not is_plain(c.exits):
            records[i] = c.exits
    schedules = [layer_schedule(c) for c in candidates]
    depth = np.array([c.depth for c in candidates], dtype=np.int64)
    return CandidateBatch(
        backbone=backbone,
        depth=depth,
        exit_on=exit_on,
        criterion=criterion,
        thresholds=thresholds,
        patience=patience,
        temperature=temperature,
        exit_batching=np.array([EXIT_BATCHING.index(c.exit_batching) for c in candidates]),
        keep_rate=np.stack([s["keep_rate"] for s in schedules]),
        keep_before=np.stack([s["keep_before"] for s in schedules]),
        num_experts=np.stack([s["num_experts"] for s in schedules]),
        top_k=np.stack([s["top_k"] for s in schedules]),
        granularity=np.array(
            [GRANULARITY.index(c.moe.granularity) if c.moe else 1 for c in candidates]
        ),
        dtype=np.array([DTYPES.index(c.dtype) for c in candidates]),
        pooling=np.array([POOLING.index(c.pooling) for c in candidates]),
        valid=np.arange(n)[None, :] < depth[:, None],
        records=records,
    )


def is_plain(exits: Exits) -> bool:
    """Whether the arrays of a `PolicyBatch` tell all that decides who leaves where."""
    later = later_defaults(Exits)
    same = all(getattr(exits, name) == value for name, value in later.items())
    return same and exits.criterion in RUNNABLE_CRITERIA and exits.aggregator == "none"


def policies_of(candidates: list[Candidate]) -> PolicyBatch:
    """The exit policies of `candidates` as arrays."""
    return stack(candidates).policies()


def static_policies(
    depths: NDArray[Any] | list[int], *, num_layers: int, exit_batching: str
) -> PolicyBatch:
    """Policies that run so many layers [P] and take no early exit."""
    depth = np.asarray(depths, dtype=np.int64)
    size = depth.size
    return PolicyBatch(
        depth=depth,
        exit_on=np.zeros((size, num_layers), dtype=bool),
        criterion=np.zeros(size, dtype=np.int64),
        thresholds=np.full((size, num_layers), np.inf),
        patience=np.zeros(size, dtype=np.int64),
        temperature=np.ones(size),
        exit_batching=np.full(size, EXIT_BATCHING.index(exit_batching)),
    )


def apply_policy(outer: Candidate, policies: PolicyBatch, i: int) -> Candidate:
    """`outer` with the depth and exits of policy i; layers above the depth are cut away."""
    depth = int(policies.depth[i])
    layers = tuple(int(x) + 1 for x in np.flatnonzero(policies.exit_on[i]))
    exits = policies.records[i]
    if exits is None and layers:
        criterion = CRITERIA[int(policies.criterion[i])]
        patience = criterion == "patience"
        exits = Exits(
            layers=layers,
            criterion=criterion,
            thresholds=()
            if patience
            else tuple(float(policies.thresholds[i, x - 1]) for x in layers),
            patience=int(policies.patience[i]) if patience else None,
            temperature=float(policies.temperature[i]),
        )
    return replace(
        outer,
        depth=depth,
        exits=exits,
        moe=_cut_experts(outer.moe, depth),
        skim=tuple(s for s in (_cut_skim(s, depth) for s in outer.skim) if s is not None),
        exit_batching=EXIT_BATCHING[int(policies.exit_batching[i])],
    )


_OUTER = ("keep_rate", "keep_before", "num_experts", "top_k", "granularity", "dtype", "pooling")


def with_policies(outer: Candidate, policies: PolicyBatch) -> CandidateBatch:
    """One outer setting under P exit policies, as arrays."""
    one = stack([replace(outer, depth=outer.backbone.num_layers, exits=None)])
    size, layers = len(policies), outer.backbone.num_layers
    same = {name: np.repeat(getattr(one, name), size, axis=0) for name in _OUTER}
    return CandidateBatch(
        backbone=outer.backbone,
        valid=np.arange(layers)[None, :] < policies.depth[:, None],
        **{f.name: getattr(policies, f.name) for f in fields(policies)},
        **same,
    )


def _cut_experts(moe: Experts | None, depth: int) -> Experts | None:
    return None if moe is None else _cut(moe, depth, ("num_experts", "top_k"))


def _cut_skim(skim: Skim, depth: int) -> Skim | None:
    return _cut(skim, depth, ("keep_rate", "keep_count", "thresholds"))


def _cut(part: Part, depth: int, names: tuple[str, ...]) -> Part | None:
    """The layers of a part up to the depth; `names` have one value per layer, or none at all."""
    keep = [i for i, layer in enumerate(part.layers) if layer <= depth]
    if not keep:
        return None
    values = {name: getattr(part, name) for name in ("layers", *names)}
    cut: dict[str, Any] = {
        name: tuple(value[i] for i in keep) for name, value in values.items() if value
    }
    return replace(part, **cut)


def skims_of(keep: F64, alive: F64, *, before: bool) -> tuple[Skim, ...]:
    """The skim that leaves shares `keep` of tokens where shares `alive` [L] were, if one does.

    Args:
        keep: Share after the point of each layer [L].
        alive: Share before it [L].
        before: The point is before each layer, where learned scores rank; else after its
            attention, which ranks.
    """
    drops = np.flatnonzero(keep < alive)
    if not drops.size:
        return ()
    layers, rates = tuple(int(x) + 1 for x in drops), tuple(float(keep[x]) for x in drops)
    if before:
        early = Skim(
            layers=layers,
            keep_rate=rates,
            score="learned",
            point="before_layer",
            gate_width=SCORER_WIDTH,
        )
        return (early,)
    return (Skim(layers=layers, keep_rate=rates),)


def _row(batch: CandidateBatch, i: int) -> Candidate:
    n = batch.backbone.num_layers
    split = [x for x in range(n) if batch.num_experts[i, x] > 1]
    entering, after = batch.keep_before[i], batch.keep_rate[i]
    alive = np.concatenate([[1.0], after[:-1]])
    outer = Candidate(
        backbone=batch.backbone,
        depth=n,
        moe=Experts(
            layers=tuple(x + 1 for x in split),
            num_experts=tuple(int(batch.num_experts[i, x]) for x in split),
            top_k=tuple(int(batch.top_k[i, x]) for x in split),
            granularity=GRANULARITY[int(batch.granularity[i])],
        )
        if split
        else None,
        skim=skims_of(entering, alive, before=True) + skims_of(after, entering, before=False),
        dtype=DTYPES[int(batch.dtype[i])],
        pooling=POOLING[int(batch.pooling[i])],
    )
    return apply_policy(outer, batch.policies(), i)
