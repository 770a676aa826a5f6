"""Vector operators on a graphics processor: elementwise, reductions, gathers.

    t = vector_launch + || bytes missed / (bandwidth vector_bandwidth_share), rows ||_4

A gather moves rows with one group of threads each, which live for `gather_row`; 2048 threads
fit a multiprocessor, and a row takes as many as it has values, at most 512. Short rows therefore
cost more than their bytes (measured: writing the cache of keys and values costs as much as
attention itself over short prompts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cost_models.forms.gpu_parameters import ROW_THREADS, UNIT_THREADS
from cost_models.forms.gpu_terms import F64, Facts, Parts, Read, missed, soft_max
from search_spaces.ops import KIND

if TYPE_CHECKING:
    from search_spaces.ops import OpTable


def vector_parts(ops: OpTable, facts: Facts, read: Read, working_set: F64 | None) -> Parts:
    """Parts of R vector operators."""
    share = facts.bandwidth * read("vector_bandwidth_share")
    moved = ops.weight_bytes + ops.activation_bytes
    memory = moved * missed(facts, read("vector_resident"), working_set) / share
    threads = ops.m * np.minimum(ops.n.astype(np.float64), ROW_THREADS)
    lives = np.maximum(threads / (UNIT_THREADS * facts.units), 1.0)
    rows = np.where(ops.kind == KIND["gather"], lives * read("gather_row"), 0.0)
    nothing = np.zeros(len(ops))
    return Parts(
        fixed=np.full(len(ops), read("vector_launch")),
        body=soft_max(memory, rows),
        busy=nothing,
        whole=nothing,
    )
