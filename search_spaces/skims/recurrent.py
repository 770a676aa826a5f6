"""Steps of recurrent readers: what one of them computes, and what skipping leaves of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.records import require_known

F64 = NDArray[np.float64]

GATES: dict[str, int] = {"rnn": 1, "gru": 3, "lstm": 4}  # matrices of a cell


def step_flops(cell: str, inputs: int, hidden: int, width: NDArray[Any] | float) -> F64:
    """FLOPs of the matrices of one step that updates the first `width` of `hidden` states.

    2 g width (inputs + hidden), g = 1, 3, 4 matrices of an RNN, a GRU, an LSTM: rows of what is
    not updated are left out (Skim-RNN, Seo et al., ICLR 2018). Element-wise work is not counted.

    Raises:
        InputError: unknown cell.
    """
    require_known(cell, GATES, "backbone.cell", "cell")
    flops: F64 = 2.0 * GATES[cell] * (inputs + hidden) * np.asarray(width, dtype=np.float64)
    return flops


def reader_flops(
    cell: str,
    inputs: int,
    hidden: int,
    widths: tuple[int, ...],
    taken: NDArray[Any],
    *,
    head: int = 0,
    heads_asked: NDArray[Any] | None = None,
) -> F64:
    """FLOPs of reading each sample [B]: steps of every width, and the deciding head.

    Args:
        cell: rnn, gru or lstm.
        inputs: Width of an input.
        hidden: Width of the state.
        widths: State sizes that a step may update; 0 copies the state and costs nothing.
        taken: Steps of each width [B, W].
        head: Outputs of the linear head that decides (2 to skim, K + 1 to jump over K).
        heads_asked: How often it is asked [B]; None: at every step.
    """
    steps = np.asarray(taken, dtype=np.float64)
    costs = step_flops(cell, inputs, hidden, np.asarray(widths, dtype=np.float64))
    asked = steps.sum(axis=-1) if heads_asked is None else np.asarray(heads_asked, np.float64)
    total: F64 = steps @ costs + 2.0 * hidden * head * asked
    return total
