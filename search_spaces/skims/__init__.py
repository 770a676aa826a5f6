"""Token scores and skimming mechanisms, one file each, found by scanning this folder."""

from __future__ import annotations

from functools import cache

from search_spaces.records import require_known
from search_spaces.registry import scan
from search_spaces.skims.base import SkimRule, SkimScore


@cache
def skim_scores() -> dict[str, SkimScore]:
    """All skim scores by kind."""
    return scan("search_spaces.skims", "SKIM")


@cache
def skim_rules() -> dict[str, SkimRule]:
    """All skimming mechanisms by kind."""
    return scan("search_spaces.skims", "RULE")


def skim_rule(kind: str) -> SkimRule:
    """The mechanism of this kind.

    Raises:
        InputError: there is none; the message has the nearest name.
    """
    known = skim_rules()
    require_known(kind, known, "skim.mechanism", "mechanism")
    return known[kind]
