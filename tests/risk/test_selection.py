"""Whoever picks one of several certified configurations is covered, by the code that searches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynsearch.job_tables import RiskTable
from dynsearch.risk.certify import Subject, decide
from dynsearch.risk.path import Path
from search_spaces.candidate import static_policies

DRAWS, ROWS, POOL, MEMBERS = 1000, 300, 3000, 3
EPSILON, DELTA = 0.08, 0.1
RATES = np.array(
    [0.0, 0.04, 0.081, 0.12]
)  # of loss along each path; the third just exceeds epsilon


def front(rng: np.random.Generator) -> list[Subject]:
    """Configurations of equal risk and speed, whose losses have nothing in common."""
    path = Path(
        policies=static_policies([1] * RATES.size, num_layers=1, exit_batching="serial"),
        knob=(None,) * RATES.size,
    )
    return [
        Subject(
            id=str(i),
            chosen=None,  # type: ignore[arg-type]
            path=path,
            losses=(rng.permutation(POOL) < RATES[:, None] * POOL).astype(np.float64),
            time_s=lambda index: 1.0 / (index + 1),
        )
        for i in range(MEMBERS)
    ]


def wrong(risk: RiskTable, pool: list[Subject]) -> float:
    """Share of draws whose fastest certified configuration breaks its promise."""
    rng = np.random.default_rng(1)
    true = {one.id: one.losses.mean(axis=1) for one in pool}
    broken = 0
    for _ in range(DRAWS):
        rows = rng.integers(0, POOL, ROWS)  # the same rows for all: they share a split
        told = decide(risk, [replace(one, losses=one.losses[:, rows]) for one in pool])
        one, found, _, _ = min(
            told, key=lambda t: t[0].time_s(t[1].index) if t[1].index >= 0 else 9
        )
        broken += found.index >= 0 and true[one.id][found.index] > EPSILON
    return broken / DRAWS


@pytest.mark.parametrize("selection", ["bonferroni", "split"])
def test_the_fastest_certified_configuration_keeps_its_promise(selection) -> None:
    risk = RiskTable(epsilon=EPSILON, delta=DELTA, method="binomial", selection=selection)
    limit = DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / DRAWS)
    pool = front(np.random.default_rng(0))
    assert all(one.losses.mean(axis=1)[2] > EPSILON for one in pool)
    assert wrong(risk, pool) <= limit
