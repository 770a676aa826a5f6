"""What ranks policies: expected losses of rows, mixed with the drawn ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from dynsearch.quality.trace import Trace
from dynsearch.sim.decide import exit_layers
from dynsearch.sim.replay import Replayer
from dynsearch.sim.row_losses import DRAWN, PRIOR, row_losses
from search_spaces.candidate import static_policies
from search_spaces.workload import Workload

from .replay_cases import make_cost, make_policies, make_trace

L = 4


def probabilities(trace: Trace, full: Trace, layer: int) -> np.ndarray:
    """Of the labels [N, C], by another optimiser, class by class."""
    parts = [full.logits[:, -1], full.logits[:, :-1].mean(axis=1), trace.logits[:, layer]]
    centred = [p.astype(float) - p.mean(axis=1, keepdims=True, dtype=float) for p in parts]

    def badness(w):
        z = sum(a * p for a, p in zip(w, centred, strict=True))
        picked = log_softmax(z, axis=1)[np.arange(len(z)), full.labels]
        return -picked.sum() + PRIOR / 2 * np.sum(np.square(w))

    w = minimize(badness, np.zeros(3), method="Nelder-Mead", options={"fatol": 1e-9}).x
    return softmax(sum(a * p for a, p in zip(w, centred, strict=True)), axis=1)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_row_loses_what_was_drawn_and_what_was_expected(classes: int) -> None:
    rng = np.random.default_rng(classes)
    full, trace = (make_trace(rng, 90, L, classes) for _ in range(2))
    trace = replace(trace, labels=full.labels)
    got, answer = row_losses(trace, full), full.logits[:, -1].argmax(-1)
    rows = np.arange(90)
    for layer in range(L):
        mine, p = trace.logits[:, layer].argmax(-1), probabilities(trace, full, layer)
        expected = p[rows, answer] - p[rows, mine]
        drawn = (answer == full.labels) * 1.0 - (mine == full.labels)
        np.testing.assert_allclose(
            got[:, layer], (1 - DRAWN) * expected + DRAWN * drawn, atol=1e-4
        )
        assert not got[mine == answer, layer].any()


@pytest.mark.parametrize("batch", [1, 3, 8, 20])
def test_the_bound_is_made_of_the_losses_where_rows_leave(batch: int) -> None:
    rng = np.random.default_rng(batch)
    full = make_trace(rng, 77, L, 3)
    trace = replace(make_trace(rng, 77, L, 3), labels=full.labels)
    right = full.logits[:, -1].argmax(-1) == full.labels
    losses = row_losses(trace, full)
    load, cost = Workload(batch=batch, max_len=20), make_cost(rng, L, batch)
    policies = make_policies(rng, L, 60)
    got = Replayer(trace, cost, workloads=[load], correct_full=right, row_losses=losses).run(
        policies
    )
    plain = Replayer(trace, cost, workloads=[load], correct_full=right).run(policies)
    where = exit_layers(trace.logits, policies)
    for p in range(60):
        own = losses[np.arange(77), where[p]]
        want = np.mean(~right) + own.mean() + 1.28 * own.std() / np.sqrt(77)
        assert got.error_bound[p] == pytest.approx(want, abs=1e-12)
    for name in ("error", "loss", "loss_se"):  # what is told stays the plain estimate
        np.testing.assert_array_equal(getattr(got, name), getattr(plain, name))


def test_the_full_network_loses_nothing() -> None:
    rng = np.random.default_rng(3)
    full = make_trace(rng, 50, L, 3)
    right = full.logits[:, -1].argmax(-1) == full.labels
    load = Workload(batch=1, max_len=20)
    replayer = Replayer(
        full,
        make_cost(rng, L, 1),
        workloads=[load],
        correct_full=right,
        row_losses=row_losses(full, full),
    )
    whole = static_policies([L], num_layers=L, exit_batching="serial")
    assert replayer.run(whole).error_bound[0] == np.mean(~right)


def test_layers_that_were_not_recorded_lose_nothing_and_cost_nothing() -> None:
    rng = np.random.default_rng(4)
    full = make_trace(rng, 40, L, 2)
    shallow = replace(full, header={**full.header, "depth": 2})
    assert not row_losses(shallow, full)[:, 2:].any()


def test_expected_losses_come_closer_to_the_truth_than_drawn_ones() -> None:
    """Labels are drawn again and again from known probabilities, as many rows as a search has."""
    rng = np.random.default_rng(0)
    n, rounds = 2000, 60
    signal = rng.normal(0, 2.0, n)
    exits = np.stack([signal + rng.normal(0, s, n) for s in (1.6, 1.2, 0.8, 0.4)], axis=1)
    logits = np.stack([-exits / 2, exits / 2], axis=2).astype(np.float32)
    truth = 1 / (1 + np.exp(-signal))
    base = make_trace(rng, n, L, 2)
    plain, mixed = [], []
    answer = exits > 0
    chance = np.where(answer, truth[:, None], 1 - truth[:, None])  # of being right
    want = (chance[:, -1:] - chance).mean(axis=0)[:-1]
    for _ in range(rounds):
        labels = (rng.random(n) < truth).astype(np.int64)
        trace = replace(base, logits=logits, labels=labels)
        correct = answer == labels[:, None]
        plain.append((correct[:, -1:] * 1.0 - correct).mean(axis=0)[:-1] - want)
        mixed.append(row_losses(trace, trace).mean(axis=0)[:-1] - want)
    rms = [np.sqrt(np.mean(np.square(x), axis=0)) for x in (plain, mixed)]
    assert (rms[1] < 0.85 * rms[0]).all()
    assert (np.abs(np.mean(mixed, axis=0)) < 0.002).all()
