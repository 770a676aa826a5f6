"""Candidate <-> plain tables, TOML and a canonical hash. Floats round-trip exactly."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from search_spaces.backbones import backbone_table, load_backbone
from search_spaces.candidate import Backbone, Candidate, Cascade, Exits, Experts, Skim
from search_spaces.errors import InputError
from search_spaces.parts import later_defaults
from search_spaces.records import SCHEMA_VERSION, Reader, kinds_of, read_toml

_PARTS: dict[str, type] = {"exits": Exits, "moe": Experts, "cascade": Cascade}
_SCALARS: dict[str, type] = {"depth": int, "exit_batching": str, "dtype": str, "pooling": str}
# Came after the first files: left out where they have their default, so that hashes stay.
_LATER: dict[str, type] = {"compact_every": int, "decoder_depth": int, "output": str}
_KEYS = ("schema_version", "backbone", *_SCALARS, *_LATER, *_PARTS, "skim")


def candidate_to_dict(candidate: Candidate) -> dict[str, Any]:
    """The candidate as a table of plain values (no None, no tuples), backbone inlined."""
    table: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        **{name: kind(getattr(candidate, name)) for name, kind in _SCALARS.items()},
        "backbone": backbone_table(candidate.backbone),
    }
    defaults = {f.name: f.default for f in fields(Candidate)}
    for name, kind in _LATER.items():
        value = getattr(candidate, name)
        if value != defaults[name]:
            table[name] = kind(value)
    for name in _PARTS:
        part = getattr(candidate, name)
        if part is not None:
            table[name] = _plain(part)
    if candidate.skim:
        table["skim"] = [_plain(skim) for skim in candidate.skim]
    return table


def candidate_from_dict(data: Mapping[str, Any], *, file: object = "candidate") -> Candidate:
    """The candidate in a table that `candidate_to_dict` wrote or a person did.

    `backbone` is a table or the name of a shipped backbone.

    Args:
        data: The table.
        file: Name for messages.

    Raises:
        InputError: lists every unknown key (with the nearest name), wrong type, missing key, and
            a newer schema. Whether the values make sense is `validity.check`'s question.
    """
    reader = Reader(file)
    reader.version(data)
    table = reader.table(data, "", _KEYS)
    values: dict[str, Any] = {
        name: reader.value(table[name], kind, name)
        for name, kind in (_SCALARS | _LATER).items()
        if name in table
    }
    if "depth" not in table:
        reader.fail("depth", None, "is missing")
    values["backbone"] = _read_backbone(reader, table)
    for name, cls in _PARTS.items():
        if name in table:
            values[name] = reader.record(cls, table[name], name)
    skims = table.get("skim", [])
    if not isinstance(skims, list | tuple):
        reader.fail("skim", skims, "must be a list of tables, written [[skim]] in TOML")
        skims = []
    values["skim"] = tuple(reader.record(Skim, s, f"skim[{i}]") for i, s in enumerate(skims))
    reader.stop_if_bad()
    return Candidate(**values)


def to_toml(candidate: Candidate) -> str:
    """The candidate as TOML text that `load_candidate` reads back to an equal record."""
    tables: list[tuple[str, dict[str, Any]]] = []
    lines: list[str] = []
    for name, value in candidate_to_dict(candidate).items():
        if isinstance(value, dict):
            tables.append((f"[{name}]", value))
        elif name == "skim":
            tables += [("[[skim]]", item) for item in value]
        else:
            lines.append(f"{name} = {_toml(value)}")
    for title, table in tables:
        lines += ["", title, *(f"{name} = {_toml(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def load_candidate(path: str | Path) -> Candidate:
    """The candidate in a TOML file.

    Raises:
        InputError: as `candidate_from_dict`, or the file cannot be read.
    """
    return candidate_from_dict(read_toml(Path(path)), file=path)


def in_words(value: Any) -> Any:
    """A table with infinite numbers as words, which JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {key: in_words(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [in_words(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def candidate_hash(candidate: Candidate) -> str:
    """Sha256 (hex) of the canonical JSON: keys sorted, no spaces, floats by repr."""
    table = candidate_to_dict(candidate)
    text = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_backbone(reader: Reader, table: Mapping[str, Any]) -> Backbone | None:
    if "backbone" not in table:
        reader.fail("backbone", None, "is missing: a table or the name of a shipped backbone")
        return None
    value = table["backbone"]
    if not isinstance(value, str):
        backbone = reader.record(Backbone, value, "backbone")
        return backbone if isinstance(backbone, Backbone) else None
    try:
        return load_backbone(value)
    except InputError as error:
        for problem in error.problems:
            reader.fail("backbone", value, problem.message)
        return None


def _plain(record: Any) -> dict[str, Any]:
    """Fields that are set, with the types that the record declares (numpy and int included)."""
    table: dict[str, Any] = {}
    cls: type = type(record)
    later = later_defaults(cls)
    for name, kind in kinds_of(cls).items():
        value, kinds = getattr(record, name), get_args(kind) or (kind,)
        if value is not None and not (name in later and value == later[name]):
            many = isinstance(value, tuple)
            table[name] = [kinds[0](x) for x in value] if many else kinds[0](value)
    return table


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(x) for x in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
