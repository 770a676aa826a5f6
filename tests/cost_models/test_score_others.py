"""Collectives and energy in the validation table."""

from __future__ import annotations

import numpy as np

from cost_models.adapters.links_nccl import collective_ops
from cost_models.calibrate.link_fit import predicted_s
from cost_models.links import link_of
from cost_models.measured import Measured
from cost_models.score_others import GIVEN, other_families
from cost_models.scored import KNOWN, UNKNOWN
from search_spaces.ops import COLLECTIVE

NAMES = ("nvidia-a100-80g-sxm", "nvidia-h100-80g-sxm", "nvidia-b200-180g-sxm")


def timed(device: str, *, runtime: str = "nccl-2") -> Measured:
    """All-reduces of many sizes, as the shipped link says and 3 % noise."""
    size = np.repeat(np.logspace(4, 9, 30), 3)
    n = np.tile([2, 4, 8], 30)
    code = np.full(size.size, COLLECTIVE["all_reduce"])
    ops = collective_ops(code, size, n, dtype=np.full(size.size, 2))
    rows = Measured(
        source="made-up",
        device=device,
        runtime=runtime,
        family="collective",
        ops=ops,
        seconds=np.ones(size.size),
        calls=np.ones(size.size),
        group=np.array([f"{c}/{int(np.log10(b))}" for c, b in zip(n, size, strict=True)]),
        peer_s={},
    )
    link = link_of(device)
    assert link is not None
    noise = np.exp(np.random.default_rng(1).normal(0, 0.03, size.size))
    return Measured(
        **{k: getattr(rows, k) for k in rows.__slots__ if k != "seconds"},
        seconds=predicted_s(link, rows) * noise,
    )


def test_collectives_are_scored_by_their_links_known_and_unknown() -> None:
    scored, warnings = other_families([timed(name) for name in NAMES], unknown=True)
    assert warnings == []
    known = [s for s in scored if s.protocol == KNOWN]
    given = [s for s in scored if s.protocol == UNKNOWN and s.rows_seen == GIVEN]
    assert {s.table.device for s in known} == {s.table.device for s in given} == set(NAMES)
    assert all(np.abs(s.error).mean() < 0.10 for s in known)
    assert all(len(s.table) == 90 - GIVEN for s in given)


def test_dispatch_and_combine_are_told_not_scored() -> None:
    scored, warnings = other_families([timed(NAMES[0], runtime="deepep-ll")], unknown=True)
    assert scored == []
    assert "exchange_fit" in warnings[0]


def test_thirty_rows_of_a_link_set_the_width_of_its_intervals() -> None:
    scored, _ = other_families([timed(name) for name in NAMES], unknown=True)
    for s in (s for s in scored if s.protocol == UNKNOWN):
        if s.rows_seen == GIVEN:
            assert 0.02 < np.median(s.log_sd) < 0.1
        else:
            assert np.median(s.log_sd) > 0.15
