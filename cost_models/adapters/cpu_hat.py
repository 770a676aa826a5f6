"""Translators of the HAT search space: whole sentences on a Raspberry Pi, a Xeon and a TITAN Xp.

Every row is one sampled encoder-decoder, timed in eager fp32 PyTorch by its authors' script
(latency_dataset.py of https://github.com/mit-han-lab/hardware-aware-transformers): the encoder
over one sentence, then as many decoder steps as tokens, 5 beams at a time with a cache, the keys
of the encoder's states made in the first of them, one token per beam and step, logits of the
whole vocabulary, no beam search. Attention is 512 wide whatever the layers are, and cross
attention may read the states of several encoder layers one after another.

Sizes are averages over the layers that are there; all operators but the products of widths are
linear in them. A group is an average encoder and decoder feed-forward width and depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.backbones import load_backbone
from search_spaces.candidate import DTYPES
from search_spaces.lowering.decoder import step_lengths, times
from search_spaces.lowering.rows import Rows
from search_spaces.lowering.stacks import CallShapes, Widths, lower_cross_keys, lower_stack
from search_spaces.ops import OpTable

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

COLUMNS = frozenset(
    {
        "device",
        "task",
        "batch",
        "src_len_tok",
        "dec_steps",
        "beam",
        "enc_hidden",
        "enc_layers",
        "enc_ffn_avg",
        "enc_heads_avg",
        "dec_hidden",
        "dec_layers",
        "dec_ffn_avg",
        "dec_self_heads_avg",
        "dec_cross_enc_layers_avg",
        "enc_latency_ms",
        "dec_latency_ms",
    }
)
DEVICES: Mapping[str, str] = {
    "raspberrypi4_arm_a72": "raspberry-pi-4",
    "xeon_e5_2640_v4": "intel-xeon-e5-2640-v4",
    "titan_xp": "nvidia-titan-xp",
}
THREADS: Mapping[str, int] = {  # the script leaves PyTorch's default, a thread per core
    "raspberry-pi-4": 4,
    "intel-xeon-e5-2640-v4": 10,
    "nvidia-titan-xp": 1,
}
# Entries of the decoder's vocabulary. WMT'14 En-De: configs/wmt14.en-de/preprocess.sh there;
# En-Fr: the joined dictionary of fairseq's transformer; IWSLT'14: its target dictionary.
VOCABULARY: Mapping[str, int] = {
    "wmt14ende": 32768,
    "wmt14enfr": 44512,
    "wmt19ende": 44512,  # 40000 merges as in WMT'14 En-Fr; its own dictionary is not public here
    "iwslt14deen": 6632,
}
WIDTH = 512  # of attention, "qkv-dim" of every published configuration
FP32 = DTYPES.index("fp32")


def read(path: Path, root: Path) -> list[Measured]:
    """A table of whole sentences for each device.

    Raises:
        InputError: as `read_csv`.
    """
    table = read_csv(path, root, COLUMNS)
    found = []
    for name in dict.fromkeys(table.text("device").tolist()):
        device, known = DEVICES.get(name), np.isin(table.text("task"), list(VOCABULARY))
        part = table.take((table.text("device") == name) & known)
        if device is not None and len(part):
            found.append(_sentences(part, device))
    return found


def _sentences(table: CsvTable, device: str) -> Measured:
    steps = table.integer("dec_steps")
    seconds = (table.number("enc_latency_ms") + table.number("dec_latency_ms")) * 1e-3
    return Measured(
        source=table.file,
        device=device,
        runtime="torch-eager",
        family="end_to_end",
        ops=OpTable.concat([encoder(table), decoder(table)]),
        seconds=seconds,
        calls=np.asarray(1.0 + steps, dtype=np.float64),
        group=_groups(table),
        task=table.text("task"),
        threads=THREADS[device],
        peer_s={},
    )


def _groups(table: CsvTable) -> NDArray[np.str_]:
    names = ("task", "enc_hidden", "enc_ffn_avg", "dec_hidden", "dec_layers", "dec_ffn_avg")
    columns = [table.text(name) for name in names]
    return np.array([" ".join(row) for row in zip(*columns, strict=True)])


def encoder(table: CsvTable) -> OpTable:
    """One pass over the source of N rows."""
    n, h = table.integer("src_len_tok"), table.integer("enc_hidden")
    shapes = _calls(table, queries=n, cached=np.zeros_like(n))
    heads = _heads(table, "enc_heads_avg")
    widths = _widths(h, heads, table.number("enc_ffn_avg"), np.zeros_like(h))
    layers = lower_stack(_HAT, shapes, is_decoder=False, widths=widths)
    return OpTable.concat([_embedding(n, h), times(layers, table.number("enc_layers"))])


def decoder(table: CsvTable) -> OpTable:
    """All steps of N rows, and the keys of the states that they look at."""
    n, h = table.integer("src_len_tok"), table.integer("dec_hidden")
    source = np.rint(n * table.number("dec_cross_enc_layers_avg")).astype(np.int64)
    heads = _heads(table, "dec_self_heads_avg")
    ffn, steps, layers = (
        table.number("dec_ffn_avg"),
        table.integer("dec_steps"),
        table.number("dec_layers"),
    )
    beams = table.integer("batch") * table.integer("beam")
    widths = _widths(h, heads, ffn, table.integer("enc_hidden"))
    parts = []
    for cached, count in step_lengths(np.zeros_like(steps), steps, 1):
        shapes = _calls(table, queries=np.ones_like(n), cached=cached, rows=beams, source=source)
        parts.append(times(lower_stack(_HAT, shapes, widths=widths), layers * count))
    once = _calls(table, queries=np.ones_like(n), cached=steps, rows=beams, source=source)
    parts.append(times(lower_cross_keys(_HAT, once, widths=widths), layers))
    around = [_embedding(beams, h), _logits(table, beams, h)]
    return OpTable.concat([*parts, *(times(part, steps.astype(np.float64)) for part in around)])


_HAT = load_backbone("hat-wmt14-en-de")


def _calls(
    table: CsvTable,
    *,
    queries: I64,
    cached: I64,
    rows: I64 | None = None,
    source: I64 | None = None,
) -> CallShapes:
    zero = np.zeros(len(table), dtype=np.int64)
    return CallShapes(
        layer=zero,
        batch=table.integer("batch") if rows is None else rows,
        queries=queries,
        cached=cached,
        dtype=zero + FP32,
        source=source,
    )


def _heads(table: CsvTable, name: str) -> I64:
    """The power of two nearest to an average number of heads."""
    heads: I64 = 2 ** np.rint(np.log2(table.number(name))).astype(np.int64)
    return heads


def _widths(hidden: I64, heads: I64, ffn: F64, source: I64) -> Widths:
    return Widths(
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head=WIDTH // heads,
        ffn=np.rint(ffn).astype(np.int64),
        source=source,
    )


def _embedding(tokens: I64, width: I64) -> OpTable:
    """Words and fixed positions, scaled and added."""
    rows = Rows(np.zeros_like(tokens), np.full_like(tokens, FP32))
    rows.values("gather", tokens, width, moves=2, flops=0, count=2.0)
    rows.values("elementwise", tokens, width, moves=3, flops=2)
    return rows.table()


def _logits(table: CsvTable, beams: I64, width: I64) -> OpTable:
    vocabulary = np.array([VOCABULARY[str(t)] for t in table.text("task")], dtype=np.int64)
    rows = Rows(np.zeros_like(beams), np.full_like(beams, FP32))
    rows.matmul(beams, width, vocabulary, bias=0)
    return rows.table()
