"""`dynsearch bench RUN --agreement` as text."""

from __future__ import annotations

from typing import Any, TextIO

from dynsearch.agreement import COLUMNS, cells, sentence
from dynsearch.commands.tables import print_table


def show(result: dict[str, Any], out: TextIO) -> None:
    """A line a runtime, number format and batch, then the intervals over all of them."""
    print_table(out, "predicted against measured", COLUMNS, [cells(r) for r in result["rows"]])
    out.write(f"{sentence(result['pooled'])}\n{result['files'][0]}\n")
