"""Pretrained weights from a Hugging Face folder: BERT, RoBERTa, ELECTRA, DistilBERT.

Names of the flat dictionary that `DynamicEncoder` reads (l = 0-based layer, E = expert count):

    embeddings.{word,position,token_type,norm.weight,norm.bias}
    embeddings.project.{weight,bias}                  only where embeddings are of another width
    layers.l.{qkv,out,ffn_in,ffn_out}.{weight,bias}   qkv = query, key, value stacked
    layers.l.{norm1,norm2}.{weight,bias}              after attention, after the FFN
    layers.l.router{E}.{weight,bias}                  [E, h], [E]
    layers.l.experts{E}.base                          [h] FFN bias + mean output of all experts
    layers.l.experts{E}.minus_mean                    [E, h] minus the mean output of each expert
    heads.l.{dense,out}.{weight,bias}                 exit head after layer l
    scorer.{hidden,out}.{weight,bias}                 ranks tokens before the first layer
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dynsearch.checksums import file_sha256
from dynsearch.models.dynamic import EncoderConfig, Weights
from dynsearch.models.families import FAMILIES, Family
from search_spaces.candidate import Backbone
from search_spaces.errors import InputError

# What decides a model besides its weights: geometry and settings, and how texts become tokens.
SETTINGS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def model_sha256(folder: Path) -> str:
    """sha256 of a model folder as hex: its weights, its settings and its tokenizer.

    Raises:
        InputError: no weights in it.
    """
    digest = hashlib.sha256()
    for path in (weights_path(folder), *(folder / name for name in SETTINGS)):
        if path.is_file():
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a Hugging Face folder, checked to be an encoder that can be run.

    Raises:
        InputError: folder or file missing, unreadable, or another architecture.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError.one(folder, "", None, "no such model folder; give one with config.json")
    if not path.is_file():
        raise InputError.one(
            folder, "config.json", None, "missing; is this a Hugging Face folder?"
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError.one(path, "", None, f"not JSON: {error}") from error
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise InputError.one(
            path, "model_type", kind, f"not supported; supported: {', '.join(FAMILIES)}"
        )
    act = FAMILIES[kind].activation
    if config.get(act, "gelu") != "gelu":
        raise InputError.one(path, act, config[act], "only gelu is supported")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InputError.one(
            path,
            "position_embedding_type",
            config["position_embedding_type"],
            "only absolute positions are supported",
        )
    return config


def read_backbone(folder: Path) -> Backbone:
    """Geometry of the model in `folder`.

    Raises:
        InputError: as `read_config`, or a size is missing.
    """
    c = read_config(folder)
    family = FAMILIES[c["model_type"]]
    sizes: dict[str, Any] = {ours: c.get(theirs) for ours, theirs in family.keys.items()}
    for ours, theirs in family.keys.items():
        if not isinstance(sizes[ours], int):
            raise InputError.one(
                folder / "config.json", theirs, sizes[ours], "an integer is needed"
            )
    if family.positions_after_padding:
        sizes["max_len"] -= c.get("pad_token_id", 1) + 1
    width = c.get("embedding_size") if family.projection else None
    return Backbone(
        name=str(c.get("_name_or_path") or folder.name).rsplit("/", 1)[-1].lower(),
        **sizes,
        embedding_size=None if width == sizes["hidden_size"] else width,
        type_vocab_size=c.get("type_vocab_size", 2) if family.has_token_types else 1,
    )


def norm_eps(folder: Path) -> float:
    """The constant that layer norms add to the variance."""
    return float(read_config(folder).get("layer_norm_eps", 1e-12))


def encoder_config(backbone: Backbone, *, num_classes: int, norm_eps: float) -> EncoderConfig:
    """The runnable model's configuration, before any expert split."""
    return EncoderConfig(
        num_layers=backbone.num_layers,
        hidden_size=backbone.hidden_size,
        num_heads=backbone.num_heads,
        ffn_size=backbone.ffn_size,
        vocab_size=backbone.vocab_size,
        max_len=backbone.max_len,
        type_vocab_size=backbone.type_vocab_size,
        num_classes=num_classes,
        norm_eps=norm_eps,
    )


def weights_path(folder: Path) -> Path:
    """The safetensors file of a Hugging Face folder."""
    path = folder / "model.safetensors"
    if not path.is_file():
        other = "; pytorch_model.bin is a pickle and is not read: convert it to safetensors"
        hint = other if (folder / "pytorch_model.bin").exists() else ""
        raise InputError.one(folder, "model.safetensors", None, "no weights here" + hint)
    return path


def read_pretrained(folder: Path, *, sha256: str | None = None) -> Weights:
    """Backbone weights of a model folder, in fp32, under our names.

    Raises:
        InputError: no weights, a file that is no safetensors file, missing tensors, or a checksum
            that differs from `sha256`.
    """
    path = weights_path(folder)
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise InputError.one(
            path, "sha256", found, f"expected {sha256}; reinstall the package that carries it"
        )
    try:
        raw = load_file(str(path))
    except Exception as error:  # safetensors raises its own, undocumented types
        raise InputError.one(
            path, "", None, f"not a readable safetensors file: {error}"
        ) from error
    config = read_config(folder)
    family = FAMILIES[config["model_type"]]
    raw = {k.removeprefix(family.prefix): v.to(torch.float32) for k, v in raw.items()}
    try:
        return _rename(raw, family, config)
    except KeyError as error:
        raise InputError.one(path, error.args[0], None, "tensor missing from the file") from error


def _rename(raw: dict[str, Tensor], family: Family, config: dict[str, Any]) -> Weights:
    out: Weights = {ours: raw[theirs] for ours, theirs in family.embeddings.items()}
    if family.positions_after_padding:
        out["embeddings.position"] = out["embeddings.position"][
            config.get("pad_token_id", 1) + 1 :
        ]
    width = out["embeddings.word"].shape[1]
    out["embeddings.token_type"] = (
        raw["embeddings.token_type_embeddings.weight"]
        if family.has_token_types
        else torch.zeros(1, width)
    )
    for kind in ("weight", "bias"):
        if family.projection is not None and width != config[family.keys["hidden_size"]]:
            out[f"embeddings.project.{kind}"] = raw[f"{family.projection}.{kind}"]
        for layer in range(config[family.keys["num_layers"]]):
            theirs = family.layer.format(l=layer)
            parts = [raw[f"{theirs}{x}.{kind}"] for x in family.qkv]
            out[f"layers.{layer}.qkv.{kind}"] = torch.cat(parts)
            for ours, name in family.parts.items():
                out[f"layers.{layer}.{ours}.{kind}"] = raw[f"{theirs}{name}.{kind}"]
    return out
