"""Recurrent readers -> operator table: one step per token, each on the state of the one before.

A step of a cell with G gates updates u of d units from an input of e values:

    gates        [B, e + d] @ [e + d, G u]      LSTM 4, GRU 3, plain 1
    activation   B rows of G u values

A gate that decides before each step reads the state (one linear map, or a hidden layer of
`gate_width`); a jump is a softmax over offsets after every `read_tokens` steps that are run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from search_spaces.activity import Assumed
from search_spaces.candidate import DTYPES, Candidate, Skim
from search_spaces.errors import InputError
from search_spaces.lowering.decoder import times
from search_spaces.lowering.rows import FLOPS_GELU, FLOPS_SOFTMAX, FLOPS_TANH, Rows, as_ints
from search_spaces.ops import OpTable

GATES: dict[str, int] = {"lstm": 4, "gru": 3, "rnn": 1}


def lower_reader(
    candidate: Candidate, assumed: Assumed, *, batch: int, tokens: int, num_classes: int
) -> OpTable:
    """All steps of a recurrent reader over one text, in expectation; `count` is that of steps.

    Args:
        candidate: On a recurrent backbone; the first skim decides which steps are run.
        assumed: Shares of steps that are run, and how wide.
        batch: Texts that read in step.
        tokens: Of a text.
        num_classes: C of the head.

    Raises:
        InputError: the backbone is not recurrent.
    """
    backbone = candidate.backbone
    if backbone.type != "recurrent":
        raise InputError.one(
            backbone.name, "backbone.type", backbone.type, "reads no token after another"
        )
    skim = candidate.skim[0] if candidate.skim else None
    d, steps = backbone.hidden_size, tokens * assumed.read_share
    widths = skim.branch_widths if skim is not None and skim.branch_widths else (d,)
    shares = assumed.branch_share or (1.0,) * len(widths)
    parts = []
    for layer in range(candidate.depth):
        source = backbone.embedding_width if layer == 0 else d
        for width, share in zip(widths, shares, strict=True):
            units = int(np.ceil(width * assumed.width_share - 1e-9))
            if units and share:
                table = _step(candidate, layer, batch, source, units)
                parts.append(times(table, np.array([steps * share])))
    if skim is not None:
        parts.append(_decisions(candidate, skim, batch, tokens, steps))
    rows = _rows(candidate, candidate.depth - 1)
    rows.matmul(as_ints([batch]), d, num_classes)
    return OpTable.concat([*parts, rows.table()])


def _step(candidate: Candidate, layer: int, batch: int, source: int, units: int) -> OpTable:
    rows, d = _rows(candidate, layer), candidate.backbone.hidden_size
    outputs = GATES[candidate.backbone.cell] * units
    if layer == 0:
        rows.values("gather", [batch], source, moves=2, flops=0)
    rows.matmul(as_ints([batch]), source + d, outputs, body=True)
    rows.values("elementwise", [batch], outputs, moves=2, flops=FLOPS_TANH)
    return rows.table()


def _decisions(candidate: Candidate, skim: Skim, batch: int, tokens: int, steps: float) -> OpTable:
    """What decides which steps are run: before each token, or after some of those read."""
    rows, d = _rows(candidate, 0), candidate.backbone.hidden_size
    width, jumps = skim.gate_width or d, skim.mechanism == "jump"
    if skim.gate_width:
        rows.matmul(as_ints([batch]), d, width)
        rows.values("elementwise", [batch], width, moves=2, flops=FLOPS_GELU)
    choices = max(len(skim.branch_widths), 1)
    if jumps:
        choices = 3 if skim.jump_max is None else skim.jump_max - min(skim.jump_min, 0) + 1
    rows.matmul(as_ints([batch]), width, choices)
    rows.values("reduce", [batch], choices, moves=2, flops=FLOPS_SOFTMAX)
    rows.add("host_sync", m=[batch])
    asked: ArrayLike = tokens
    if jumps:
        asked = steps / (skim.read_tokens or 1)
        asked = asked if skim.max_jumps is None else min(asked, skim.max_jumps)
    return times(rows.table(), np.array([asked], dtype=np.float64))


def _rows(candidate: Candidate, layer: int) -> Rows:
    return Rows(as_ints([layer]), as_ints([DTYPES.index(candidate.dtype)]))
