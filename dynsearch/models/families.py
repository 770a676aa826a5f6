"""Encoder families as data: what their config files and tensors are called, where they differ.

All of them are post-norm transformer encoders with absolute positions and GELU: BERT (Devlin et
al. 2019; MiniLM has its layout), DistilBERT (Sanh et al. 2019), RoBERTa (Liu et al. 2019) and the
discriminator of ELECTRA (Clark et al. 2020). `{l}` stands for a layer's number.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one `model_type` writes what every encoder has."""

    prefix: str  # of tensor names where the encoder is part of a larger model
    keys: dict[str, str]  # our name of a size -> its key in config.json
    layer: str  # of all tensors of a layer
    parts: dict[str, str]  # our linear or norm of a layer -> theirs
    qkv: tuple[str, str, str]  # query, key, value
    positions_after_padding: bool = False  # positions count from pad_token_id + 1
    has_token_types: bool = True
    activation: str = "hidden_act"
    embeddings: dict[str, str] = field(
        default_factory=lambda: {
            "embeddings.word": "embeddings.word_embeddings.weight",
            "embeddings.position": "embeddings.position_embeddings.weight",
            "embeddings.norm.weight": "embeddings.LayerNorm.weight",
            "embeddings.norm.bias": "embeddings.LayerNorm.bias",
        }
    )
    projection: str | None = None  # linear from the embeddings' width to the layers'


SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "ffn_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_len": "max_position_embeddings",
}
PARTS = {
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
    "norm2": "output.LayerNorm",
}
QKV = ("attention.self.query", "attention.self.key", "attention.self.value")
LAYER = "encoder.layer.{l}."

FAMILIES: dict[str, Family] = {
    "bert": Family(prefix="bert.", keys=SIZES, layer=LAYER, parts=PARTS, qkv=QKV),
    "roberta": Family(
        prefix="roberta.",
        keys=SIZES,
        layer=LAYER,
        parts=PARTS,
        qkv=QKV,
        positions_after_padding=True,
    ),
    "electra": Family(
        prefix="electra.",
        keys=SIZES,
        layer=LAYER,
        parts=PARTS,
        qkv=QKV,
        projection="embeddings_project",
    ),
    "distilbert": Family(
        prefix="distilbert.",
        keys={
            **SIZES,
            "num_layers": "n_layers",
            "hidden_size": "dim",
            "num_heads": "n_heads",
            "ffn_size": "hidden_dim",
        },
        layer="transformer.layer.{l}.",
        parts={
            "out": "attention.out_lin",
            "norm1": "sa_layer_norm",
            "ffn_in": "ffn.lin1",
            "ffn_out": "ffn.lin2",
            "norm2": "output_layer_norm",
        },
        qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        has_token_types=False,
        activation="activation",
    ),
}
