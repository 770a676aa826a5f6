"""Turns what pydantic finds wrong in a job file into problems that say the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dynsearch.errors import Problem

# What pydantic adds to a place in [budgets]: the kind of budget, and that the name is meant.
_NO_KEYS = ("absolute", "relative", "[key]")

_WANTED = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list in brackets",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "missing": "is required and missing; add it",
    "finite_number": "must be a finite number",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """A way out for an unknown name: the nearest known ones, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(names)}"


def problems_of(
    error: ValidationError, model: type[BaseModel], raw: dict[str, Any], *, file: str
) -> list[Problem]:
    """One problem for each finding, in the order of the file's model.

    Args:
        error: What `model.model_validate(raw)` raised.
        model: The outermost model.
        raw: The parsed file, for the offending values.
        file: Its name.
    """
    return [_problem(details, model, raw, file) for details in error.errors(include_url=False)]


def _problem(details: ErrorDetails, model: type[BaseModel], raw: Any, file: str) -> Problem:
    path = _path(details["loc"])
    value = "" if details["type"] == "missing" else _shown(_lookup(raw, path))
    return Problem(file, _dotted(path), value, _message(details, model, path))


def _path(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    if loc and loc[0] == "budgets":
        return tuple(part for part in loc if part not in _NO_KEYS)
    return loc


def _dotted(path: tuple[int | str, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _lookup(raw: Any, path: tuple[int | str, ...]) -> Any:
    for part in path:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            return ""
    return raw


def _shown(value: Any) -> str:
    """The value as its file would hold it, cut to a readable length; tables are not repeated."""
    if isinstance(value, dict):
        return ""
    text = f'"{value}"' if isinstance(value, str) and value else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= 60 else f"{text[:57]}..."


def _message(details: ErrorDetails, model: type[BaseModel], path: tuple[int | str, ...]) -> str:
    kind = details["type"]
    context = details.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(model, path)
    if kind == "literal_error":
        return f"must be one of {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "too_short":
        return "must hold at least one entry"
    if kind == "string_pattern_mismatch":
        return (
            "may hold letters, digits, dots, dashes, underscores; at most 64, none of . _ - first"
        )
    if kind in _WANTED:
        return _WANTED[kind]
    text = details["msg"].replace("Input should be", "must be")
    return text[:1].lower() + text[1:]


def _unknown_key(model: type[BaseModel], path: tuple[int | str, ...]) -> str:
    name = str(path[-1])
    if len(path) > 1 and name in model.model_fields:
        return f"unknown key here; move `{name}` to the top of the file, before the first [table]"
    table = model
    for part in path[:-1]:
        kind = table.model_fields[str(part)].annotation if part in table.model_fields else None
        tables = [k for k in (kind, *get_args(kind)) if isinstance(k, type)]  # or of a union
        inner = next((k for k in tables if issubclass(k, BaseModel)), None)
        if inner is not None:
            table = inner
        else:
            return "unknown key; a budget is a number or { of_full_network = share }"
    return f"unknown key; {nearest(name, table.model_fields)}"
