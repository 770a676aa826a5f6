"""Five disjoint splits, cut by content hash before anything is trained."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass

from dynsearch.quality.data import Examples, Text
from search_spaces.errors import InputError

SPLITS = ("report", "calibrate", "search", "early_stop", "train")
BETWEEN = "\x1f"  # a unit separator is white space to `str.split`
MIN_ROWS = 200  # of search and of report rows
FEW_ROWS = 2000  # report rows under which the interval is printed first


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSizes:
    """Rows of each split; `train` takes what is left, at most `train`."""

    report: int
    calibrate: int
    search: int
    early_stop: int
    train: int | None = None


PRESETS = {
    "sentences": SplitSizes(report=2000, calibrate=400, search=2000, early_stop=300),
    "reviews": SplitSizes(report=4000, calibrate=4000, search=4000, early_stop=1000, train=10000),
}


def sizes_for(rows: int) -> SplitSizes:
    """25 / 5 / 20 / 5 % of `rows` for report, calibrate, search and early stopping."""
    return SplitSizes(
        report=rows * 25 // 100,
        calibrate=rows * 5 // 100,
        search=rows * 20 // 100,
        early_stop=rows * 5 // 100,
    )


def normalise(text: Text) -> str:
    """Text as it is compared for duplicates: NFKC, lower case, single spaces.

    Both texts of a pair count, in their order; what divides them occurs in no normalised text.
    """
    if not isinstance(text, str):
        return BETWEEN.join(normalise(part) for part in text)
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def unseen(more: Examples, examples: Examples) -> Examples:
    """Distinct examples of `more` whose texts are not among `examples`, ordered by content."""
    known, first = _first_rows(examples), _first_rows(more)
    return more.subset([first[key] for key in sorted(first) if key not in known])


def _first_rows(examples: Examples) -> dict[str, int]:
    """Row of the first text of each content, by its sha256."""
    first: dict[str, int] = {}
    for i, text in enumerate(examples.texts):
        first.setdefault(hashlib.sha256(normalise(text).encode()).hexdigest(), i)
    return first


def split_examples(
    examples: Examples, sizes: SplitSizes | None = None, *, file: str = "data"
) -> dict[str, Examples]:
    """The five splits: duplicates dropped, ordered by sha256 of the text, cut by count.

    The first of several exact duplicates (after `normalise`) stays, whatever its label.

    Raises:
        InputError: fewer than 200 search or report rows, or nothing left to train on.
    """
    first = _first_rows(examples)
    order = [first[key] for key in sorted(first)]
    sizes = sizes or sizes_for(len(order))
    counts = [sizes.report, sizes.calibrate, sizes.search, sizes.early_stop]
    left = len(order) - sum(counts)
    if sizes.search < MIN_ROWS or sizes.report < MIN_ROWS or left < MIN_ROWS:
        raise InputError.one(
            file,
            "rows",
            len(order),
            f"too few distinct rows: {sizes.search} search, {sizes.report} report and {left} "
            f"training rows would result, {MIN_ROWS} of each are needed; 1000 rows are enough",
        )
    counts.append(left if sizes.train is None else min(left, sizes.train))
    out: dict[str, Examples] = {}
    start = 0
    for name, count in zip(SPLITS, counts, strict=True):
        out[name] = examples.subset(order[start : start + count])
        start += count
    return out
