"""Paths of policies and the losses along them, on a generated trace."""

from __future__ import annotations

import numpy as np
import pytest

from dynsearch.quality.trace import Trace
from dynsearch.risk.losses import RISKS, row_losses
from dynsearch.risk.path import answers_of, path_of
from dynsearch.sim.decide import exit_layers
from search_spaces.candidate import CRITERIA, PolicyBatch

LAYERS = 4


def trace(rows: int = 300, seed: int = 0) -> Trace:
    """Logits that grow surer with depth."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    growth = np.linspace(0.5, 3.0, LAYERS)[:, None]
    logits = rng.normal(0, 1, (rows, LAYERS, 3)) + growth * np.eye(3)[labels][:, None]
    zeros = np.zeros((rows, LAYERS), dtype=np.int32)
    return Trace(
        logits=logits.astype(np.float32),
        labels=labels,
        lengths=np.full(rows, 5),
        tokens_layer=zeros,
        tokens_ffn=zeros,
        expert_tokens=np.zeros((rows, LAYERS, 1), dtype=np.int32),
    )


def policy(criterion: str = "max_prob", thresholds: tuple[float, ...] = (0.9, 0.8, 0.7)):
    on = np.array([[True, True, True, False]])
    patience = criterion == "patience"
    return PolicyBatch(
        depth=np.array([LAYERS]),
        exit_on=on,
        criterion=np.array([CRITERIA.index(criterion)]),
        thresholds=np.full((1, LAYERS), np.inf) if patience else np.array([[*thresholds, np.inf]]),
        patience=np.array([2 if patience else 0]),
        temperature=np.array([1.5]),
        exit_batching=np.array([0]),
    )


@pytest.mark.parametrize("criterion", ["max_prob", "entropy", "margin", "patience"])
def test_a_path_goes_from_no_early_exit_to_the_earliest_and_holds_its_policy(criterion) -> None:
    given = policy(criterion, (-0.4, -0.5, -0.6) if criterion == "entropy" else (0.9, 0.8, 0.7))
    path = path_of(given, trace())
    other = trace(seed=1).logits
    leave = exit_layers(other, path.policies)  # [T, N]
    assert (np.diff(leave, axis=0) <= 0).all(), "no row exits later further along the path"
    assert (leave[0] == LAYERS - 1).all()
    if criterion != "patience":
        assert leave[-1].mean() < 0.02
        assert path.knob.index(0.0) > 0
    assert path.knob[0] is None
    steps = [k for k in path.knob if k is not None]
    assert steps == sorted(steps, reverse=True)
    own = 0.0 if criterion != "patience" else 2.0
    i = path.knob.index(own)
    np.testing.assert_array_equal(leave[i], exit_layers(other, given)[0])
    if criterion != "patience":
        np.testing.assert_array_equal(path.policies.thresholds[i], given.thresholds[0])


def test_thresholds_of_a_path_lie_between_scores_of_the_search_rows() -> None:
    """A policy decides alike, however its threshold is rounded."""
    search = trace()
    path = path_of(policy(), search)
    for shift in (-1e-9, 1e-9):
        moved = PolicyBatch(
            **{
                name: getattr(path.policies, name) + (shift if name == "thresholds" else 0)
                for name in ("depth", "criterion", "thresholds", "patience", "temperature")
            },
            exit_on=path.policies.exit_on,
            exit_batching=path.policies.exit_batching,
        )
        np.testing.assert_array_equal(
            exit_layers(search.logits, moved), exit_layers(search.logits, path.policies)
        )


def test_a_network_without_exits_is_a_path_of_one() -> None:
    static = policy()
    static.exit_on[:] = False
    static.thresholds[:] = np.inf
    path = path_of(static, trace())
    assert path.knob == (None,)
    assert len(path.policies) == 1


@pytest.mark.parametrize("risk", RISKS)
def test_no_early_exit_of_the_full_network_loses_nothing(risk) -> None:
    rows = trace()
    path = path_of(policy(), rows)
    full = rows.logits[:, -1]
    losses = row_losses(risk, answers_of(rows, path.policies), full, rows.labels)
    assert (losses[0] == 0).all()
    assert (losses <= 1).all()
    assert losses[-1].mean() > 0.05
    low = 0.0 if risk.endswith("consistency") else -1.0
    assert losses.min() >= low


def test_losses_are_what_their_definitions_say() -> None:
    rows = trace(60)
    path = path_of(policy(), rows)
    answers, full = answers_of(rows, path.policies), rows.logits[:, -1]
    found = {r: row_losses(r, answers, full, rows.labels) for r in RISKS}
    wrong = (answers.argmax(-1) != rows.labels).mean(axis=1)
    wrong_full = (full.argmax(-1) != rows.labels).mean()
    np.testing.assert_allclose(found["performance_gap"].mean(axis=1), wrong - wrong_full)
    assert (found["consistency"] >= found["performance_gap"]).all()
    i, t = 7, len(path.knob) // 2
    p, q = (
        np.exp(x.astype(float)) / np.exp(x.astype(float)).sum() for x in (answers[t, i], full[i])
    )
    y = np.eye(3)[rows.labels[i]]
    assert found["brier_consistency"][t, i] == pytest.approx(((p - q) ** 2).sum() / 2)
    gap = ((p - y) ** 2).sum() / 2 - ((q - y) ** 2).sum() / 2
    assert found["brier_gap"][t, i] == pytest.approx(gap)
