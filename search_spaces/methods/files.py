"""Presets of published methods: found by scanning this folder, read with all problems at once.

A stage of a cascade is a table `[stages.NAME]` of the same file, or the name of a shipped
backbone, which then runs whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from search_spaces.activity import Assumed
from search_spaces.backbones import list_backbones, load_backbone
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict
from search_spaces.errors import InputError
from search_spaces.methods.records import (
    BATCH_CLASSES,
    EVIDENCE,
    FAMILIES,
    KV_CLASSES,
    QUANTITIES,
    Check,
    Knob,
    Method,
    Paper,
)
from search_spaces.records import SCHEMA_VERSION, Reader, kinds_of, nearest, read_toml

_FOLDER = Path(__file__).parent
_WITHOUT_POLICY = _FOLDER / "_without_policy.toml"  # names of presets begin with a letter
_TABLES: dict[str, type] = {"check": Check, "assumed": Assumed}
_NESTED = ("candidate", "stages", "knobs", *_TABLES)
_NAMED: dict[str, tuple[str, ...]] = {
    "family": FAMILIES,
    "evidence": EVIDENCE,
    "batch_class": BATCH_CLASSES,
    "kv_class": KV_CLASSES,
}


def list_methods() -> list[str]:
    """Names of the shipped methods, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("[a-z0-9]*.toml"))


def load_method(name_or_path: str | Path) -> Method:
    """A shipped method by name, or one from a TOML file.

    Raises:
        InputError: neither a shipped name nor a readable file, or the file has problems (all of
            them are listed).
    """
    text, path = str(name_or_path), Path(name_or_path)
    if text in list_methods():
        path = _FOLDER / f"{text}.toml"
    elif path.suffix != ".toml":
        raise InputError.one(
            "arguments",
            "method",
            text,
            f"no method of this name{nearest(text, list_methods())}; a path ends in .toml",
        )
    return read_method_file(read_toml(path), path)


def read_method_file(data: Mapping[str, Any], file: object) -> Method:
    """The method in the content of a preset.

    Raises:
        InputError: lists every problem of the content.
    """
    reader = Reader(file)
    reader.version(data)
    kinds = kinds_of(Method)
    table = reader.table(data, "", ("schema_version", *kinds))
    values: dict[str, Any] = {
        name: reader.value(value, kinds[name], name)
        for name, value in table.items()
        if name in kinds and name not in _NESTED
    }
    for f in fields(Method):
        missing = f.default is MISSING and f.default_factory is MISSING
        if missing and f.name not in table:
            reader.fail(f.name, None, "is missing")
    for name, known in _NAMED.items():
        _one_of(reader, name, values.get(name), known)
    for name, cls in _TABLES.items():
        if name in table:
            values[name] = reader.record(cls, table[name], name)
    knobs = table.get("knobs", [])
    values["knobs"] = tuple(reader.record(Knob, k, f"knobs[{i}]") for i, k in enumerate(knobs))
    if isinstance(values.get("check"), Check):
        _one_of(reader, "check.quantity", values["check"].quantity, QUANTITIES)
    if "candidate" in table:
        values["candidate"] = _candidate(reader, table["candidate"], "candidate")
        values["stages"] = _stages(reader, values["candidate"], table.get("stages", {}))
    reader.stop_if_bad()
    return Method(**values)


def papers_without_policy() -> list[Paper]:
    """Papers of the survey's list that are no dynamic method, with the reason of each.

    Raises:
        InputError: the shipped file has problems.
    """
    data = read_toml(_WITHOUT_POLICY)
    reader = Reader(_WITHOUT_POLICY)
    reader.version(data)
    table = reader.table(data, "", ("schema_version", "papers"))
    papers = [reader.record(Paper, p, f"papers[{i}]") for i, p in enumerate(table["papers"])]
    reader.stop_if_bad()
    return papers


def _one_of(reader: Reader, key: str, value: Any, known: tuple[str, ...]) -> None:
    if isinstance(value, str) and value not in known:
        reader.fail(key, value, f"is not known{nearest(value, known)}")


def _candidate(reader: Reader, data: Any, key: str) -> Candidate | None:
    """The candidate in a table without a schema version of its own."""
    if not isinstance(data, Mapping):
        reader.fail(key, data, "must be a table")
        return None
    try:
        return candidate_from_dict({"schema_version": SCHEMA_VERSION, **data})
    except InputError as error:
        for problem in error.problems:
            reader.fail(f"{key}.{problem.key}", problem.value or None, problem.message)
        return None


def _stages(reader: Reader, candidate: Candidate | None, tables: Any) -> dict[str, Candidate]:
    """Every stage of the candidate's cascade, in order."""
    names = candidate.cascade.stages if candidate is not None and candidate.cascade else ()
    found: dict[str, Candidate] = {}
    given = reader.table(tables, "stages", names)
    for name in names:
        if name in given:
            stage = _candidate(reader, given[name], f"stages.{name}")
        elif name in list_backbones():
            backbone = load_backbone(name)
            stage = Candidate(backbone=backbone, depth=backbone.num_layers)
        else:
            text = f"is no shipped backbone{nearest(name, list_backbones())}; or add [stages.{name}]"
            reader.fail("candidate.cascade.stages", name, text)
            continue
        if stage is not None:
            found[name] = stage
    return found
