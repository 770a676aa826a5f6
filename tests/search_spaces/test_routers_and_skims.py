from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import keep_counts
from search_spaces.registry import scan
from search_spaces.routers import routers
from search_spaces.skims import skim_rules, skim_scores
from search_spaces.vocabulary import MECHANISMS, ROUTERS

SMALL = st.integers(0, 3).map(float)  # few values, so that ties are common


def test_scanning_finds_the_shipped_methods() -> None:
    assert set(routers()) == set(ROUTERS)
    assert set(skim_rules()) == set(MECHANISMS)
    assert set(skim_scores()) == {"attention_received"}


@given(scores=st.lists(SMALL, min_size=1, max_size=6), data=st.data())
def test_the_k_best_experts_win_and_ties_go_to_the_lower_number(
    scores: list[float], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(scores)))
    expected = sorted(range(len(scores)), key=lambda e: (-scores[e], e))[:k]
    select = routers()["token_choice"].select
    assert select is not None
    assert select(np.array(scores), k).tolist() == expected


@given(
    rows=st.lists(st.lists(SMALL, min_size=6, max_size=6), min_size=1, max_size=4),
    rate=st.floats(0.05, 1.0),
    data=st.data(),
)
def test_the_protected_and_the_most_attended_stay(
    rows: list[list[float]], rate: float, data: st.DataObject
) -> None:
    lengths = np.array([data.draw(st.integers(2, 6)) for _ in rows])
    counts = keep_counts(lengths, np.array(rate))
    mask = skim_scores()["attention_received"].keep(np.array(rows), lengths, counts, 1)
    for row, n, count, kept in zip(rows, lengths, counts, mask, strict=True):
        rest = sorted(range(1, n), key=lambda i: (-row[i], i))[: count - 1]
        assert np.flatnonzero(kept).tolist() == sorted([0, *rest])


@given(rows=st.lists(st.lists(SMALL, min_size=5, max_size=5), min_size=2, max_size=4))
def test_what_a_sample_keeps_never_depends_on_batch_mates(rows: list[list[float]]) -> None:
    keep = skim_scores()["attention_received"].keep
    lengths, counts = np.full(len(rows), 5), np.full(len(rows), 3)
    together = keep(np.array(rows), lengths, counts, 1)
    for i in range(len(rows)):
        assert np.array_equal(
            keep(np.array(rows[i : i + 1]), lengths[:1], counts[:1], 1)[0], together[i]
        )


def test_importance_is_the_mean_attention_of_heads_and_own_tokens() -> None:
    rng = np.random.default_rng(0)
    attention = rng.random((2, 3, 4, 4))
    lengths = np.array([4, 2])
    got = skim_scores()["attention_received"].importance(attention, lengths)
    for b, n in enumerate(lengths):
        for key in range(4):
            values = [attention[b, h, q, key] for h in range(3) for q in range(n)]
            assert got[b, key] == pytest.approx(np.mean(values))


def test_a_kind_declared_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Record:
        kind = "same"

    package = types.ModuleType("twins")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "twins", package)
    for name in ("a", "b"):
        module = types.ModuleType(f"twins.{name}")
        module.RECORD = Record  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"twins.{name}", module)
    monkeypatch.setattr(
        "pkgutil.iter_modules", lambda path: [types.SimpleNamespace(name=n) for n in "ab"]
    )
    with pytest.raises(ValueError, match="declared twice"):
        scan("twins", "RECORD")
