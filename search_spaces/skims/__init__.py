"""Token scores for skimming, one file each, found by scanning this folder."""

from __future__ import annotations

from functools import cache

from search_spaces.registry import scan
from search_spaces.skims.base import SkimScore


@cache
def skim_scores() -> dict[str, SkimScore]:
    """All skim scores by kind."""
    return scan("search_spaces.skims", "SKIM")
