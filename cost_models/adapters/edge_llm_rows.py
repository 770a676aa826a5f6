"""Language models on edge devices: what one prompt and one decode step execute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from search_spaces.backbone import Backbone
from search_spaces.candidate import DTYPE_BYTES, DTYPES
from search_spaces.lowering.decoder import lower_decode_step, lower_prefill
from search_spaces.ops import KIND, OpTable

# Formats of 4-bit weights in files and the bits that one weight takes with its scales.
STORED_BITS: dict[str, float] = {
    "w4a16": 4.5,  # groups of 32 to 128 with a 16-bit scale each
    "w4": 4.5,
    "q4_k_m": 4.85,  # TinyLlama: 636 MiB of weights in all, 1.1e9 of them
}


def prompt(backbone: Backbone, tokens: int, weights: str) -> OpTable:
    """One prompt of batch 1 and the logits of its last position, `weights` a key of STORED_BITS."""
    table = lower_prefill(backbone, batch=1, tokens=tokens, dtype=DTYPES.index("fp16"))
    return _stored(table, weights)


def decode_step(backbone: Backbone, cached: int, weights: str) -> OpTable:
    """One token against `cached` ones, batch 1."""
    table = lower_decode_step(backbone, batch=1, cached=cached, dtype=DTYPES.index("fp16"))
    return _stored(table, weights)


def _stored(table: OpTable, weights: str) -> OpTable:
    """Weights of matmuls as the format stores them; arithmetic stays in 16 bits."""
    matmul: NDArray[np.bool_] = table.kind == KIND["matmul"]
    bits = 8.0 * DTYPE_BYTES["fp16"]
    share = np.where(matmul, STORED_BITS[weights] / bits, 1.0)
    return replace(table, weight_bytes=table.weight_bytes * share)
