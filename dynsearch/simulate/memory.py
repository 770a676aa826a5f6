"""Peak memory of any candidate: resident weights, keys and values, activations.

Weights that no input can reach are cut; all experts and heads stay. What `cost_models.memory`
counts for encoders is taken from there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cost_models.memory import MATRIX_WIDTH, PLAIN_WIDTH, activation_values, peak_bytes
from dynsearch.simulate.experts import plan_of
from dynsearch.simulate.stage_costs import as_encoder
from search_spaces import parameters
from search_spaces.backbone import Backbone
from search_spaces.candidate import DTYPES, Candidate, stack, stack_depth
from search_spaces.folded import layer_weights
from search_spaces.lowering.exit_heads import STUDENT_WIDTH
from search_spaces.lowering.recurrent import reader_values
from search_spaces.validity import not_lowered
from search_spaces.workload import Workload


def peak(candidate: Candidate, *, workload: Workload, num_classes: int, new_tokens: int) -> float:
    """Bytes at the workload's batch and longest input.

    Args:
        candidate: Any; a cascade's own stages are added up by who runs them.
        workload: Batch and longest input.
        num_classes: C.
        new_tokens: That a decoder writes, which its cache holds beside the prompt.
    """
    if candidate.backbone.type == "encoder" and not not_lowered(candidate):
        found = peak_bytes(stack([candidate]), workload=workload, num_classes=num_classes)
        return float(found[0])
    matrices, plain = weights(candidate, num_classes)
    plain += _activations(candidate, workload) + _cache(candidate, workload, new_tokens)
    width = DTYPES.index(candidate.dtype)
    return float(MATRIX_WIDTH[width] * matrices + PLAIN_WIDTH[width] * plain)


def weights(candidate: Candidate, num_classes: int) -> tuple[float, float]:
    """Numbers in the matrices of layers, and in all else that stays in memory."""
    backbone = candidate.backbone
    if backbone.type == "recurrent":
        layers = [reader_values(backbone, i) for i in range(candidate.depth)]
        head = (backbone.hidden_size + 1) * num_classes
        return float(sum(layers)), float(backbone.vocab_size * backbone.embedding_width + head)
    matrices = 0.0
    plain = float(parameters.embedding_values(backbone) + parameters.output_values(backbone))
    names = ("encoder", "decoder") if backbone.type == "enc_dec" else (_only(backbone),)
    for name, own in zip(names, backbone.stacks(), strict=True):
        kept = 1 if backbone.tied_layers else stack_depth(candidate, name)
        plain += parameters.stack_values(backbone, own)
        for layer in range(kept):
            common, routed, outside = layer_weights(candidate, layer, name)
            experts = plan_of(candidate, name, layer, linked=True)
            matrices += common + routed / (1 if experts is None else experts.ranks)
            plain += outside
    return matrices, plain + _heads(candidate, num_classes)


def _only(backbone: Backbone) -> str:
    return "decoder" if backbone.type == "decoder" else "encoder"


def _heads(candidate: Candidate, num_classes: int) -> float:
    """Heads of early exits, and the one that classifies at the end."""
    backbone, exits = candidate.backbone, candidate.exits
    own = backbone.stacks()[-1]
    h = own.hidden
    linear = h * num_classes + num_classes
    student = h * STUDENT_WIDTH + 5 * STUDENT_WIDTH * STUDENT_WIDTH + STUDENT_WIDTH * num_classes
    vocabulary = backbone.vocab_size * h
    sizes = {
        "linear": linear,
        "pooler_linear": linear + h * h + h,
        "aggregate": linear + 2 * h * h + h,
        "student_attn": student,
        "norm_lm": vocabulary + h,
        "mlp_lm": vocabulary + h + parameters.ffn_values(backbone, h, own.ffn),
        "block_lm": vocabulary + parameters.layer_values(backbone, own),
    }
    last = sizes["pooler_linear"] if candidate.output == "class" and not own.is_decoder else 0
    if exits is None:
        return float(last)
    one = sizes.get(exits.head, linear)
    if exits.head_shared and exits.head.endswith("_lm"):
        one -= vocabulary  # the network's own output projection serves it
    return float(last + one * (1 if exits.head_shared else len(exits.layers)))


def _activations(candidate: Candidate, workload: Workload) -> float:
    backbone = as_encoder(candidate.backbone)
    plain = Candidate(
        backbone=replace(backbone, num_experts=1),
        depth=1,
        dtype=candidate.dtype,
        exit_batching=candidate.exit_batching,
    )
    return float(activation_values(stack([plain]), workload=workload)[0])


def _cache(candidate: Candidate, workload: Workload, new_tokens: int) -> float:
    """Keys and values of all layers; a layer that tokens pass by holds its own share."""
    backbone = candidate.backbone
    if backbone.type not in ("decoder", "enc_dec"):
        return 0.0
    own = backbone.decoder()
    prompt = 1 if backbone.type == "enc_dec" else workload.max_len
    per_token = 2.0 * own.kv_heads * own.head
    depth = stack_depth(candidate, "decoder")
    kept = np.full(depth, float(prompt + new_tokens))
    if backbone.sliding_window is not None:
        kept = np.minimum(kept, backbone.sliding_window)
    for skim in candidate.skim:
        if skim.skipped == "pass_through" and skim.keep_rate:
            for layer, rate in zip(skim.layers, skim.keep_rate, strict=True):
                if layer <= depth:
                    kept[layer - 1] *= rate
    cross = workload.max_len * depth if backbone.type == "enc_dec" else 0
    return workload.batch * per_token * float(kept.sum() + cross)
