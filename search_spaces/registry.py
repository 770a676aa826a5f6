"""Finds records by scanning a package: one file per method, no list to keep in step."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def scan(package: str, attribute: str) -> dict[str, Any]:
    """The records called `attribute` in the modules of `package`, by their `kind`.

    Args:
        package: Importable package, such as "search_spaces.exits".
        attribute: Module-level name that a module must have to be counted.

    Returns:
        `kind` -> record, sorted by kind.

    Raises:
        ValueError: two modules declare the same kind.
    """
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        record = getattr(importlib.import_module(f"{package}.{module.name}"), attribute, None)
        if record is None:
            continue
        if record.kind in found:
            raise ValueError(f"{package}: kind {record.kind!r} is declared twice")
        found[record.kind] = record
    return dict(sorted(found.items()))
