"""What a dynamic transformer is and which ones can be built. Imports numpy only."""

from search_spaces.activity import Activity
from search_spaces.backbone import Backbone, Stack
from search_spaces.backbones import list_backbones, load_backbone
from search_spaces.candidate import (
    CRITERIA,
    DTYPE_BYTES,
    DTYPES,
    EXIT_BATCHING,
    GRANULARITY,
    PLAIN_DTYPE,
    POOLING,
    RUNNABLE_CRITERIA,
    RUNNABLE_DTYPES,
    Candidate,
    CandidateBatch,
    Cascade,
    Exits,
    Experts,
    PolicyBatch,
    Skim,
    apply_policy,
    keep_counts,
    layer_schedule,
    policies_of,
    stack,
    tokens_per_layer,
)
from search_spaces.codec import (
    candidate_from_dict,
    candidate_hash,
    candidate_to_dict,
    load_candidate,
    to_toml,
)
from search_spaces.domains import Choice, Domain, FloatRange, IntRange
from search_spaces.errors import DynsearchError, InputError, Problem
from search_spaces.exits import exit_criteria, exit_criterion, exit_score
from search_spaces.findings import Finding
from search_spaces.inner import InnerSpace
from search_spaces.lowering.encoder import (
    LayerShapes,
    lower,
    lower_compaction,
    lower_embedding,
    lower_exit_check,
    lower_layers,
)
from search_spaces.ops import KIND, KINDS, OpTable
from search_spaces.parameters import count_parameters
from search_spaces.space import FAMILIES, SearchSpace
from search_spaces.validity import check, require_valid
from search_spaces.workload import Workload, batch_order

__all__ = [
    "CRITERIA",
    "DTYPES",
    "DTYPE_BYTES",
    "EXIT_BATCHING",
    "FAMILIES",
    "GRANULARITY",
    "KIND",
    "KINDS",
    "PLAIN_DTYPE",
    "POOLING",
    "RUNNABLE_CRITERIA",
    "RUNNABLE_DTYPES",
    "Activity",
    "Backbone",
    "Candidate",
    "CandidateBatch",
    "Cascade",
    "Choice",
    "Domain",
    "DynsearchError",
    "Exits",
    "Experts",
    "Finding",
    "FloatRange",
    "InnerSpace",
    "InputError",
    "IntRange",
    "LayerShapes",
    "OpTable",
    "PolicyBatch",
    "Problem",
    "SearchSpace",
    "Skim",
    "Stack",
    "Workload",
    "apply_policy",
    "batch_order",
    "candidate_from_dict",
    "candidate_hash",
    "candidate_to_dict",
    "check",
    "count_parameters",
    "exit_criteria",
    "exit_criterion",
    "exit_score",
    "keep_counts",
    "layer_schedule",
    "list_backbones",
    "load_backbone",
    "load_candidate",
    "lower",
    "lower_compaction",
    "lower_embedding",
    "lower_exit_check",
    "lower_layers",
    "policies_of",
    "require_valid",
    "stack",
    "to_toml",
    "tokens_per_layer",
]
