"""Tables on the screen: drawn on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO


def print_table(
    out: TextIO, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print rows under their column names.

    Args:
        out: Where to; a terminal gets a drawn table (without colour if NO_COLOR is set).
        title: One line above the table; empty for none.
        columns: C column names.
        rows: Cells [R][C]. Columns whose cells are all numbers stand right.
    """
    right = [_is_numeric([row[c] for row in rows]) for c in range(len(columns))]
    if out.isatty():
        _draw(out, title, columns, rows, right)
    else:
        _align(out, title, columns, rows, right)


def _draw(
    out: TextIO,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=SIMPLE)
    for name, numeric in zip(columns, right, strict=True):
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=out).print(table)


def _align(
    out: TextIO,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
) -> None:
    widths = [max(len(row[c]) for row in [columns, *rows]) for c in range(len(columns))]
    if title:
        out.write(f"{title}\n")
    for row in [columns, *rows]:
        cells = [
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, right, strict=True)
        ]
        out.write("  ".join(cells).rstrip() + "\n")


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell not in ("", "-")]
    return bool(filled) and all(_is_number(cell) for cell in filled)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds with three significant digits or more; `-` when unknown."""
    if seconds is None:
        return "-"
    ms = seconds * 1e3
    return f"{ms:.0f}" if ms >= 1000 else f"{ms:.3g}"


def megabytes(count: float | None) -> str:
    """Bytes as 10^6 bytes; `-` when unknown."""
    return "-" if count is None else f"{count / 1e6:.1f}"


def percent(share: float | None) -> str:
    """A share as percent with two decimals; `-` when unknown."""
    return "-" if share is None else f"{share * 100:.2f}"
