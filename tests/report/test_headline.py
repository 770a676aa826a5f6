"""The headline says what was reached, what was missed, and when static truncation is as good."""

from __future__ import annotations

from dataclasses import replace

import run_folder

from dynsearch.export.front import with_measurements
from dynsearch.export.records import Front, FrontPoint, mark_named
from dynsearch.report.headline import levels, verdict
from search_spaces.candidate import Candidate, Exits
from search_spaces.codec import candidate_to_dict

FULL = run_folder.FULL_ERROR
TEMPLATE = run_folder.make_front(dtypes=("fp32",), draws=1)


def point(
    key: str, family: str, time: float, loss: float, true: float | None = None
) -> FrontPoint:
    base = TEMPLATE.front[0]
    candidate = Candidate(backbone=run_folder.BACKBONE, depth=3)
    if family == "exit":
        candidate = replace(candidate, exits=Exits(layers=(1,), thresholds=(0.9,)))
    confirmed = None
    if true is not None:
        confirmed = replace(base.confirmed, loss=true, low=true - 0.01, high=true + 0.01)
    return replace(
        base,
        id=key,
        family=family,
        error_bound=FULL + loss,
        confirmed=confirmed,
        predicted=replace(base.predicted, latency_mean_s=time),
        candidate=candidate_to_dict(candidate),
    )


def front(*points: FrontPoint) -> Front:
    return replace(TEMPLATE, front=mark_named(points, FULL))


def full_time() -> float:
    return TEMPLATE.reference.cost("local", "fp32").per_sample_s


def test_speed_up_is_the_full_networks_time_over_the_points_own():
    found = levels(front(point("a", "exit", full_time() / 4, 0.0)), "local", None)
    assert [x.speed.predicted for x in found] == [4.0] * 4
    assert all(x.speed.measured is None for x in found)


def test_a_level_is_held_only_by_the_confirmed_loss_of_its_own_named_point():
    fast = point("fast", "exit", 1e-3, 0.008, true=0.012)
    good = point("good", "exit", 2e-3, 0.0, true=-0.001)
    found = levels(front(fast, good), "local", None)
    assert [(x.loss, x.point.id, x.state) for x in found] == [
        (0.0, "good", "held"),
        (0.005, "good", "held"),
        (0.01, "fast", "missed"),
        (0.02, "fast", "held"),
    ]


def test_a_level_that_nothing_reaches_names_nothing():
    found = levels(front(point("a", "exit", 1e-3, 0.015)), "local", None)
    assert [x.state for x in found] == ["none", "none", "none", "unconfirmed"]
    assert "No configuration" in verdict(
        levels(front(point("a", "exit", 1e-3, 0.5)), "local", None)
    )


def test_static_truncation_that_is_as_fast_is_said_to_win():
    static = point("static", "truncated", 1e-3, 0.004)
    dynamic = point("dynamic", "exit", 2e-3, 0.0)
    found = levels(front(static, dynamic), "local", None)
    assert [x.static_wins for x in found] == [False, True, True, True]
    assert "at least as fast" in verdict(found)
    assert "0.5, 1, 2 points" in verdict(found)


def test_measured_times_decide_between_static_and_dynamic_when_both_are_known():
    static = point("static", "truncated", 1.1e-3, 0.004)
    dynamic = point("dynamic", "exit", 1.0e-3, 0.004)
    both = front(static, dynamic)
    assert not any(x.static_wins for x in levels(both, "local", None))
    common = {"runtime": "torch", "threads": 1, "batch": 1, "dtype": "fp32"}
    times = {"static": 1.0e-3, "dynamic": 1.3e-3, "f": 4e-3}
    families = {"static": "truncated", "dynamic": "exit", "f": "full"}
    bench = {
        "device": "local",
        "timed_rows": 400,
        "repeats": 5,
        "rows": [
            common | {"id": k, "family": families[k], "measured_s": t, "time_per_sample_s": t}
            for k, t in times.items()
        ],
    }
    found = levels(with_measurements(both, bench), "local", bench)
    assert [x.static_wins for x in found] == [False, True, True, True]
    assert found[1].speed.measured == 4e-3 / 1.3e-3
    assert found[1].static_speed.measured == 4.0


def test_the_verdict_names_a_rival_only_where_there_is_one():
    alone = levels(front(point("a", "exit", 1e-3, 0.0)), "local", None)
    assert "no static rival" in verdict(alone)
    beaten = levels(
        front(point("a", "exit", 1e-3, 0.0), point("s", "truncated", 2e-3, 0.0)), "local", None
    )
    assert "faster than the best static" in verdict(beaten)


def test_a_level_that_only_the_full_network_reaches_says_so():
    full = replace(point("full", "full", full_time(), 0.0), family="full")
    found = levels(front(full, point("a", "exit", 1e-3, 0.018)), "local", None)
    assert "Nothing faster than the full network is allowed at a loss of 0, 0.5, 1 p" in verdict(
        found
    )
    assert "Static truncation" not in verdict(found)
