"""Token scores and skimming mechanisms, one file each, found by scanning this folder."""

from __future__ import annotations

from functools import cache

from search_spaces.errors import InputError
from search_spaces.records import nearest
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
    if kind not in known:
        text = f"unknown mechanism{nearest(kind, known)}"
        raise InputError.one("arguments", "skim.mechanism", kind, text)
    return known[kind]
