"""Which configurations have a recorded pass whose neighbours can be looked at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from dynsearch.analysis.sensitivity import subjects_of
from search_spaces.candidate import Backbone, Candidate
from search_spaces.codec import candidate_to_dict

BACKBONE = Backbone(
    name="six",
    num_layers=6,
    hidden_size=64,
    num_heads=4,
    ffn_size=128,
    vocab_size=100,
    max_len=64,
)


@pytest.mark.parametrize(("recorded", "found"), [(6, ["whole"]), (5, [])])
def test_a_network_deeper_than_the_pass_of_its_setting_is_told_nothing_of(
    recorded: int, found: list[str]
) -> None:
    """Budgets may have kept layers out of reach that a network without exits has."""
    whole = Candidate(backbone=BACKBONE, depth=6)
    run = SimpleNamespace(devices=("box",), outers={3: whole}, depths={3: recorded})
    point = SimpleNamespace(id="whole", device="box", candidate=candidate_to_dict(whole))
    subjects = subjects_of(cast(Any, run), cast(Any, [point]))
    assert [s.id for s in subjects] == found
