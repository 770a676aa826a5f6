"""CSV files as columns, with one check for every way in which measurements are given wrong.

    table = read_csv(path, root, COLUMNS)
    m, seconds = table.integer("m"), table.seconds("latency")     # latency_us, _ms, ... in SI

Each complaint is an `InputError` that names file, column, row (the line in the file) and value.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import InputError, Problem

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Names = NDArray[np.str_]

SECONDS: dict[str, float] = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
NAMED = 5  # wrong values that are named one by one; the others are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvTable:
    """N rows of text by column; the methods turn columns into checked arrays."""

    file: str  # as messages and `Measured.source` name it
    columns: Mapping[str, Names]  # [N] each
    line: I64  # [N] line of the file that a row starts in, at least about

    def __len__(self) -> int:
        return int(self.line.size)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def take(self, rows: NDArray[Any]) -> CsvTable:
        """The rows at `rows` (indices or mask)."""
        return CsvTable(
            file=self.file,
            columns={name: values[rows] for name, values in self.columns.items()},
            line=self.line[rows],
        )

    def text(self, name: str) -> Names:
        """A column as it stands [N].

        Raises:
            InputError: no such column.
        """
        if name not in self.columns:
            raise InputError.one(self.file, name, None, _missing(name, self.columns))
        return self.columns[name]

    def number(self, name: str, *, blank: bool = False, signed: bool = False) -> F64:
        """A column of numbers [N], above 0 unless `signed`; NaN where `blank` cells are empty.

        Raises:
            InputError: no such column, or values that are no such numbers, with their rows.
        """
        text = self.text(name)
        try:
            values = text.astype(np.float64)
        except ValueError:
            values = np.array([_float(cell) for cell in text])
        empty = np.char.str_len(np.char.strip(text)) == 0 if blank else np.zeros(len(self), bool)
        values = np.where(empty, np.nan, values)
        rule = "must be a number" if signed else "must be a number above 0"
        fine = np.isfinite(values) & (signed | (values > 0)) | empty
        self._refuse(name, text, ~fine, f"{rule}; mend or remove the row")
        return values

    def integer(self, name: str) -> I64:
        """A column of whole numbers above 0 [N].

        Raises:
            InputError: as `number`, or a fraction.
        """
        values = self.number(name)
        whole = values == np.floor(values)
        self._refuse(name, self.text(name), ~whole, "must be a whole number; mend the row")
        return values.astype(np.int64)

    def seconds(self, stem: str) -> F64:
        """The column `stem`_ns, _us, _ms or _s in seconds [N], each above 0.

        Raises:
            InputError: none of them is there, or values are wrong.
        """
        for unit, si in SECONDS.items():
            if f"{stem}_{unit}" in self.columns:
                return self.number(f"{stem}_{unit}") * si
        text = f"is missing; give {stem}_us, {stem}_ms or {stem}_s, the unit in the name"
        raise InputError.one(self.file, stem, None, text)

    def refuse(self, name: str, wrong: NDArray[np.bool_], message: str) -> None:
        """Complain about the cells of a column where `wrong` [N], if there are any.

        Raises:
            InputError: some are wrong, with their rows and values.
        """
        self._refuse(name, self.text(name), wrong, message)

    def _refuse(self, name: str, text: Names, wrong: NDArray[np.bool_], message: str) -> None:
        rows = np.flatnonzero(wrong)
        if rows.size == 0:
            return
        problems = [
            Problem(self.file, f"{name}, row {self.line[i]}", str(text[i]) or "empty", message)
            for i in rows[:NAMED]
        ]
        if rows.size > NAMED:
            problems.append(Problem(self.file, name, "", f"{rows.size - NAMED} more rows like it"))
        raise InputError(problems)


def shown(path: Path, root: Path) -> str:
    """How messages name a file: relative to the data folder."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def columns_of(path: Path, root: Path) -> list[str]:
    """Names in the first line of a CSV file.

    Raises:
        InputError: it cannot be read.
    """
    lines = _lines(path, shown(path, root), first_only=True)
    return lines[0] if lines else []


def read_csv(
    path: Path,
    root: Path,
    required: Iterable[str] = (),
    *,
    repeats: bool = False,
    fewest: int = 1,
) -> CsvTable:
    """All rows of a CSV file, packed with gzip or not.

    Args:
        path: File.
        root: Data folder; the file is named relative to it.
        required: Columns that must be there; further ones may.
        repeats: Whether equal rows are repeats of a measurement, as in some published tables.
            Otherwise they are an error: a row that was pasted twice would count twice.
        fewest: Rows that must be there.

    Raises:
        InputError: unreadable, missing columns, a quantity in two units, rows of another
            length, equal rows, too few rows: all that is found.
    """
    file = shown(path, root)
    lines = _lines(path, file)
    header = lines[0] if lines else []
    body = [(number, row) for number, row in enumerate(lines[1:], start=2) if row]
    problems = _header_problems(file, header, required)
    for number, row in [pair for pair in body if len(pair[1]) != len(header)][:NAMED]:
        text = f"has {len(row)} cells, the header {len(header)}; mend the row"
        problems.append(Problem(file, f"row {number}", "", text))
    if not repeats:
        problems += _repeated(file, body)
    if len(body) < fewest:
        text = f"too few rows, {fewest} are needed; measure more"
        problems.append(Problem(file, "rows", str(len(body)), text))
    if problems:
        raise InputError(problems)
    cells = np.array([row for _, row in body], dtype=str).reshape(len(body), len(header))
    return CsvTable(
        file=file,
        columns={name: cells[:, i] for i, name in enumerate(header)},
        line=np.array([number for number, _ in body], dtype=np.int64),
    )


def _lines(path: Path, file: str, *, first_only: bool = False) -> list[list[str]]:
    try:
        opened = gzip.open if path.name.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            return [next(rows, [])] if first_only else list(rows)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        text = f"cannot be read as CSV ({error}); give comma-separated text in UTF-8"
        raise InputError.one(file, "", None, text) from error


def _header_problems(file: str, header: list[str], required: Iterable[str]) -> list[Problem]:
    problems = [
        Problem(file, name, "", _missing(name, header))
        for name in sorted(set(required) - {*header})
    ]
    for name in sorted({name for name in header if header.count(name) > 1}):
        problems.append(Problem(file, name, "", "stands in the header twice; keep one"))
    units: dict[str, list[str]] = {}
    for name in dict.fromkeys(header):
        stem, _, unit = name.rpartition("_")
        if unit in SECONDS and stem and not stem.endswith("_per"):
            units.setdefault(stem, []).append(name)
    for names in units.values():
        if len(names) > 1:
            text = f"the same quantity also stands in {', '.join(names[1:])}; keep one unit"
            problems.append(Problem(file, names[0], "", text))
    return problems


def _repeated(file: str, body: list[tuple[int, list[str]]]) -> list[Problem]:
    first: dict[tuple[str, ...], int] = {}
    problems: list[Problem] = []
    more = 0
    for number, row in body:
        at = first.setdefault(tuple(row), number)
        if at == number:
            continue
        if len(problems) < NAMED:
            text = f"repeats row {at} in every column; remove it, or measure it again"
            problems.append(Problem(file, f"row {number}", "", text))
        else:
            more += 1
    if more:
        problems.append(Problem(file, "rows", "", f"{more} more repeat earlier ones"))
    return problems


def _missing(name: str, present: Iterable[str]) -> str:
    return f"is missing; the columns are {', '.join(present) or 'none'}"


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
