"""What is simulated: a candidate in a TOML file, or a published method by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import search_spaces
from dynsearch.errors import InputError
from search_spaces.backbones import list_backbones, load_backbone
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict
from search_spaces.records import nearest, read_toml

METHODS = Path(search_spaces.__file__).parent / "methods"


@dataclass(frozen=True, slots=True)
class Subject:
    """A candidate, what it is called, and where it came from."""

    name: str
    candidate: Candidate
    file: Path


def method_names() -> list[str]:
    """Names of the shipped methods, sorted."""
    return sorted(path.stem for path in METHODS.glob("*.toml"))


def load_subject(name: str | Path) -> Subject:
    """A method by name, or the candidate in a TOML file (a method's file has it in a table).

    Raises:
        InputError: no such method (with the nearest names) or file, or a faulty candidate.
    """
    text, path = str(name), Path(name)
    if path.suffix != ".toml":
        path = METHODS / f"{text}.toml"
        if not path.is_file():
            hint = nearest(text, method_names())
            way = f"no method of this name{hint}; a candidate's path ends in .toml"
            raise InputError.one("arguments", "METHOD", text, way)
    data = read_toml(path)
    table = data["candidate"] if isinstance(data.get("candidate"), dict) else data
    return Subject(path.stem, candidate_from_dict(table, file=path), path)


def load_stage(name: str, beside: Path) -> Subject:
    """A stage of a cascade: as `load_subject`, also beside its file, or a whole backbone.

    Args:
        name: Method, file or backbone.
        beside: File that names it; relative paths start in its folder.

    Raises:
        InputError: as `load_subject`.
    """
    if Path(name).suffix == ".toml":
        near = beside.parent / name
        return load_subject(near if near.is_file() else name)
    if name in method_names() or name not in list_backbones():
        return load_subject(name)
    backbone = load_backbone(name)
    whole = Candidate(backbone=backbone, depth=backbone.num_layers)
    return Subject(name, whole, beside)
