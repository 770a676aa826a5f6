"""Presets of published methods: found by scanning this folder, read with all problems at once.

A stage of a cascade is the file of a candidate, beside the preset, or the name of a shipped
backbone, which then runs whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from search_spaces.activity import Assumed
from search_spaces.backbones import load_backbone
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict, load_candidate
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
from search_spaces.records import (
    SCHEMA_VERSION,
    Reader,
    kinds_of,
    nearest,
    read_toml,
    shipped_file,
    shipped_names,
)
from search_spaces.validity import check

_FOLDER = Path(__file__).parent
_WITHOUT_POLICY = _FOLDER / "papers" / "without_policy.toml"
_TABLES: dict[str, type] = {"check": Check, "assumed": Assumed}
_NESTED = ("candidate", "knobs", *_TABLES)
_NAMED: dict[str, tuple[str, ...]] = {
    "family": FAMILIES,
    "evidence": EVIDENCE,
    "batch_class": BATCH_CLASSES,
    "kv_class": KV_CLASSES,
}


def list_methods() -> list[str]:
    """Names of the shipped methods, sorted."""
    return shipped_names(_FOLDER)


def load_method(name_or_path: str | Path) -> Method:
    """A shipped method by name, or one from a TOML file.

    Raises:
        InputError: neither a shipped name nor a readable file, or the file has problems (all of
            them are listed).
    """
    path = shipped_file(name_or_path, _FOLDER, "method")
    return read_method_file(read_toml(path), path)


def read_method_file(data: Mapping[str, Any], file: object) -> Method:
    """The method in the content of a preset.

    Raises:
        InputError: lists every problem of the content.
    """
    reader = Reader(file)
    reader.version(data)
    kinds = {n: k for n, k in kinds_of(Method).items() if n != "stages"}
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
    if not isinstance(knobs, list | tuple):
        reader.fail("knobs", knobs, "must be a list of tables, written [[knobs]] in TOML")
        knobs = []
    values["knobs"] = tuple(reader.record(Knob, k, f"knobs[{i}]") for i, k in enumerate(knobs))
    if isinstance(values.get("check"), Check):
        _one_of(reader, "check.quantity", values["check"].quantity, QUANTITIES)
    if "candidate" in table:
        values["candidate"] = _candidate(reader, table["candidate"], "candidate")
        values["stages"] = _stages(reader, values["candidate"], Path(str(file)).parent)
        if values["candidate"] is not None:
            _check_candidate(reader, values["candidate"], values.get("assumed") or Assumed())
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


def _check_candidate(reader: Reader, candidate: Candidate, assumed: Assumed) -> None:
    """Refuse what means nothing, and shares that do not fit the candidate."""
    for finding in check(candidate):
        if finding.severity == "reject":
            reader.fail(f"candidate.{finding.key}", finding.value, finding.reason)
    exits, cascade = candidate.exits, candidate.cascade
    known = exits is None or exits.criterion in ("static", "position_schedule")
    wanted = {
        "exit_share": 0 if exits is None or known else len(exits.layers),
        "answer_share": 0 if cascade is None else len(cascade.thresholds),
    }
    for name, size in wanted.items():
        shares = getattr(assumed, name)
        if len(shares) != size:
            reader.fail(f"assumed.{name}", list(shares), f"needs {size} shares, one per exit")
        elif any(x < 0 for x in shares) or sum(shares) > 1 + 1e-9:
            reader.fail(f"assumed.{name}", list(shares), "must be shares that sum to 1 at most")


def _stages(reader: Reader, candidate: Candidate | None, folder: Path) -> dict[str, Candidate]:
    """Every stage of the candidate's cascade, in order."""
    names = candidate.cascade.stages if candidate is not None and candidate.cascade else ()
    found: dict[str, Candidate] = {}
    for name in names:
        try:
            if name.endswith(".toml"):
                found[name] = load_candidate(folder / name)
            else:
                backbone = load_backbone(name)
                found[name] = Candidate(backbone=backbone, depth=backbone.num_layers)
        except InputError as error:
            for problem in error.problems:
                reader.fail("candidate.cascade.stages", name, problem.message)
    return found
