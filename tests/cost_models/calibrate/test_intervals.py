"""Intervals from errors that no fit had seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.calibrate.intervals import (
    RESIDUAL_FLOOR,
    SHARED_FLOOR,
    Own,
    cross_conformal,
    quantile,
    scale_of_others,
    split,
    total_log_sd,
)
from cost_models.price import Z90


def test_the_quantile_is_the_conformal_rank() -> None:
    assert quantile(np.arange(1.0, 100.0)) == 90  # rank 0.9 (99 + 1)
    assert quantile(np.arange(1.0, 6.0)) == 5  # too few: the largest
    assert quantile(np.arange(1.0, 21.0)) == 19  # rank 0.9 (20 + 1), not 0.9 20


def test_weights_count_as_that_many_rows() -> None:
    values = np.array([1.0, 2.0, 3.0])
    assert quantile(values, 0.5, np.array([1.0, 1.0, 10.0])) == 3
    assert quantile(values, 0.5, np.array([10.0, 1.0, 1.0])) == 1


@given(st.floats(0.02, 1.0), st.floats(0.0, 0.5), st.integers(0, 5))
def test_the_residual_fills_up_what_parameters_do_not_explain(
    noise: float, parameter: float, seed: int
) -> None:
    e = np.random.default_rng(seed).standard_normal(400) * np.hypot(noise, parameter)
    found = total_log_sd(e, np.full(400, parameter))
    inside = np.mean(np.abs(e) <= Z90 * np.hypot(found, parameter))
    assert inside >= 0.9
    assert inside < 0.96 or found == pytest.approx(RESIDUAL_FLOOR, rel=0.01)


@pytest.mark.parametrize("shape", ["normal", "heavy", "skewed"])
def test_intervals_cover_rows_that_they_were_not_made_from(shape: str) -> None:
    rng = np.random.default_rng(1)
    draw = {
        "normal": rng.standard_normal(2000),
        "heavy": rng.standard_t(2, 2000),
        "skewed": rng.exponential(1.0, 2000),
    }[shape]
    fold = rng.integers(0, 5, 2000)
    sd = cross_conformal(0.1 * draw, np.full(2000, 0.01), fold)
    assert 0.87 < np.mean(np.abs(0.1 * draw) <= Z90 * sd) < 0.93


def test_a_row_never_widens_its_own_interval() -> None:
    rng = np.random.default_rng(2)
    fold = np.repeat([0, 1], 50)
    e = 0.1 * rng.standard_normal(100)
    wild = np.where(fold == 0, 10 * e, e)
    before = cross_conformal(e, np.zeros(100), fold)
    after = cross_conformal(wild, np.zeros(100), fold)
    assert after[0] == before[0]
    assert after[99] > 5 * before[99]


def test_few_errors_leave_room() -> None:
    tiny = total_log_sd(np.full(3, 0.001), np.zeros(3))
    many = total_log_sd(np.full(300, 0.001), np.zeros(300))
    assert tiny > 3 * many


def test_rows_that_err_together_are_few_errors() -> None:
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(3), 100)
    alike = 0.01 * np.repeat(rng.standard_normal(3), 100) + 1e-4 * rng.standard_normal(300)
    alone = total_log_sd(alike, np.zeros(300))
    assert total_log_sd(alike, np.zeros(300), group) > 3 * alone
    assert total_log_sd(alike, np.zeros(300), np.arange(300)) == alone
    fold = np.where(group == 0, 0, 1)
    found = cross_conformal(alike, np.zeros(300), fold, group)
    assert (found > cross_conformal(alike, np.zeros(300), fold)).all()


def test_an_unmeasured_device_is_scaled_by_the_others_and_never_by_itself() -> None:
    rng = np.random.default_rng(3)
    names = [f"device {i}" for i in range(40)]
    sd = {name: np.full(200, 0.1) for name in names}
    e = {name: 0.2 * rng.standard_normal(200) for name in names}
    assert scale_of_others(e, sd, names[0]) == pytest.approx(2, rel=0.1)
    wild = e | {names[0]: 50 * e[names[0]]}
    assert scale_of_others(wild, sd, names[0]) == scale_of_others(e, sd, names[0])


def test_every_device_counts_alike_however_many_rows_it_has() -> None:
    few = {"a": np.zeros(1), "b": np.full(10, 0.01), "c": np.full(10, 0.5)}
    many = few | {"b": np.full(10_000, 0.01)}
    factors = [
        scale_of_others(e, {name: np.full(v.size, 0.1) for name, v in e.items()}, "a")
        for e in (few, many)
    ]
    assert factors[0] == pytest.approx(factors[1])


def test_the_fewer_devices_were_tried_the_wider_an_interval_is() -> None:
    right = np.random.default_rng(4).standard_normal(4000) * 0.1
    factors = []
    for count in (0, 1, 4, 40):
        e = {"mine": right} | {f"device {i}": right for i in range(count)}
        factors.append(scale_of_others(e, {n: np.full(4000, 0.1) for n in e}, "mine"))
    assert factors == sorted(factors, reverse=True)
    assert factors[0] > 1.5
    assert factors[-1] == pytest.approx(1, abs=0.05)


def test_a_device_with_an_error_of_its_own_is_covered_after_one_other_was_seen() -> None:
    rng = np.random.default_rng(5)
    inside = []
    for _ in range(300):  # pairs of devices whose rows share an error four times their own
        e = {n: 0.4 * rng.standard_normal() + 0.1 * rng.standard_normal(50) for n in "ab"}
        factor = scale_of_others(e, {n: np.full(50, 0.25) for n in "ab"}, "a")
        inside.append(np.abs(e["a"]) <= Z90 * factor * 0.25)
    assert 0.80 < np.mean(inside) < 0.97


def own_rows(error: np.ndarray, count: float | None = None) -> Own:
    return Own(log_error=error, log_sd=np.ones(error.size), count=count or float(error.size))


@pytest.mark.parametrize("rows", [5, 10, 20, 30])
def test_a_device_is_covered_by_what_its_own_rows_say_where_devices_differ(rows: int) -> None:
    """Claims are 1; devices err between a fifth and five times that."""
    rng = np.random.default_rng(rows)
    inside, widths = [], []
    for _ in range(400):
        own, others = np.exp(rng.uniform(-1.6, 1.6)), np.exp(rng.uniform(-1.6, 1.6, 2))
        e = {f"device {i}": s * rng.standard_normal(300) for i, s in enumerate(others)}
        e["mine"] = own * rng.standard_normal(300)
        sd = {name: np.ones(300) for name in e}
        seen = own_rows(own * rng.standard_normal(rows))
        factor = scale_of_others(e, sd, "mine", seen)
        inside.append(np.mean(np.abs(e["mine"]) <= Z90 * factor))
        widths.append(factor / scale_of_others(e, sd, "mine"))
    assert 0.87 < np.mean(inside) < 0.97
    assert np.median(widths) < 1


def test_beside_own_rows_others_count_by_their_geometric_mean() -> None:
    shape = np.random.default_rng(11).standard_normal(400)
    sd = {name: np.ones(400) for name in ("mine", "near", "far")}
    alike = {"mine": shape, "near": shape, "far": shape}
    apart = alike | {"near": shape / 4, "far": shape * 4}
    seen = own_rows(shape[:5])
    assert scale_of_others(apart, sd, "mine", seen) == pytest.approx(
        scale_of_others(alike, sd, "mine", seen), rel=1e-3
    )
    assert scale_of_others(apart, sd, "mine") > 2 * scale_of_others(alike, sd, "mine")


def test_few_own_rows_say_less_than_many_and_rows_of_one_group_less_than_their_number() -> None:
    e = {"mine": np.zeros(9), "other": np.random.default_rng(9).standard_normal(500)}
    sd = {name: np.ones(v.size) for name, v in e.items()}
    calm = [
        scale_of_others(e, sd, "mine", own_rows(np.full(30, 0.1), count))
        for count in (30.0, 10.0, 3.0)
    ]
    assert calm == sorted(calm)
    assert calm[0] == scale_of_others(e, sd, "mine", own_rows(np.full(30, 0.1)))
    assert calm[-1] < scale_of_others(e, sd, "mine")


def test_one_spoilt_row_of_twenty_does_not_set_the_width() -> None:
    plain = np.random.default_rng(10).standard_normal(20)
    spoilt = np.where(np.arange(20) == 3, 50.0, plain)
    assert own_rows(spoilt).square < 2.5 * own_rows(plain).square  # its square alone is 125
    assert own_rows(2 * plain).square == pytest.approx(4 * own_rows(plain).square)


def test_what_no_parameter_explains_is_claimed_beside_the_parameters() -> None:
    seen = own_rows(np.full(4, 5.0)).beside(np.sqrt(24.0))
    assert seen.log_sd == pytest.approx(5.0)
    assert seen.square == pytest.approx(1.0)


def groups_of_errors(between: float, within: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(60), 20)
    e = between * rng.standard_normal(60)[group] + within * rng.standard_normal(1200)
    return e, group


def test_what_a_group_shares_is_told_from_what_a_shape_has_of_its_own() -> None:
    e, group = groups_of_errors(0.2, 0.1)
    quiet = 0.03 * np.random.default_rng(5).standard_normal(1200)
    found = split(
        np.concatenate([e, quiet]),
        np.zeros(2400),
        np.concatenate([group, group + 100]),
        np.repeat(["matmul", "gather"], 1200),
    )
    assert found.shared_log_sd == SHARED_FLOOR
    assert found.kind_log_sd["matmul"] == pytest.approx(0.2, rel=0.2)
    assert found.residual_log_sd["matmul"] == pytest.approx(0.1, rel=0.25)
    assert found.kind_log_sd["gather"] < 0.02


def test_the_parts_of_an_error_add_up_to_what_covers_single_rows() -> None:
    e, group = groups_of_errors(0.2, 0.1)
    found = split(e, np.zeros(1200), group, np.full(1200, "matmul"))
    parts = (found.shared_log_sd, found.kind_log_sd["matmul"], found.residual_log_sd["matmul"])
    assert np.linalg.norm(parts) == pytest.approx(total_log_sd(e, np.zeros(1200)), rel=0.05)


def test_whole_networks_show_what_the_device_shares() -> None:
    e = 0.15 * np.random.default_rng(6).standard_normal(400)
    kind = np.repeat(["", "matmul"], 200)
    found = split(e, np.zeros(400), np.arange(400), kind)
    assert found.shared_log_sd == pytest.approx(0.15, rel=0.15)
    assert set(found.residual_log_sd) == {"matmul"}
