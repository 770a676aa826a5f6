"""For tests, also a user's: conformance suites of rule files, a tiny BERT folder and texts.

`check_criterion`, `check_aggregator`, `check_router` and `check_skim` prove that a rule file does
what simulation and export rely on. The material is made from a seed in well under a second and
needs no download, so tests of the whole pipeline run the real code on a real, if tiny, encoder.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dynsearch.conformance import check_aggregator as check_aggregator
from dynsearch.conformance import check_criterion as check_criterion
from dynsearch.conformance_tokens import check_router as check_router
from dynsearch.conformance_tokens import check_skim as check_skim

POSITIVE = ("good", "great", "fine", "warm", "bright", "clever", "funny", "moving")
NEGATIVE = ("bad", "poor", "dull", "cold", "dark", "clumsy", "boring", "flat")
NEUTRAL = ("the", "film", "plot", "a", "scene", "actor", "story", "is", "and", "of", "with", "end")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tiny_model(
    folder: Path, *, layers: int = 4, hidden: int = 32, heads: int = 4, seed: int = 0
) -> Path:
    """Write a BERT folder with random weights and a vocabulary of some thirty words."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*SPECIAL, *POSITIVE, *NEGATIVE, *NEUTRAL]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    config = {
        "_name_or_path": "tiny-bert",
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 64,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "type_vocab_size": 2,
        "vocab_size": len(vocabulary),
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        drawn: torch.Tensor = torch.randn(*shape, generator=generator)
        return drawn.mul(shape[-1] ** -0.5)

    tensors = {
        "embeddings.word_embeddings.weight": noise(len(vocabulary), hidden),
        "embeddings.position_embeddings.weight": noise(64, hidden) * 0.3,
        "embeddings.token_type_embeddings.weight": noise(2, hidden) * 0.3,
        "embeddings.LayerNorm.weight": torch.ones(hidden),
        "embeddings.LayerNorm.bias": torch.zeros(hidden),
    }
    shapes = {
        "attention.self.query": (hidden, hidden),
        "attention.self.key": (hidden, hidden),
        "attention.self.value": (hidden, hidden),
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (2 * hidden, hidden),
        "output.dense": (hidden, 2 * hidden),
    }
    for layer in range(layers):
        name = f"encoder.layer.{layer}."
        for part, (rows, columns) in shapes.items():
            tensors[f"{name}{part}.weight"] = noise(rows, columns)
            tensors[f"{name}{part}.bias"] = 0.02 * noise(rows)
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"{name}{norm}.weight"] = torch.ones(hidden)
            tensors[f"{name}{norm}.bias"] = torch.zeros(hidden)
    save_file(tensors, folder / "model.safetensors")
    return folder


def tiny_texts(rows: int = 1200, *, seed: int = 0) -> list[tuple[str, str]]:
    """`rows` distinct (text, label): more good words than bad ones, or the other way round.

    Long texts with a narrow majority are hard, short ones with a wide majority easy, so exits at
    different depths are worth something.
    """
    rng = np.random.default_rng(seed)
    out: dict[str, str] = {}
    while len(out) < rows:
        length = int(rng.integers(3, 18))
        lean = rng.random()
        kinds = rng.random(length)
        words = [
            str(rng.choice(NEUTRAL if k < 0.4 else POSITIVE if rng.random() < lean else NEGATIVE))
            for k in kinds
        ]
        score = sum((w in POSITIVE) - (w in NEGATIVE) for w in words)
        if score:
            out[" ".join(words)] = "positive" if score > 0 else "negative"
    return list(out.items())


def tiny_data(path: Path, rows: int = 1200, *, seed: int = 0) -> Path:
    """Write `tiny_texts` as JSON Lines with columns text and label."""
    lines = [json.dumps({"text": t, "label": k}) for t, k in tiny_texts(rows, seed=seed)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
