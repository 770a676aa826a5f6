from __future__ import annotations

from dynsearch.sim.exactness import inexact_because


def test_exits_of_samples_are_replayed_exactly() -> None:
    assert inexact_because() == ()


def test_every_reason_is_told() -> None:
    reasons = inexact_because(
        token_exits=True, other_skim=True, capacity=True, other_experts=True, shared_scale=True
    )
    assert len(set(reasons)) == 5
    assert inexact_because(capacity=True) == (reasons[2],)
    assert "batch" in reasons[2]
