"""llama-bench of TinyLlama on Jetson Nano: tokens per second of a 512-token prompt and of decoding.

Only rows with the whole network on the graphics processor are read: with fewer layers on it the
processor does the rest, which is another device.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cost_models.adapters.edge_llm_rows import STORED_BITS, decode_step, prompt
from cost_models.adapters.edge_shapes import joined_ops
from cost_models.adapters.reader import read_csv
from cost_models.measured import Measured
from search_spaces.backbones import load_backbone

COLUMNS = frozenset(
    {
        "device",
        "backend",
        "gpu_layers",
        "model",
        "weights",
        "prefill512_tok_per_s",
        "decode128_tok_per_s",
    }
)
DEVICES = {"Jetson Nano 4GB (Tegra X1)": "nvidia-jetson-nano-4g"}
BACKBONES = {"TinyLlama-1.1B": "tinyllama-1.1b"}
PROMPT, DECODED = 512, 128


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each device, a row for the prompt and one for a token of each run.

    Raises:
        InputError: missing columns or wrong values.
    """
    table = read_csv(path, root, COLUMNS)
    layers = table.number("gpu_layers", signed=True)
    found = []
    for name, device in DEVICES.items():
        mine = (table.text("device") == name) & np.isin(table.text("model"), list(BACKBONES))
        mine &= np.isin(table.text("weights"), list(STORED_BITS))
        models = [BACKBONES.get(str(m), "") for m in table.text("model")]
        depth = np.array([load_backbone(m).num_layers if m else np.inf for m in models])
        rows = table.take(mine & (layers >= depth))
        if not len(rows):
            continue
        network = load_backbone(BACKBONES[str(rows.text("model")[0])])
        weights = [str(w) for w in rows.text("weights")]
        ops = [prompt(network, PROMPT, w) for w in weights]
        ops += [decode_step(network, DECODED // 2, w) for w in weights]
        prompt_s = PROMPT / rows.number("prefill512_tok_per_s")
        token_s = 1.0 / rows.number("decode128_tok_per_s")
        found.append(
            Measured(
                source=rows.file,
                device=device,
                runtime="llama.cpp",
                family="end_to_end",
                ops=joined_ops(ops),
                seconds=np.concatenate([prompt_s, token_s]),
                calls=np.ones(len(ops)),
                group=np.array(["prompt"] * len(rows) + ["decode"] * len(rows)),
                peer_s={},
            )
        )
    return found
