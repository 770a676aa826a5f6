"""Recurrent readers -> operator table: steps of LSTM, GRU and plain cells, and their decisions.

A step of one layer multiplies the input and the state before by the weights of all gates in one
call, [B, x + h] @ [x + h, gates h] (4 gates in an LSTM, Hochreiter and Schmidhuber 1997; 3 in a
GRU, Cho et al. 2014; 1 in a plain cell), and mixes them value by value. A cell that updates the
first units of its state alone (Skim-RNN, Seo et al. 2018) has as many columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.backbone import Backbone
from search_spaces.lowering.rows import FLOPS_SOFTMAX, FLOPS_TANH, Rows, broadcast
from search_spaces.ops import OpTable

I64 = NDArray[np.int64]

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def recurrent_layer_values(backbone: Backbone, layer: int) -> int:
    """Numbers in the weights of one layer (0-based), biases of input and state included."""
    gates, h = GATES[backbone.cell], backbone.hidden_size
    x = backbone.embedding_width if layer == 0 else h
    return gates * h * (x + h + 2)


def lower_reader_step(
    backbone: Backbone, *, batch: ArrayLike, units: ArrayLike, dtype: ArrayLike, depth: int
) -> OpTable:
    """One word read by R batches: its vector, then a step of every layer.

    Args:
        backbone: Of type "recurrent".
        batch: Sequences [R].
        units: Of each layer's state that the step updates, 1..hidden_size [R].
        dtype: Index into DTYPES [R].
        depth: Layers.
    """
    b, width, types = broadcast(batch, units, dtype)
    rows = Rows(np.zeros_like(b), types)
    gates, h = GATES[backbone.cell], backbone.hidden_size
    rows.values("gather", b, backbone.embedding_width, moves=2, flops=0)
    for layer in range(depth):
        x = backbone.embedding_width if layer == 0 else h
        rows.matmul(b, x + h, gates * width, bias=2 * gates * width, body=True)
        rows.values("elementwise", b, width, moves=gates + 2, flops=gates * FLOPS_TANH)
    return rows.table()


def lower_reader_choice(
    backbone: Backbone, *, batch: ArrayLike, choices: int, dtype: ArrayLike, words: bool
) -> OpTable:
    """One decision of R batches over so many choices, read back by the host.

    Args:
        backbone: Of type "recurrent".
        batch: Sequences [R].
        choices: Columns of the softmax.
        dtype: Index into DTYPES [R].
        words: Whether it looks at the next word besides the state.
    """
    b, types = broadcast(batch, dtype)
    rows = Rows(np.zeros_like(b), types)
    seen = backbone.hidden_size + (backbone.embedding_width if words else 0)
    rows.matmul(b, seen, choices)
    rows.values("reduce", b, choices, moves=2, flops=FLOPS_SOFTMAX)
    rows.add("host_sync", m=b)
    return rows.table()


def lower_reader_head(
    backbone: Backbone, *, batch: ArrayLike, num_classes: int, dtype: ArrayLike
) -> OpTable:
    """The answer from the last state."""
    b, types = broadcast(batch, dtype)
    rows = Rows(np.zeros_like(b), types)
    rows.matmul(b, backbone.hidden_size, num_classes)
    return rows.table()
