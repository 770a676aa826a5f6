"""What is simulated: a candidate in a TOML file, or a published method by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dynsearch.errors import InputError
from search_spaces.activity import Assumed
from search_spaces.backbones import list_backbones, load_backbone
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict
from search_spaces.methods.files import list_methods, load_method
from search_spaces.records import nearest, read_toml


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A candidate, what it is called, and where it came from."""

    name: str
    candidate: Candidate
    file: Path
    assumed: Assumed = field(default_factory=Assumed)  # of a method's preset
    stages: Mapping[str, Candidate] = field(default_factory=dict)  # of a method's cascade
    published: bool = False  # a method by its name, not a file of the user's


def load_subject(name: str | Path) -> Subject:
    """A method by name, or the candidate in a TOML file (a method's file has it in a table).

    Raises:
        InputError: no such method (with the nearest names) or file, or a faulty candidate.
    """
    text, path = str(name), Path(name)
    if path.suffix != ".toml" and text not in list_methods():
        hint = nearest(text, list_methods())
        way = f"no method of this name{hint}; a candidate's path ends in .toml"
        raise InputError.one("arguments", "METHOD", text, way)
    data = {} if path.suffix != ".toml" else read_toml(path)
    if path.suffix == ".toml" and not isinstance(data.get("candidate"), Mapping):
        return Subject(name=path.stem, candidate=candidate_from_dict(data, file=path), file=path)
    method = load_method(name)
    return Subject(
        name=method.name,
        candidate=method.candidate,
        file=path,
        assumed=method.assumed,
        stages=method.stages,
        published=path.suffix != ".toml",
    )


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
    if name in list_methods() or name not in list_backbones():
        return load_subject(name)
    backbone = load_backbone(name)
    whole = Candidate(backbone=backbone, depth=backbone.num_layers)
    return Subject(name=name, candidate=whole, file=beside)
