"""What a preset's check states, computed by lowering: FLOPs of its operators, or its weights."""

from __future__ import annotations

from dataclasses import replace

from search_spaces.activity import Assumed
from search_spaces.candidate import Candidate
from search_spaces.folded import candidate_parameters
from search_spaces.lowering.expected import lower_cascade, lower_expected
from search_spaces.methods.records import Method
from search_spaces.ops import OpTable


def method_ops(method: Method) -> OpTable:
    """The operators of a method's candidate at the workload and assumption of its check."""
    check = method.check
    if method.stages:
        stages = list(method.stages.values())
        return lower_cascade(stages, method.assumed, tokens=check.tokens, batch=check.batch)
    return _ops(method, method.candidate, method.assumed)


def found(method: Method) -> float:
    """The quantity that the check states, as the product computes it."""
    quantity = method.check.quantity
    if quantity.startswith("parameters"):
        active = quantity == "parameters_active"
        return float(candidate_parameters(method.candidate, active=active))
    flops = total_flops(method_ops(method)) / method.check.batch
    if quantity == "flops":
        return flops
    whole = replace(method.candidate, exits=None, moe=None, skim=(), cascade=None)
    return flops / (total_flops(_ops(method, whole, Assumed())) / method.check.batch)


def holds(method: Method) -> bool:
    """Whether the check is met within its tolerance."""
    check = method.check
    return abs(found(method) - check.expected) <= check.tolerance * abs(check.expected)


def total_flops(ops: OpTable) -> float:
    """FLOPs that the method asks for, all executions."""
    return float((ops.flops * ops.count).sum())


def _ops(method: Method, candidate: Candidate, assumed: Assumed) -> OpTable:
    check = method.check
    return lower_expected(
        candidate,
        assumed,
        tokens=check.tokens,
        batch=check.batch,
        new_tokens=check.new_tokens,
    )
