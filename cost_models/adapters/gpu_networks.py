"""Whole networks in eager PyTorch, fp32 (as NeuSight's models_e2e has them): forward passes.

Operators are those that the networks' code in Transformers runs, with attention in pieces: two
batched matmuls, scale, mask and softmax over explicit scores, copies where heads are taken apart
and put together. Rows of training, of several devices and of compiled graphs ("option") are not
read, nor networks whose layers are not described here. A group is a network.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters.gpu_rows import dtypes, tables_by
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.backbone import Backbone
from search_spaces.backbones import load_backbone
from search_spaces.lowering.rows import FLOPS_GELU, FLOPS_NORM, FLOPS_SOFTMAX, Rows
from search_spaces.ops import OpTable

I64 = NDArray[np.int64]

COLUMNS = frozenset(
    {"device", "model", "mode", "seq_len", "batch", "option", "dtype", "measured_ms"}
)
PEERS = ("neusight", "roofline", "habitat", "micro")
BACKBONES: dict[str, str] = {
    "bert_large": "bert-large",
    "gpt2_large": "gpt2-large",
    "gpt3_xl": "gpt3-xl",
    "gpt3_27": "gpt3-2.7b",
    "opt_13": "opt-1.3b",
}
# The authors' GPT-3 XL is as wide as its 24 heads of 128 together (their table of operators).
HIDDEN: dict[str, int] = {"gpt3_xl": 24 * 128}
GELU_KERNELS, GELU_MOVES = 8, 18  # of GPT's activation, spelt out; tensors that they move


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device that has a device file.

    Raises:
        InputError: missing columns or wrong values.
    """
    table = read_csv(path, root, COLUMNS)
    plain = (table.text("mode") == "inf") & (table.text("option") == "")
    return tables_by(
        table.take(plain & np.isin(table.text("model"), list(BACKBONES))), ("dtype",), _build
    )


def _build(table: CsvTable, device: str) -> Measured:
    batch, tokens = table.integer("batch"), table.integer("seq_len")
    dtype, model = dtypes(table), table.text("model")
    parts = [
        _network(i, str(name), batch[i : i + 1], tokens[i : i + 1], dtype[i : i + 1])
        for i, name in enumerate(model)
    ]
    peers = [name for name in PEERS if f"pred_{name}_ms" in table]
    return Measured(
        source=table.file,
        device=device,
        runtime="torch-eager",
        family="end_to_end",
        ops=OpTable.concat(parts),
        seconds=table.seconds("measured"),
        calls=np.ones(len(table)),
        group=model,
        peer_s={name: table.number(f"pred_{name}_ms", blank=True) / 1e3 for name in peers},
    )


def _network(row: int, model: str, batch: I64, length: I64, dtype: I64) -> OpTable:
    b = load_backbone(BACKBONES[model])
    hidden = HIDDEN.get(model, b.hidden_size)
    b = replace(b, hidden_size=hidden, ffn_size=b.ffn_size * hidden // b.hidden_size)
    rows = Rows(np.zeros(1, dtype=np.int64), dtype)
    tokens = batch * length
    gpt, encoder = model.startswith("gpt"), b.type == "encoder"
    _attention(rows, b, batch, length, one_projection=gpt)
    for k, n in ((b.ffn_size, hidden), (hidden, b.ffn_size)):
        rows.matmul(tokens, k, n, count=b.num_layers)
    _activation(rows, tokens, b, gpt=gpt, encoder=encoder)
    values = rows.values
    values("elementwise", tokens, hidden, moves=3, flops=1, count=2 * b.num_layers + 1)
    norms = 2 * b.num_layers + 1
    values("elementwise", tokens, hidden, moves=2, flops=FLOPS_NORM, count=norms)
    values("gather", tokens, hidden, moves=2, flops=0, count=3 if encoder else 2)
    if encoder:  # classifies; the others say the next word of every token
        rows.matmul(batch, hidden, hidden)
    else:
        rows.matmul(tokens, hidden, b.vocab_size, bias=0)
    found = rows.table()
    found.candidate[:] = row
    return found


def _attention(rows: Rows, b: Backbone, batch: I64, length: I64, *, one_projection: bool) -> None:
    """Projections, explicit scores and what passes over them, of all layers."""
    tokens, heads, count = batch * length, b.num_heads, float(b.num_layers)
    if one_projection:
        rows.matmul(tokens, b.hidden_size, 3 * b.hidden_size, count=count)
    else:
        rows.matmul(tokens, b.hidden_size, b.hidden_size, count=3 * count)
    rows.matmul(tokens, b.hidden_size, b.hidden_size, count=count)
    head, pairs = b.hidden_size // heads, (batch * heads).astype(np.float64)
    for k, n in ((head, length), (length, head)):
        rows.add(
            "matmul",
            m=length,
            k=k,
            n=n,
            batch=batch * heads,
            count=count,
            activations=pairs * (length * k + k * n + length * n),
            executed=2.0 * pairs * length * k * n,
        )
    scored = batch * heads * length
    rows.values("elementwise", scored, length, moves=2, flops=1, count=2 * count)  # scale, mask
    rows.values("elementwise", scored, length, moves=2, flops=FLOPS_SOFTMAX, count=count)
    rows.values("elementwise", tokens, b.hidden_size, moves=2, flops=0, count=4 * count)  # copies


def _activation(rows: Rows, tokens: I64, b: Backbone, *, gpt: bool, encoder: bool) -> None:
    kernels, moves, flops = (1, 2, FLOPS_GELU if encoder else 1)
    if gpt:
        kernels, moves, flops = GELU_KERNELS, GELU_MOVES, FLOPS_GELU
    rows.values(
        "elementwise",
        tokens,
        b.ffn_size,
        moves=moves / kernels,
        flops=flops / kernels,
        count=float(kernels * b.num_layers),
    )
