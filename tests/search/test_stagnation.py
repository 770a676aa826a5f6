from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_problem import ToyQuality, toy_problem, toy_space

from dynsearch.export.records import HypervolumeStep
from dynsearch.search import runs
from dynsearch.search.driver import SearchOptions, run_search
from dynsearch.search.stagnation import LEAST_GAIN, stands_still


def steps(means: list[float]) -> list[HypervolumeStep]:
    return [
        HypervolumeStep(passes=i + 1, seconds=float(i), mean=mean, devices={})
        for i, mean in enumerate(means)
    ]


def test_passes_that_add_nothing_are_counted_from_the_last_one_that_did() -> None:
    history = steps([0.1, 0.5, 0.5, 0.5])
    assert stands_still(history, 2)
    assert not stands_still(history, 3)


def test_many_small_gains_together_are_a_gain() -> None:
    history = steps([0.5 * (1.0 + 0.6 * LEAST_GAIN) ** i for i in range(4)])
    assert stands_still(history, 1)
    assert not stands_still(history, 2)


@given(st.lists(st.floats(0.0, 1.0), max_size=12), st.integers(1, 12))
def test_no_search_is_called_off_before_patience_passes_after_the_first(
    means: list[float], patience: int
) -> None:
    history = steps(sorted(means))
    assert not stands_still(history, None)
    assert not stands_still(history[:patience], patience)
    if stands_still(history, patience):
        assert history[-1].mean - history[-1 - patience].mean <= LEAST_GAIN


@pytest.mark.parametrize("patience", [3, 6])
def test_a_search_stops_when_its_last_passes_brought_nothing_and_goes_on_when_told(
    tmp_path: Path, patience: int
) -> None:
    run = runs.create_run(tmp_path / "toy-00000000", "")
    options = SearchOptions(trials=60, workers=0, sampler="random", patience=patience)
    arguments = {"space": toy_space(), "quality": ToyQuality(), "problem": toy_problem()}
    result = run_search(run, options=options, **arguments)
    assert result.stopped == "stagnation"
    assert result.passes < 60
    means = [step.mean for step in result.history]
    assert means[-1] <= means[-1 - patience] * (1 + LEAST_GAIN)
    assert not any(stands_still(result.history[:k], patience) for k in range(len(means)))
    assert run_search(run, options=options, **arguments).passes == result.passes
    more = replace(options, patience=None, trials=result.passes + 2)
    assert run_search(run, options=more, **arguments).passes == result.passes + 2
