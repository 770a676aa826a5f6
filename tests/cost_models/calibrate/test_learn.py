"""Learning what a form leaves over, where it was measured often."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cost_models.calibrate.learn import PLENTY, POINTS, pivots
from cost_models.calibrate.posterior import fit_rows, left_out, predict_rows
from cost_models.calibrate.ship import profile_of
from cost_models.calibrate.subjects import Subject
from cost_models.calibrate.write import profile_text
from cost_models.device import Device, load_device, overlay
from cost_models.learned import BLOCK, Learned, bumps, factor, sizes, unsure
from cost_models.measured import Measured
from cost_models.price import operator_time_s, price_ops, price_terms
from cost_models.profile import load_profile
from search_spaces.errors import InputError
from search_spaces.ops import KIND, OpTable

from .synthetic import matmuls, measured_on

NAMES = ("launch_half", "efficiency_half", "bandwidth_share_half")


@pytest.fixture(scope="module")
def gpu() -> Device:
    return load_device("nvidia-a100-80g-sxm")


def crooked(device: Device, rows: int = 500) -> Measured:
    """Matmuls with an error that no parameter explains: narrow ones take up to half longer."""
    plain = measured_on(device, {}, np.random.default_rng(1), rows=rows)
    return replace(plain, seconds=plain.seconds * (1 + 0.5 * (plain.ops.n < 2000)))


def mape(table: Measured, device: Device, **how: bool) -> float:
    return left_out([table], device, names=NAMES, folds=3, **how).mape


def test_what_no_parameter_explains_is_learned_and_helps_groups_that_were_left_out(
    gpu: Device,
) -> None:
    table = crooked(gpu)
    assert mape(table, gpu, learning=True) < 0.75 * mape(table, gpu)


def test_where_the_form_is_right_nothing_is_learned(gpu: Device) -> None:
    table = measured_on(gpu, {}, np.random.default_rng(2), rows=500)
    assert fit_rows([table], gpu, names=NAMES, learning=True).learned == ()


def test_few_rows_learn_nothing(gpu: Device) -> None:
    found = fit_rows([crooked(gpu, PLENTY - 1)], gpu, names=NAMES, learning=True)
    assert found.learned == ()


def test_an_operator_is_learned_from_rows_with_helpers_and_none_from_whole_networks(
    gpu: Device,
) -> None:
    table = crooked(gpu)
    found = []
    for helpers in (1, 4):
        others = [matmuls(np.ones(500), 8, 8 * (i + 1)) for i in range(helpers)]
        for part in others:
            part.kind[:] = KIND["elementwise"]
        ops = OpTable.concat([table.ops, *others])
        seconds = table.seconds + predict_rows([replace(table, ops=OpTable.concat(others))], gpu)
        with_helpers = replace(table, ops=ops, seconds=seconds)
        found.append(fit_rows([with_helpers], gpu, names=NAMES, learning=True).learned)
    assert [(part.kind, part.dtype) for part in found[0]] == [("matmul", "bf16")]
    assert found[1] == ()


def test_far_from_what_was_measured_the_form_alone_answers_and_says_so(gpu: Device) -> None:
    part = Learned(
        kind="matmul",
        dtype="bf16",
        log_sd=0.2,
        points=np.log([[64.0, 1024.0, 1024.0, 1.0, 1.0]]),
        weights=np.array([0.3]),
    )
    ops = matmuls([64, 65536], 1024, 1024)
    assert factor(ops, (part,)) == pytest.approx([np.exp(0.3), 1.0], rel=1e-3)
    assert unsure(ops, (part,)) == pytest.approx([0.0, 0.2], abs=1e-3)
    assert factor(matmuls(64, 1024, 1024, "fp32"), (part,)) == pytest.approx(1.0)
    learned = replace(gpu, learned=(part,))
    times = operator_time_s(ops, learned) / operator_time_s(ops, gpu)
    assert times == pytest.approx([np.exp(0.3), 1.0], rel=1e-3)
    assert price_terms(ops, learned).total == pytest.approx(operator_time_s(ops, learned))
    assert price_ops(ops, learned).residual_log_sd[1] > price_ops(ops, learned).residual_log_sd[0]


def test_many_operators_are_answered_as_one_by_one() -> None:
    rng = np.random.default_rng(6)
    points = np.log(rng.uniform(1, 4096, (7, 5)))
    part = Learned(
        kind="matmul", dtype="bf16", log_sd=0.3, points=points, weights=rng.standard_normal(7)
    )
    ops = matmuls(rng.integers(1, 4096, BLOCK + 9), 512, 700)
    last = ops.take(np.arange(BLOCK, BLOCK + 9))
    exact = bumps(sizes(last), points) @ part.weights
    assert part.log_factor(ops)[BLOCK:] == pytest.approx(exact, abs=1e-4)
    assert part.unsure(ops)[BLOCK:] == pytest.approx(part.unsure(last))
    assert np.unique(part.log_factor(ops)).size > BLOCK // 2


def test_points_are_few_and_every_place_is_near_one() -> None:
    x = np.random.default_rng(3).uniform(0, 3, (2000, 2))
    chosen = pivots(x)
    assert chosen.size <= POINTS
    assert np.unique(chosen).size == chosen.size
    assert bumps(x, x[chosen]).max(axis=1).min() > 0.7


def test_a_profile_brings_back_what_was_learned(gpu: Device, tmp_path: Path) -> None:
    table = replace(crooked(gpu), device=gpu.name)
    subject = Subject(device=gpu, runtime="test", training=False, tables=(table,))
    profile = profile_of(subject, rows=400)
    path = tmp_path / "profile.toml"
    path.write_text(profile_text("gpu", profile), encoding="utf-8")
    again = overlay(gpu, load_profile(path))
    assert len(again.learned) == 1
    assert operator_time_s(table.ops, again) == pytest.approx(
        operator_time_s(table.ops, overlay(gpu, profile)), rel=1e-3
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (
            'kind = "matmul"\ndtype = "bf17"\nlog_sd = 0.1\npoints = [[1, 1, 1, 1, 1, 0]]',
            "learned.0",
        ),
        ('kind = "matmul"\ndtype = "bf16"\nlog_sd = 0.1\npoints = [[1, 1, 1]]', "points"),
        ('kind = "matmul"\ndtype = "bf16"\nlog_sd = 0.1\npoints = [[0, 1, 1, 1, 1, 0]]', "points"),
        ('kind = "matmul"\ndtype = "bf16"\nlog_sd = -1\npoints = [[1, 1, 1, 1, 1, 0]]', "log_sd"),
    ],
)
def test_wrong_points_of_a_profile_are_refused_by_name(
    gpu: Device, tmp_path: Path, text: str, key: str
) -> None:
    few = measured_on(gpu, {}, np.random.default_rng(4), rows=40)
    subject = Subject(device=gpu, runtime="test", training=False, tables=(few,))
    path = tmp_path / "profile.toml"
    plain = profile_text("gpu", profile_of(subject))
    path.write_text(f"{plain}\n[[profile.learned]]\n{text}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_profile(path)
    assert key in caught.value.problems[0].key
