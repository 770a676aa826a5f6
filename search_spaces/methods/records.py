"""What a preset of a published method holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from search_spaces.activity import Assumed
from search_spaces.candidate import Candidate

FAMILIES = ("skim", "moe", "early_exit", "cascade")
# How the statements of a preset are known: read in the named repository or model card, in an
# abstract or a short summary, or from memory and not read again.
EVIDENCE = ("repository", "abstract", "memory")
# What inputs of one batch do: all the same; what is known before they run; leave or shrink one
# by one at exits; differ token by token; one input at a time.
BATCH_CLASSES = ("uniform", "known_before", "per_sample", "per_token", "sequential")
# Keys and values that decoding needs of layers that a token skipped.
KV_CLASSES = (
    "none",  # no cache: encoders, recurrent readers
    "untouched",
    "partial",  # skipped tokens are absent in a layer's cache
    "copy_state",
    "recompute",
    "pipeline",
    "sync_parallel",
    "monotone",
    "self_speculative",
    "second_prefill",  # the next model of a cascade reads the input anew
)
QUANTITIES = ("flops", "flops_share", "parameters", "parameters_active")


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A setting that users of a method turn.

    `key` is the field of the candidate that it sets ("exits.thresholds"), in the convention of
    the candidate; "training" and "workload" stand for settings that no candidate holds. Ranges
    are the usual ones, ends included; either `low` and `high` or `values`.
    """

    key: str
    meaning: str
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A number that the preset must meet, by a formula that the product does not use.

    FLOPs are of one input (or, with `new_tokens`, of one decoding step of a sequence), a
    multiply-add as 2. A "flops_share" is that of the same network without the policy.
    """

    quantity: str  # of QUANTITIES
    expected: float
    formula: str  # where the number comes from, in symbols of the table of methods
    tolerance: float = 0.03  # relative
    batch: int = 1
    tokens: int = 128  # of the input; while decoding, in the cache
    new_tokens: int = 0  # 1: a decoding step
    source: str | None = None  # where the number is a published one


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One published method: description, candidate, assumption and check."""

    name: str
    title: str
    family: str  # of FAMILIES
    paper: str
    evidence: str  # of EVIDENCE
    decision: str  # the rule in one sentence
    training: str
    extra_cost: str
    batch_class: str  # of BATCH_CLASSES
    kv_class: str  # of KV_CLASSES
    candidate: Candidate
    check: Check
    year: int | None = None  # None: not known for certain
    headline: str | None = None  # what the authors report, not what is simulated
    same_as: str | None = None  # the method that it equals in simulation
    note: str | None = None  # what the candidate leaves out or chooses
    knobs: tuple[Knob, ...] = ()
    assumed: Assumed = field(default_factory=Assumed)
    stages: Mapping[str, Candidate] = field(default_factory=dict)  # of a cascade, by their names


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A paper of the survey's list that has no dynamic policy of its own."""

    title: str
    reason: str
