"""The operator table: the narrow waist between what a candidate is and what a device charges.

Lowering (`search_spaces.lowering`) writes it, cost models price it. A new method never touches a
cost model, a new device never touches a method.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Operator kinds. For every kind, (m, k, n, batch) mean:
#   matmul                [m, k] @ [k, n]; k x n weights are read; batch = 1
#   attention_prefill     fused attention over m query and n key tokens, head width k, `batch`
#                         = sequences x query heads. A mask that kernels skip shows in the FLOPs:
#                         executed_flops / (4 m n k batch) is the share of the scores that is
#                         computed (about 1/2 where m = n and causal). Heads that share keys show
#                         in activation_bytes
#   attention_importance  an explicit softmax matrix, its column means (attention received),
#                         top-k and the gather of the kept rows: a layer that drops tokens pays
#                         it in place of attention_prefill or, long texts, of most of it
#   attention_decode      few query tokens per sequence against n cached tokens, head width k,
#                         `batch` = sequences x key-value heads, m = query heads per key-value
#                         head x query tokens per sequence (1 in plain decoding): the rows that
#                         share the keys of one problem
#   grouped_matmul        `batch` expert matmuls [m, k] @ [k, n] in one call, m rows each; bytes
#                         and FLOPs are those of the call. Eager runtimes make one call per expert
#                         that has tokens (batch 1, `count` = those experts), serving kernels one
#                         for all of them (`batch` = those experts, count 1)
#   elementwise           m rows of n values (bias + activation, residual + layer norm)
#   reduce                m rows of n values to one (pooling, softmax of logits)
#   gather                m rows of n values copied by index (compaction, dispatch, drop)
#   host_sync             a decision read back by the host
#   collective            m bytes over links, n participants, k = index into COLLECTIVES; `batch`
#                         = experts chosen per token where k is a dispatch or a combine, else 1
KINDS: tuple[str, ...] = (
    "matmul",
    "attention_prefill",
    "attention_importance",
    "attention_decode",
    "grouped_matmul",
    "elementwise",
    "reduce",
    "gather",
    "host_sync",
    "collective",
)
KIND = {name: i for i, name in enumerate(KINDS)}

# What the bytes `m` of a collective are: the whole buffer of a participant, which is what comes
# out of an all_gather and what goes into a reduce_scatter. A dispatch sends the tokens of one rank
# to the ranks of their experts and a combine brings the answers back: `m` = those tokens once,
# `weight_bytes` = one token of them, and `k` may also say how many experts there are in all, as
# CODES times that number on top (nothing on top: many to a rank).
COLLECTIVES: tuple[str, ...] = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "point_to_point",
    "dispatch",  # one copy per rank that holds a chosen expert, large batches
    "combine",
    "dispatch_low_latency",  # one copy per chosen expert, few tokens
    "combine_low_latency",
)
COLLECTIVE = {name: i for i, name in enumerate(COLLECTIVES)}
CODES = 16

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpTable:
    """R operators as arrays [R]. FLOPs count a multiply-add as 2."""

    candidate: I64  # row of the lowered batch that this operator belongs to
    layer: I64  # 0-based layer
    kind: I64  # index into KINDS
    count: F64  # executions of exactly this shape (experts: expected number)
    m: I64
    k: I64
    n: I64
    batch: I64
    dtype: I64  # index into DTYPES
    weight_bytes: F64  # weights read by ONE execution
    activation_bytes: F64  # activations read and written by ONE execution
    flops: F64  # of one execution, what the method asks for
    executed_flops: F64  # of one execution, what runs (padding included)

    def __len__(self) -> int:
        return int(self.kind.shape[0])

    def take(self, rows: NDArray[Any] | slice) -> OpTable:
        """The operators at `rows` (indices, mask or slice)."""
        return OpTable(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def concat(parts: list[OpTable]) -> OpTable:
        """All operators of `parts` one after another."""
        return OpTable(
            **{
                f.name: np.concatenate([getattr(p, f.name) for p in parts])
                for f in fields(OpTable)
            }
        )
