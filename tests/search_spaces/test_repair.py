"""A reject says what would be legal: taking its nearest value undoes it, over and over."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import Candidate, Exits, Experts, Finding, Skim, check, load_backbone
from search_spaces.backbone import Backbone
from search_spaces.candidate import Cascade
from search_spaces.methods import list_methods, load_method

NONSENSE: dict[Any, st.SearchStrategy[Any]] = {
    str: st.sampled_from(["", "max", "drop", "encoder", "decoder", "padded", "Serial", "none"]),
    bool: st.booleans(),
    int: st.integers(-3, 70),
    float: st.one_of(st.floats(-2.0, 2.0), st.sampled_from([math.nan, math.inf, -math.inf])),
}
TABLES: dict[str, type[Any]] = {"exits": Exits, "moe": Experts, "cascade": Cascade, "skim": Skim}


def set_at(record: Any, path: list[str], value: Any) -> Any:
    """A copy of a record with one value changed; None takes the key out."""
    name, rest = path[0], path[1:]
    old = getattr(record, name)
    if rest and rest[0].isdigit():
        i, items = int(rest[0]), list(old)
        items[i] = set_at(items[i], rest[1:], value) if rest[1:] else value
        return replace(record, **{name: tuple(items)})
    if rest:
        return replace(record, **{name: set_at(old, rest, value)})
    if value is None:
        value = next(f.default for f in fields(record) if f.name == name)
    return replace(record, **{name: value})


def rejects(candidate: Candidate) -> list[Finding]:
    return [f for f in check(candidate, num_classes=3) if f.severity == "reject"]


def repaired(candidate: Candidate) -> Candidate:
    """The candidate once the first reject has been followed as often as there is one."""
    for _ in range(120):
        found = rejects(candidate)
        if not found:
            return candidate
        first = found[0]
        candidate = set_at(candidate, re.findall(r"\w+", first.key), first.nearest)
        same = [f for f in rejects(candidate) if (f.key, f.reason) == (first.key, first.reason)]
        assert not same, (first, same)
    pytest.fail(f"still rejected: {rejects(candidate)[0]}")


def nonsense(kind: Any) -> st.SearchStrategy[Any]:
    """Values of the type of a field, most of them wrong there."""
    text = str(kind)
    base = next(t for t in (bool, int, float, str) if t.__name__ in text)
    if text.startswith("tuple"):
        return st.lists(NONSENSE[base], max_size=3).map(tuple)
    return st.none() | NONSENSE[base] if "None" in text else NONSENSE[base]


@st.composite
def spoiled(draw: st.DrawFn) -> Candidate:
    """A published method with a few of its values replaced by nonsense."""
    candidate = load_method(draw(st.sampled_from(list_methods()))).candidate
    places: list[tuple[list[str], Any]] = []
    for name in ("exits", "moe", "cascade"):
        if getattr(candidate, name) is not None:
            places += [([name, key], hint) for key, hint in get_type_hints(TABLES[name]).items()]
    for i in range(len(candidate.skim)):
        places += [(["skim", str(i), key], hint) for key, hint in get_type_hints(Skim).items()]
    geometry = get_type_hints(Backbone).items()
    places += [(["backbone", key], hint) for key, hint in geometry if key != "name"]
    rest = ("depth", "dtype", "pooling", "exit_batching", "compact_every", "output")
    hints = get_type_hints(Candidate)
    places += [([key], hints[key]) for key in rest]
    places.append((["decoder_depth"], int | None))
    for path, kind in draw(st.lists(st.sampled_from(places), min_size=1, max_size=4)):
        value = draw(nonsense(kind))
        record: Any = candidate
        for part in path[:-1]:
            record = record[int(part)] if part.isdigit() else getattr(record, part)
        if value is None:
            value = getattr(record, path[-1])
        candidate = set_at(candidate, path, value)
    return candidate


@settings(deadline=None, max_examples=400)
@given(candidate=spoiled())
def test_following_the_nearest_legal_values_leads_to_a_legal_candidate(
    candidate: Candidate,
) -> None:
    assert rejects(repaired(candidate)) == []


BERT = load_backbone("bert-base")
LONE = Exits(layers=(2,), criterion="patience", patience=1)


@pytest.mark.parametrize(
    ("candidate", "key", "near"),
    [
        (Candidate(backbone=BERT, depth=12, exits=Exits(layers=())), "exits", None),
        (Candidate(backbone=BERT, depth=12, exits=LONE), "exits", None),
        (
            Candidate(backbone=BERT, depth=12, skim=(Skim(layers=(1,), keep_rate=(0.0,)),)),
            "skim[0].keep_rate[0]",
            1 / 512,
        ),
        (
            Candidate(backbone=BERT, depth=12, skim=(Skim(layers=(1, 2)),)),
            "skim[0].keep_rate",
            (1.0, 1.0),
        ),
        (
            Candidate(backbone=BERT, depth=12, exits=Exits(layers=(3, 6), thresholds=())),
            "exits.thresholds",
            (1.0, 1.0),
        ),
        (
            Candidate(backbone=BERT, depth=12, cascade=Cascade(stages=("a",), thresholds=())),
            "cascade",
            None,
        ),
    ],
)
def test_what_is_missing_has_a_way_out_too(candidate: Candidate, key: str, near: object) -> None:
    found = rejects(candidate)
    assert [(f.key, f.nearest) for f in found] == [(key, near)]
