"""Tiny random model folders of every family, written by the reference implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

VOCABULARY, POSITIONS, LAYERS = 60, 40, 3
PAD = {"bert": 0, "distilbert": 0, "electra": 0, "roberta": 1}
BYTE_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_COMMON = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
_SHAPE = {
    "num_hidden_layers": LAYERS,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    **_COMMON,
}
_OWN: dict[str, dict[str, Any]] = {
    "bert": _SHAPE,
    "distilbert": {"n_layers": LAYERS, "dim": 32, "n_heads": 4, "hidden_dim": 48, **_COMMON},
    "electra": {**_SHAPE, "embedding_size": 16},
    "roberta": {**_SHAPE, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1},
}
_CLASS = {"bert": "Bert", "distilbert": "DistilBert", "electra": "Electra", "roberta": "Roberta"}


def reference_model(folder: Path, kind: str, *, head: str = "Model", **changes: Any) -> Any:
    """Write a folder of family `kind` and return the reference model, ready to run.

    All parameters are random, norms and paddings included, so that none can be left out; the
    embeddings are small, so that the epsilon of their norm matters.
    """
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, _CLASS[kind] + "Config")(**{**_OWN[kind], **changes})
    torch.manual_seed(7)
    model = getattr(transformers, _CLASS[kind] + head)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.02 if "embeddings." in name else 0.2)
    model.save_pretrained(folder)
    return model


def byte_vocabulary(folder: Path, texts: list[str], size: int = 400) -> None:
    """Write vocab.json and merges.txt, trained on `texts`, with RoBERTa's special tokens first."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, vocab_size=size, min_frequency=1, special_tokens=BYTE_SPECIAL, show_progress=False
    )
    tokenizer.save_model(str(folder))
