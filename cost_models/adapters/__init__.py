"""Measured tables from CSV files, recognised by their columns, one adapter a module.

An adapter is a module of this folder with

    COLUMNS: frozenset[str]                              # what a file must have to be its own
    def read(path: Path, root: Path) -> list[Measured]   # `reader.read_csv` does the checking

Folders and file names mean nothing: a file belongs to the adapter whose columns it has; where
several match, the one with the most columns. Further columns do not disturb.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cost_models.adapters.reader import columns_of, shown
from cost_models.measured import Measured
from search_spaces.errors import InputError, Problem


class Adapter(Protocol):
    """What a module of this folder offers."""

    COLUMNS: frozenset[str]

    def read(self, path: Path, root: Path) -> list[Measured]:
        """Measured tables of one file; `root` is the data folder that sources are named after."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a data folder holds.

    Attributes:
        tables: Measured rows, one table for each source, device, runtime and family.
        read: Files that an adapter read -> the name of the adapter.
        unrecognised: CSV files whose columns no adapter knows, relative to the folder.
        faulty: What is wrong with files that an adapter knows but could not read.
    """

    tables: tuple[Measured, ...]
    read: Mapping[str, str]
    unrecognised: tuple[str, ...]
    faulty: tuple[Problem, ...]


def adapters() -> dict[str, Adapter]:
    """Every module of this folder that declares columns, by its name."""
    found: dict[str, Adapter] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "COLUMNS"):
            found[info.name] = module
    return found


def adapter_of(columns: Iterable[str], known: Mapping[str, Adapter]) -> str | None:
    """Name of the most specific adapter whose columns are all there; None where none is."""
    present = frozenset(columns)
    fitting = [(len(a.COLUMNS), name) for name, a in known.items() if present >= a.COLUMNS]
    return max(fitting)[1] if fitting else None


def csv_files(root: Path) -> list[Path]:
    """CSV files, also packed ones, in a folder and below, or the file itself.

    Raises:
        InputError: no such folder, or none in it.
    """
    if root.is_file():
        return [root]
    files = sorted(p for p in root.rglob("*") if p.name.endswith((".csv", ".csv.gz")))
    if not files:
        text = "holds no .csv or .csv.gz file; give a folder with measured tables"
        raise InputError.one("data", "folder", root, text)
    return files


def scan(root: Path, *, known: Mapping[str, Adapter] | None = None) -> Found:
    """Read every table of a data folder that an adapter recognises.

    Args:
        root: Folder, searched with all that is below, or one file.
        known: Adapters by name; None: those of this package.

    Raises:
        InputError: no CSV file there.
    """
    known = adapters() if known is None else known
    base = root.parent if root.is_file() else root
    tables: list[Measured] = []
    read: dict[str, str] = {}
    unrecognised: list[str] = []
    faulty: list[Problem] = []
    for path in csv_files(root):
        name = shown(path, base)
        try:
            adapter = adapter_of(columns_of(path, base), known)
            if adapter is None:
                unrecognised.append(name)
                continue
            tables += [part for part in known[adapter].read(path, base) if len(part)]
            read[name] = adapter
        except InputError as error:
            faulty += error.problems
    return Found(
        tables=tuple(tables), read=read, unrecognised=tuple(unrecognised), faulty=tuple(faulty)
    )
