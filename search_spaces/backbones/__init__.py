"""Published geometries, one TOML a file, each with its source and its parameter count."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from search_spaces.candidate import Backbone
from search_spaces.errors import InputError
from search_spaces.records import Reader, nearest, read_toml

_FOLDER = Path(__file__).parent
_KEYS = ("schema_version", "source", "num_parameters", "backbone")


def list_backbones() -> list[str]:
    """Names of the shipped backbones, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_backbone(name_or_path: str | Path) -> Backbone:
    """A shipped backbone by name, or one from a TOML file.

    Raises:
        InputError: neither a shipped name nor a readable file, or the file has problems (all of
            them are listed).
    """
    text = str(name_or_path)
    path = Path(name_or_path)
    if text in list_backbones():
        path = _FOLDER / f"{text}.toml"
    elif path.suffix != ".toml":
        raise InputError.one(
            "arguments",
            "backbone",
            text,
            f"no backbone of this name{nearest(text, list_backbones())}; a path ends in .toml",
        )
    return read_backbone_file(read_toml(path), path)


def read_backbone_file(data: dict[str, Any], file: object) -> Backbone:
    """The backbone in the content of a backbone file.

    Raises:
        InputError: lists every problem of the content.
    """
    reader = Reader(file)
    reader.version(data)
    table = reader.table(data, "", _KEYS)
    backbone = reader.record(Backbone, table.get("backbone", {}), "backbone")
    reader.stop_if_bad()
    assert isinstance(backbone, Backbone)
    return backbone


def backbone_table(backbone: Backbone) -> dict[str, Any]:
    """The backbone as a plain table; unset (None) fields are left out."""
    values = {f.name: getattr(backbone, f.name) for f in fields(backbone)}
    return {name: value for name, value in values.items() if value is not None}


def count_parameters(backbone: Backbone, *, pooler: bool = True) -> int:
    """Weights of a BERT-family encoder without task heads.

    Three embedding tables and a layer norm; per layer Q, K, V, output projection, two
    feed-forward matrices with biases and two layer norms; the pooler is h x h with a bias.

    Args:
        backbone: Geometry; `num_kv_heads`, `ffn_kind` and `tied_layers` are honoured.
        pooler: Whether the pooler of the published checkpoint is counted.
    """
    h, f = backbone.hidden_size, backbone.ffn_size
    kv = (backbone.num_kv_heads or backbone.num_heads) * backbone.head_size
    norm = 2 * h
    tables = backbone.vocab_size + backbone.max_len + backbone.type_vocab_size
    up = 2 if backbone.ffn_kind == "gated" else 1
    attention = 2 * (h * h + h) + 2 * (h * kv + kv)
    layer = attention + up * (h * f + f) + (f * h + h) + 2 * norm
    layers = 1 if backbone.tied_layers else backbone.num_layers
    return tables * h + norm + layers * layer + (h * h + h if pooler else 0)
