"""Experts of a candidate as those of a backbone, so that shapes and counts have one home."""

from __future__ import annotations

from dataclasses import replace

from search_spaces.backbone import Backbone
from search_spaces.candidate import Candidate, stack_depth, stacks_of
from search_spaces.parameters import (
    embedding_values,
    ffn_values,
    layer_values,
    matrix_values,
    output_values,
    stack_values,
)


def folded(candidate: Candidate, layer: int, stack: str) -> Backbone:
    """A backbone whose own routed experts are those of the candidate in one layer.

    Shared experts stay outside: see `shared_width`.

    Args:
        candidate: A legal one; without experts of its own its backbone is returned.
        layer: 0-based.
        stack: "encoder" or "decoder".
    """
    moe, backbone = candidate.moe, candidate.backbone
    if moe is None or stack not in stacks_of(backbone, moe.stack, default="both"):
        return backbone
    dense = replace(backbone, num_experts=1, experts_per_token=1, num_shared_experts=0)
    if layer + 1 not in moe.layers:
        return dense
    at = moe.layers.index(layer + 1)
    return replace(
        dense,
        num_experts=moe.num_experts[at],
        experts_per_token=moe.top_k[at],
        expert_ffn_size=_expert_width(candidate, moe.num_experts[at], stack),
        first_dense_layers=0,
        expert_every=1,
    )


def shared_width(candidate: Candidate, layered: Backbone) -> int:
    """Hidden width of all shared experts of a layer together.

    Args:
        candidate: As in `folded`.
        layered: What `folded` returns for the layer.
    """
    moe = candidate.moe
    if moe is None:
        return layered.num_shared_experts * layered.expert_width
    if layered.num_experts == 1:
        return 0
    return moe.shared_expert_ffn_size or moe.num_shared_experts * layered.expert_width


def layer_weights(candidate: Candidate, layer: int, stack: str) -> tuple[int, int, int]:
    """Numbers of one layer: matrices that every token sees, routed experts, all else.

    Args:
        candidate: As in `folded`.
        layer: 0-based.
        stack: "encoder" or "decoder".
    """
    own = candidate.backbone.stacks()[-1 if stack == "decoder" else 0]
    layered = folded(candidate, layer, stack)
    matrices = matrix_values(layered, own, layer)
    outside = layer_values(layered, own, layer) - matrices
    routed = 0
    if layered.has_experts(layer):
        routed = layered.num_experts * ffn_values(layered, own.hidden, layered.expert_width)
    extra = shared_width(candidate, layered) if candidate.moe is not None else 0
    if extra:
        matrices += ffn_values(layered, own.hidden, extra)
    return matrices - routed, routed, outside


def candidate_parameters(candidate: Candidate, *, active: bool = False) -> int:
    """Weights of the candidate's network without task heads and poolers.

    Args:
        candidate: A legal one; layers above its depth do not exist.
        active: Count only the experts that one token sees.
    """
    backbone = candidate.backbone
    total = embedding_values(backbone) + output_values(backbone)
    for stack, name in zip(backbone.stacks(), _names(backbone), strict=True):
        depth = stack_depth(candidate, name)
        total += stack_values(backbone, stack)
        for layer in range(1 if backbone.tied_layers else depth):
            common, routed, outside = layer_weights(candidate, layer, name)
            if active and routed:
                layered = folded(candidate, layer, name)
                routed = routed // layered.num_experts * layered.experts_per_token
            total += common + routed + outside
    return total


def _names(backbone: Backbone) -> tuple[str, ...]:
    return tuple("decoder" if s.is_decoder else "encoder" for s in backbone.stacks())


def _expert_width(candidate: Candidate, num_experts: int, stack: str) -> int:
    moe = candidate.moe
    assert moe is not None
    ffn = candidate.backbone.stacks()[-1 if stack == "decoder" else 0].ffn
    if moe.expert_ffn_size is not None:
        return moe.expert_ffn_size
    return ffn // num_experts if moe.origin == "split" else ffn
