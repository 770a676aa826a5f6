"""Stored states take the place of the first layers.

SkipBERT (Wang et al., ACL 2022): the states of all frequent n-grams (tri-grams) after the first
layers lie in a table; a token whose n-gram is not in it is computed.
"""

from __future__ import annotations

from search_spaces.parts import Skim
from search_spaces.skims.base import Bool, SkimRule, Tokens


def through(skim: Skim, layer: int, tokens: Tokens) -> Bool:
    """Tokens whose n-gram is not stored ("stored" at or below 0.5)."""
    return (tokens.array("stored") <= 0.5) & tokens.alive & tokens.own


def table_bytes(entries: int, hidden: int, bytes_per_value: float) -> float:
    """Size of the table: one state of `hidden` values an n-gram."""
    return entries * hidden * bytes_per_value


RULE = SkimRule(
    kind="lookup", through=through, arrays=("stored",), keeps_protected=False, falls=False
)
