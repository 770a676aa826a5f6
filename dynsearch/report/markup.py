"""HTML that is escaped unless it was built here: the report shows names that users chose."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

_VOID = frozenset({"input", "meta", "br"})


class Html(str):
    """Text that is already HTML."""

    __slots__ = ()


Child = str | int | Iterable["Child"] | None


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Html:
    """One element. Text children and attribute values are escaped, `Html` children are not.

    Args:
        name: Element name.
        children: Text, `Html`, or iterables of them; None is skipped.
        attributes: A trailing or inner underscore stands for nothing or "-" (`class_`, `data_id`);
            True gives a bare attribute, None or False leaves it out.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        parts.append(f" {label}" if value is True else f' {label}="{escape(str(value))}"')
    parts.append(">")
    if name in _VOID:
        return Html("".join(parts))
    return Html("".join(parts) + join(children) + f"</{name}>")


def join(children: Child) -> Html:
    """The children one after another, escaped where they are plain text."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str | int):
        return Html(escape(str(children)))
    return Html("".join(join(child) for child in children))


def json_block(name: str, data: Any) -> Html:
    """`data` as a JSON script element with id `name` that no text in it can close.

    Raises:
        ValueError: when a figure is not finite.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(sign, code)
    return Html(f'<script type="application/json" id="{escape(name)}">{text}</script>')
