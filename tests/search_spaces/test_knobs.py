from __future__ import annotations

import numpy as np
import pytest

from search_spaces.domains import Choice, FloatRange, IntRange
from search_spaces.errors import InputError
from search_spaces.knobs import KnobSpace, as_array, middle

SPACE = KnobSpace(
    {"on": IntRange(0, 1), "level": IntRange(0, 10, step=2), "kind": Choice(("a", "b"))},
    active={"level": lambda k: k["on"] == 1, "kind": lambda k: k["level"] > 4},
)


def test_idle_knobs_take_the_middle_of_their_domains_and_rules_see_that() -> None:
    values = {"on": np.array([0, 1, 1]), "level": np.array([10, 10, 2])}
    found = SPACE.canonical(values | {"kind": np.array(["b", "b", "b"])})
    assert found["level"].tolist() == [4, 10, 2]
    assert found["kind"].tolist() == ["a", "b", "a"]


def test_one_setting_is_normalised_like_a_batch() -> None:
    for setting in SPACE.sample_outer(np.random.default_rng(0), 40):
        batch = SPACE.canonical({name: as_array([v]) for name, v in setting.items()})
        assert SPACE.normalise(setting) == {name: v[0] for name, v in batch.items()}
        assert SPACE.normalise(SPACE.normalise(setting)) == SPACE.normalise(setting)


def test_the_middle_of_a_domain_is_one_of_its_values() -> None:
    domains = [IntRange(1, 8, 3), FloatRange(1e-4, 1.0, log=True), Choice((8, 2, 4))]
    assert [middle(domain) for domain in domains] == [4, pytest.approx(1e-2), 4]


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        KnobSpace({"a": [1, 2]}, active={"b": lambda k: k["a"] > 1})  # type: ignore[dict-item]
    assert len(caught.value.problems) == 2
