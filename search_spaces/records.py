"""Plain tables (TOML, JSON) -> frozen records, with every problem of a table found at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from search_spaces.errors import InputError, Problem

SCHEMA_VERSION = 1

_SCALARS: dict[type, str] = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
}


class Reader:
    """Reads values out of one file and collects what is wrong with it."""

    def __init__(self, file: object) -> None:
        self.file = str(file)
        self.problems: list[Problem] = []

    def fail(self, key: str, value: object, message: str) -> None:
        """Note a problem; reading goes on."""
        shown = "" if value is None else repr(value) if isinstance(value, str) else str(value)
        self.problems.append(Problem(self.file, key, shown, message))

    def stop_if_bad(self) -> None:
        """Raise `InputError` with all problems noted so far, if there are any."""
        if self.problems:
            raise InputError(self.problems)

    def table(self, data: object, key: str, known: Iterable[str]) -> dict[str, Any]:
        """`data` as a table with its unknown keys reported and left out."""
        if not isinstance(data, Mapping):
            self.fail(key, data, "must be a table")
            return {}
        names = tuple(known)
        for name in data:
            if name not in names:
                self.fail(_join(key, str(name)), None, f"unknown key{nearest(str(name), names)}")
        return {str(name): value for name, value in data.items() if name in names}

    def value(self, data: object, kind: Any, key: str) -> Any:
        """`data` as `kind` (int, float, str, bool, X | None or tuple[X, ...]), else None."""
        options = [k for k in get_args(kind) if k is not NoneType]
        if get_origin(kind) is tuple:
            return self._items(data, options[0], key)
        if NoneType in get_args(kind):
            return self.value(data, options[0], key)
        if kind is float and type(data) is int:
            return float(data)
        if type(data) is not kind:
            self.fail(key, data, f"must be {_SCALARS[kind]}")
            return None
        return data

    def record(self, cls: type, data: object, key: str) -> Any:
        """`data` as a `cls`, or None where a problem was noted."""
        before = len(self.problems)
        kinds = kinds_of(cls)
        table = self.table(data, key, kinds)
        if isinstance(data, Mapping):
            for f in fields(cls):
                if f.default is MISSING and f.default_factory is MISSING and f.name not in table:
                    self.fail(_join(key, f.name), None, "is missing")
        values = {n: self.value(v, kinds[n], _join(key, n)) for n, v in table.items()}
        return cls(**values) if len(self.problems) == before else None

    def version(self, data: Mapping[str, Any]) -> None:
        """Check `schema_version`."""
        found = data.get("schema_version")
        if found is None:
            self.fail("schema_version", None, f"is missing: add schema_version = {SCHEMA_VERSION}")
        elif type(found) is not int or found < 1:
            self.fail("schema_version", found, "must be a positive integer")
        elif found > SCHEMA_VERSION:
            self.fail(
                "schema_version",
                found,
                f"is newer than this dynsearch reads ({SCHEMA_VERSION}): upgrade dynsearch",
            )

    def _items(self, data: object, kind: Any, key: str) -> tuple[Any, ...]:
        if not isinstance(data, list | tuple):
            self.fail(key, data, "must be a list")
            return ()
        return tuple(self.value(x, kind, f"{key}[{i}]") for i, x in enumerate(data))


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML file at `path` as a dict.

    Raises:
        InputError: there is no such file, or it is not TOML.
    """
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise InputError.one(path, "", None, f"{reason}: check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError.one(path, "", None, f"is not valid TOML: {error}") from error


def shipped_file(name_or_path: str | Path, folder: Path, what: str) -> Path:
    """The TOML file of a shipped thing by its name, or the path of a file of the user's own.

    Raises:
        InputError: neither a name in the folder (with the nearest one) nor a path to TOML.
    """
    text, path = str(name_or_path), Path(name_or_path)
    names = shipped_names(folder)
    if text in names:
        return folder / f"{text}.toml"
    if path.suffix != ".toml":
        way = f"no {what} of this name{nearest(text, names)}; a path ends in .toml"
        raise InputError.one("arguments", what, text, way)
    return path


def shipped_names(folder: Path) -> list[str]:
    """Names of the TOML files in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message: "did you mean" the nearest name, or the list of known ones."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f", did you mean {close[0]}?" if close else f", known: {', '.join(names)}"


def require_known(word: str, known: Iterable[str], key: str, what: str) -> None:
    """Refuse a word of the arguments, under `key`, that is no `what`.

    Raises:
        InputError: it is unknown; the message has the nearest name.
    """
    names = list(known)
    if word not in names:
        raise InputError.one("arguments", key, word, f"unknown {what}{nearest(word, names)}")


@cache
def kinds_of(cls: type) -> dict[str, Any]:
    """Field name -> type of a record, in order."""
    return get_type_hints(cls)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
