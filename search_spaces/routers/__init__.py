"""Expert routers, one file each, found by scanning this folder."""

from __future__ import annotations

from functools import cache

from search_spaces.records import require_known
from search_spaces.registry import scan
from search_spaces.routers.base import Router


@cache
def routers() -> dict[str, Router]:
    """All routers by kind."""
    return scan("search_spaces.routers", "ROUTER")


def router(kind: str) -> Router:
    """The router of this kind.

    Raises:
        InputError: there is none; the message has the nearest name.
    """
    known = routers()
    require_known(kind, known, "moe.router", "router")
    return known[kind]
