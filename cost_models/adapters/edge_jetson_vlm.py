"""A 2B vision-language model on Jetson Orin Nano: time of a prompt and of a token.

The body is that of Qwen3-VL-2B (config.json of Qwen/Qwen3-VL-2B-Instruct: 28 layers of 2048, 16
heads of 128, 8 of them for keys and values, feed-forward 6144, tied vocabulary of 151936), of
which Cosmos-Reason2-2B is a fine-tuned one. Prompts are read where the file states their tokens
and the time is that of the network alone (TensorRT); an image prompt adds its vision encoder,
which runs before it and is not in the time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters import energy_jetson
from cost_models.adapters.edge_llm_rows import STORED_BITS, decode_step, prompt
from cost_models.adapters.edge_shapes import joined_ops
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.measured import Measured
from search_spaces.backbone import Backbone

COLUMNS = frozenset(
    {
        "device",
        "runtime",
        "weights",
        "prompt",
        "prompt_tokens",
        "output_tokens",
        "prefill_or_ttft_ms",
        "tpot_ms",
        "energy_per_token_mj",
    }
)
DEVICES = {"Jetson Orin Nano 8GB Super (MAXN_SUPER)": "nvidia-jetson-orin-nano-8g"}
USUAL_PROMPT = 128  # tokens in the cache where the file states none
BODY = Backbone(
    name="qwen3-vl-2b-body",
    type="decoder",
    num_layers=28,
    hidden_size=2048,
    num_heads=16,
    num_kv_heads=8,
    ffn_size=6144,
    ffn_kind="gated",
    vocab_size=151936,
    max_len=32768,
    type_vocab_size=0,
    tied_embeddings=True,
)


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each runtime: a row per token time, and per prompt where its time is known.

    Energy of tokens follows as tables of its own, where the file states power.

    Raises:
        InputError: missing columns or wrong values.
    """
    table = read_csv(path, root, COLUMNS, repeats=True)
    found = []
    for name, device in DEVICES.items():
        mine = (table.text("device") == name) & np.isin(table.text("weights"), list(STORED_BITS))
        for runtime in np.unique(table.text("runtime")[mine]):
            rows = table.take(mine & (table.text("runtime") == runtime))
            found.append(_times(rows, device, str(runtime)))
    return found + energy_jetson.table_energy(table)


def _times(table: CsvTable, device: str, runtime: str) -> Measured:
    tokens = table.number("prompt_tokens", blank=True)
    stated = np.flatnonzero(np.isfinite(tokens) & (runtime.startswith("TensorRT")))
    cached = np.where(np.isfinite(tokens), tokens, USUAL_PROMPT)
    cached = (cached + table.number("output_tokens") / 2).astype(np.int64)
    weights = [str(w) for w in table.text("weights")]
    steps = [decode_step(BODY, int(c), w) for c, w in zip(cached, weights, strict=True)]
    prompts = [prompt(BODY, int(tokens[i]), weights[i]) for i in stated]
    token_s, prompt_s = table.seconds("tpot"), table.take(stated).seconds("prefill_or_ttft")
    lengths = np.array([f"decode {c}" for c in cached])
    asked = np.array([f"prompt {int(t)}" for t in tokens[stated]])
    return Measured(
        source=table.file,
        device=device,
        runtime=runtime,
        family="end_to_end",
        ops=joined_ops([*steps, *prompts]),
        seconds=np.concatenate([token_s, prompt_s]),
        calls=np.ones(len(steps) + len(prompts)),
        group=np.concatenate([lengths, asked]),
        peer_s={},
    )
