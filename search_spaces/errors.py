"""The exception tree of the whole project. `dynsearch.errors` re-exports it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class DynsearchError(Exception):
    """Base of every error that dynsearch raises on purpose. The CLI exits with status 1."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input, and the way out.

    Attributes:
        file: The file (or "command line", "arguments") that holds the value.
        key: Dotted path of the key, column or field inside that file.
        value: The offending value as the user wrote it.
        message: What is wrong and what to do, one sentence or two.
    """

    file: str
    key: str
    value: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.key}" if self.key else self.file
        shown = f" = {self.value}" if self.value else ""
        return f"{place}{shown}: {self.message}"


class InputError(DynsearchError):
    """Bad input: lists every problem found at once. The CLI exits with status 2."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Problem, ...]]]:
        """So that it comes whole out of a worker process."""
        return type(self), (self.problems,)

    @classmethod
    def one(cls, file: object, key: str, value: object, message: str) -> InputError:
        """An error with a single problem."""
        return cls([Problem(str(file), key, "" if value is None else str(value), message)])
