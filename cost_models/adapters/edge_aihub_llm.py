"""Language models on Snapdragon boards, as the Qualcomm AI Hub lists them.

Two times a row: one prompt chunk of 128 tokens (`ttft_min_ms`; the longest prompt of the file is
that times the number of chunks, so it is not read, nor are rows whose only chunk is of unknown
length) and one token at a time (`decode_tok_per_s`), against a cache taken to be half full of a
chunk. Models are read whose geometry is shipped, fine-tuned ones under that of their base.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.edge_aihub import board_of
from cost_models.adapters.edge_llm_rows import STORED_BITS, decode_step, prompt
from cost_models.adapters.edge_shapes import joined_ops
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.backbones import load_backbone
from search_spaces.ops import OpTable

COLUMNS = frozenset(
    {
        "model",
        "precision",
        "device",
        "runtime",
        "context_length_tok",
        "ttft_min_ms",
        "ttft_max_ms",
        "decode_tok_per_s",
    }
)
CHUNK = 128
BACKBONES = {  # model of the file -> shipped geometry that it has
    "llama_v2_7b_chat": "llama2-7b",
    "llama_v3_8b_instruct": "llama3-8b",
    "llama_v3_1_8b_instruct": "llama3-8b",
    "llama_v3_1_sea_lion_3_5_8b_r": "llama3-8b",
    "llama_v3_elyza_jp_8b": "llama3-8b",
    "llama_v3_taide_8b_chat": "llama3-8b",
    "mistral_7b_instruct_v0_3": "mistral-7b",
}


def read(path: Path, root: Path) -> list[Measured]:
    """Prompts and decode steps of each board and runtime, one table each.

    Raises:
        InputError: missing columns or wrong values.
    """
    table = read_csv(path, root, COLUMNS)
    known = np.isin(table.text("model"), list(BACKBONES))
    known &= np.isin(table.text("precision"), list(STORED_BITS))
    board = np.array([board_of(str(name)) or "" for name in table.text("device")])
    runtime = table.text("runtime")
    keys = zip(board, runtime, strict=True)
    found = []
    for name, ran in sorted({(str(b), str(r)) for b, r in keys if b}):
        part = table.take(known & (board == name) & (runtime == ran))
        if len(part):
            found += _measured(part, name, ran)
    return found


def unread(path: Path, root: Path) -> list[str]:
    """What of a file is not read, and why: boards without a file, models without a geometry."""
    table = read_csv(path, root, COLUMNS)
    boards = [n for n in np.unique(table.text("device")) if board_of(str(n)) is None]
    models = [n for n in np.unique(table.text("model")) if str(n) not in BACKBONES]
    return [f"{path.name}: {n} has no device file" for n in boards] + [
        f"{path.name}: {n} has no shipped geometry" for n in models
    ]


def _measured(table: CsvTable, board: str, runtime: str) -> list[Measured]:
    models = [BACKBONES[str(name)] for name in table.text("model")]
    weights = [str(name) for name in table.text("precision")]
    first, last = table.seconds("ttft_min"), table.seconds("ttft_max")
    chunked = np.flatnonzero(last > first)
    group = np.array(models)
    networks = [load_backbone(name) for name in models]
    steps = [decode_step(n, CHUNK // 2, w) for n, w in zip(networks, weights, strict=True)]
    prompts = [prompt(networks[i], CHUNK, weights[i]) for i in chunked]
    token_s = 1.0 / table.number("decode_tok_per_s")
    parts: list[tuple[list[OpTable], np.ndarray, np.ndarray]] = [(steps, token_s, group)]
    if chunked.size:
        parts.append((prompts, first[chunked], group[chunked]))
    return [
        Measured(
            source=table.file,
            device=board,
            runtime=runtime,
            family="end_to_end",
            ops=joined_ops(ops),
            seconds=seconds,
            calls=np.ones(len(ops)),
            group=names,
            peer_s={},
        )
        for ops, seconds, names in parts
    ]
