"""Peak memory of candidates at a workload: weights that an export keeps, activations, workspace.

Cut is only what no input can reach: layers above the depth and heads that no exit uses. Experts
of a split network hold the weights of the dense one, so their count changes nothing but routers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces import parameters
from search_spaces.candidate import (
    DTYPE_BYTES,
    DTYPES,
    EXIT_BATCHING,
    GRANULARITY,
    PLAIN_DTYPE,
    Backbone,
    CandidateBatch,
    keep_counts,
)
from search_spaces.skims.attention_received import MAX_QUERIES
from search_spaces.workload import Workload

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MATRIX_WIDTH = np.array([DTYPE_BYTES[name] for name in DTYPES], dtype=np.float64)
PLAIN_WIDTH = MATRIX_WIDTH[[DTYPES.index(PLAIN_DTYPE[name]) for name in DTYPES]]
SERIAL = EXIT_BATCHING.index("serial")


def peak_bytes(
    candidates: CandidateBatch,
    *,
    workload: Workload,
    num_classes: int,
    head: str = "pooler_linear",
) -> F64:
    """Peak memory of B candidates in bytes [B].

    Args:
        candidates: B candidates.
        workload: Batch and longest input; serial exit batching runs with a batch of 1.
        num_classes: Classes of every head.
        head: "pooler_linear" or "linear".

    Returns:
        Resident weights plus the largest set of activations alive at one time. The interpreter
        and its libraries are not in it.
    """
    parts = peak_parts(candidates, workload=workload, num_classes=num_classes, head=head)
    total: F64 = np.sum(list(parts.values()), axis=0)
    return total


def peak_parts(
    candidates: CandidateBatch,
    *,
    workload: Workload,
    num_classes: int,
    head: str = "pooler_linear",
) -> dict[str, F64]:
    """Bytes [B] of each part of `peak_bytes`: weights by what they are, and activations."""
    values = weight_parts(candidates, num_classes=num_classes, head=head)
    values["activations"] = activation_values(candidates, workload=workload)
    plain = PLAIN_WIDTH[candidates.dtype]
    parts: dict[str, F64] = {name: plain * count for name, count in values.items()}
    matrices = candidates.depth * matrix_values(candidates.backbone)
    parts["layers"] += (MATRIX_WIDTH[candidates.dtype] - plain) * matrices
    return parts


def weight_values(
    candidates: CandidateBatch, *, num_classes: int, head: str = "pooler_linear"
) -> F64:
    """Numbers (not bytes) in the weights that each candidate keeps [B]."""
    parts = weight_parts(candidates, num_classes=num_classes, head=head)
    total: F64 = np.sum(list(parts.values()), axis=0)
    return total


def weight_parts(
    candidates: CandidateBatch, *, num_classes: int, head: str = "pooler_linear"
) -> dict[str, F64]:
    """Numbers [B] in embeddings, layers, routers (with the experts' mean outputs) and heads."""
    b, h = candidates.backbone, candidates.backbone.hidden_size
    embeddings = parameters.embedding_values(b)
    below = np.arange(b.num_layers) < candidates.depth[:, None]  # [B, L]
    split = below & (candidates.num_experts > 1)
    routed = np.where(split, candidates.num_experts * (2 * h + 1) + h, 0)  # router, mean outputs
    last = np.arange(b.num_layers) == candidates.depth[:, None] - 1
    heads = ((candidates.exit_on & below) | last).sum(axis=1)
    per_head = h * num_classes + num_classes + (h * h + h if head == "pooler_linear" else 0)
    counts = {
        "embeddings": np.full(len(candidates.depth), embeddings),
        "layers": candidates.depth * layer_values(b),
        "routers": routed.sum(axis=1),
        "heads": heads * per_head,
    }
    return {name: np.asarray(count, dtype=np.float64) for name, count in counts.items()}


def layer_values(backbone: Backbone) -> int:
    """Numbers in one dense encoder layer, biases and norms included."""
    return parameters.layer_values(backbone, backbone.stacks()[0])


def matrix_values(backbone: Backbone) -> int:
    """Numbers in the matrices of one dense encoder layer and their biases."""
    return parameters.matrix_values(backbone, backbone.stacks()[0])


def activation_values(candidates: CandidateBatch, *, workload: Workload) -> F64:
    """Largest number of activation values alive at one time [B].

    In a layer with n tokens the state is alive beside, in turn: the projections and the
    attention output (and two copies of the explicit attention matrix where tokens are dropped);
    or the feed-forward network's input and output of its activation.
    """
    b = candidates.backbone
    h, heads = b.hidden_size, b.num_heads
    n_in, n_ffn, drops = layer_tokens(candidates, workload.max_len)
    size = np.where(candidates.exit_batching == SERIAL, 1, workload.batch)[:, None].astype(float)
    below = np.arange(b.num_layers) < candidates.depth[:, None]
    pairs = np.minimum(n_in, MAX_QUERIES) * n_in
    attention = size * n_in * 5 * h + np.where(drops, 2 * size * heads * pairs, 0)
    up = 2 if b.ffn_kind == "gated" else 1
    inner = np.where(candidates.num_experts > 1, _expert_width(candidates), float(b.ffn_size))
    copies = np.where(candidates.num_experts > 1, 4 * h, 2 * h)  # gathered rows and their sum
    ffn = size * n_ffn * (copies + (up + 1) * inner)
    peak: F64 = np.where(below, np.maximum(attention, ffn), 0.0).max(axis=1)
    return peak


def layer_tokens(candidates: CandidateBatch, length: int) -> tuple[I64, I64, NDArray[Any]]:
    """Padded tokens that enter each layer and its FFN, and where tokens are dropped [B, L]."""
    n_in = keep_counts(np.asarray(length), candidates.keep_before)
    n_ffn = keep_counts(np.asarray(length), candidates.keep_rate)
    return n_in, n_ffn, n_ffn < n_in


def _expert_width(candidates: CandidateBatch) -> F64:
    """Hidden values per token of the experts that run at one time, one after another [B, L]."""
    share = candidates.backbone.ffn_size / np.maximum(candidates.num_experts, 1)
    by_token = (candidates.granularity == GRANULARITY.index("token"))[:, None]
    return np.where(by_token, share * candidates.top_k, share)
