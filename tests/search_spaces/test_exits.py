from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    CRITERIA,
    RUNNABLE_CRITERIA,
    InputError,
    exit_criteria,
    exit_criterion,
    exit_score,
)
from search_spaces.exits.patience import agreement_counts

SCORED = [c for c in RUNNABLE_CRITERIA if c != "patience"]
LOGITS = st.lists(st.floats(-30, 30), min_size=2, max_size=6)


def test_scanning_finds_exactly_the_criteria_of_the_vocabulary() -> None:
    assert set(exit_criteria()) == set(CRITERIA)


def by_hand(kind: str, logits: list[float], temperature: float) -> float:
    scaled = [x / temperature for x in logits]
    total = math.fsum(math.exp(x) for x in scaled)
    p = sorted((math.exp(x) / total for x in scaled), reverse=True)
    entropy = -math.fsum(x * math.log(x) for x in p if x > 0)
    return {
        "max_prob": p[0],
        "margin": p[0] - p[1],
        "entropy": -entropy,
        "entropy_normalized": 1 - entropy / math.log(len(p)),
    }[kind]


@pytest.mark.parametrize("kind", SCORED)
@given(logits=LOGITS, temperature=st.floats(0.5, 4))
def test_scores_equal_the_definition(kind: str, logits: list[float], temperature: float) -> None:
    score = exit_score(kind, np.array(logits), temperature)
    assert score is not None
    assert float(score) == pytest.approx(by_hand(kind, logits, temperature), abs=1e-12)


@pytest.mark.parametrize("kind", SCORED)
def test_scores_equal_the_definition_with_many_classes(kind: str) -> None:
    logits = np.random.default_rng(0).normal(size=300)
    score = float(exit_score(kind, logits))  # type: ignore[arg-type]
    assert score == pytest.approx(by_hand(kind, logits.tolist(), 1.0), abs=1e-12)


@pytest.mark.parametrize("kind", SCORED)
@given(logits=LOGITS)
def test_scores_stay_between_a_coin_toss_and_certainty(kind: str, logits: list[float]) -> None:
    low, high = exit_criterion(kind).legal_range(len(logits)) or (0.0, 0.0)
    score = float(exit_score(kind, np.array(logits)))  # type: ignore[arg-type]
    assert low - 1e-12 <= score <= high + 1e-12


@pytest.mark.parametrize("kind", SCORED)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_equal_logits_score_what_always_exits(kind: str, classes: int) -> None:
    criterion = exit_criterion(kind)
    assert criterion.always_exits_at is not None
    score = float(exit_score(kind, np.zeros(classes)))  # type: ignore[arg-type]
    assert score == pytest.approx(criterion.always_exits_at(classes), abs=1e-15)


@pytest.mark.parametrize("kind", SCORED)
@given(gap=st.floats(0, 10), more=st.floats(0.01, 5))
def test_a_surer_prediction_never_scores_less(kind: str, gap: float, more: float) -> None:
    pair = np.array([[gap, 0.0, 0.0], [gap + more, 0.0, 0.0]])
    score = exit_score(kind, pair)
    assert score is not None
    assert score[1] >= score[0]


@pytest.mark.parametrize("kind", SCORED)
def test_scores_are_stable_and_vectorised_in_float64(kind: str) -> None:
    logits = np.array([[[900.0, -900.0], [0.0, 1.0]]], dtype=np.float32)
    score = exit_score(kind, logits)
    assert score is not None
    assert score.shape == (1, 2)
    assert score.dtype == np.float64
    assert score[0, 0] == exit_criterion(kind).highest
    alone = exit_score(kind, logits[0, 1])
    assert score[0, 1] == alone


def test_patience_counts_agreements_in_a_row() -> None:
    predictions = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 0]])
    assert agreement_counts(predictions).tolist() == [[0, 1, 2, 0, 1], [0, 0, 0, 0, 0]]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.integers(1, 3))
def test_patience_first_fires_where_enough_neighbours_agree(seen: list[int], P: int) -> None:
    counts = agreement_counts(np.array(seen))
    for x in range(len(seen)):
        run = x >= P and len(set(seen[x - P : x + 1])) == 1
        assert (counts[x] >= P) == run


def test_patience_has_neither_score_nor_threshold() -> None:
    assert exit_score("patience", np.zeros(2)) is None
    assert exit_criterion("patience").legal_range(2) is None


def test_an_unknown_criterion_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean entropy"):
        exit_criterion("entropie")
