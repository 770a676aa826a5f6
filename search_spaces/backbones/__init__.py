"""Published geometries, one TOML a file, each with its source and its parameter count."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from search_spaces.backbone import Backbone
from search_spaces.records import Reader, read_toml, shipped_file, shipped_names

_FOLDER = Path(__file__).parent
_NAMES = [f.name for f in fields(Backbone)]
_LATER = frozenset(_NAMES[_NAMES.index("tied_layers") + 1 :])
_KEYS = ("schema_version", "source", "num_parameters", "backbone")


def list_backbones() -> list[str]:
    """Names of the shipped backbones, sorted."""
    return shipped_names(_FOLDER)


def load_backbone(name_or_path: str | Path) -> Backbone:
    """A shipped backbone by name, or one from a TOML file.

    Raises:
        InputError: neither a shipped name nor a readable file, or the file has problems (all of
            them are listed).
    """
    path = shipped_file(name_or_path, _FOLDER, "backbone")
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
    """The backbone as a plain table.

    Unset (None) fields are left out, and so are those that came later than the first files where
    they have their default: tables, and hashes of them, stay as they were.
    """
    values = {f.name: getattr(backbone, f.name) for f in fields(backbone)}
    plain = {f.name: f.default for f in fields(backbone) if f.name in _LATER}
    return {
        name: value
        for name, value in values.items()
        if value is not None and not (name in plain and value == plain[name])
    }
