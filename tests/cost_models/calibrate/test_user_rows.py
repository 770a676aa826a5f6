"""A user's CSV: what is refused, what a plan asks for, and what a fit learns."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cost_models.calibrate import user_rows
from cost_models.calibrate.posterior import predict_rows
from cost_models.calibrate.shapes import LARGEST, measured, pool
from cost_models.calibrate.target import OPS, Shape
from cost_models.device import Device, load_device, with_parameters
from search_spaces.errors import InputError
from search_spaces.ops import KIND

DEVICE = "nvidia-a100-80g-sxm"
HEAD = "dtype,m,k,n,latency_us\n"
ROW = "fp16,64,512,512,10\n"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "rows.csv"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("dtype,m,k,latency_us\nfp16,1,1,1\n", "n", "column is missing"),
        ("dtype,m,k,n\nfp16,1,1,1\n", "latency", "one column with one unit"),
        ("dtype,m,k,n,latency_us,latency_ms\nfp16,1,1,1,1,1\n", "latency", "one unit"),
        (HEAD + "fp16,1,1,1,3ms\n", "latency_us", "unit of the column"),
        (HEAD + "fp16,1,1,1,0\n", "latency_us", "above 0"),
        (HEAD + "fp16,1,1,1,nan\n", "latency_us", "above 0"),
        (HEAD + "fp16,-1,1,1,1\n", "m", "above 0"),
        (HEAD + "fp16,1.5,1,1,1\n", "m", "whole"),
        (HEAD + "half,1,1,1,1\n", "dtype", "must be one of"),
        (HEAD + ROW + ROW, "dtype,m,k,n", "the same shape as line 2"),
        ("op," + HEAD + "conv," + ROW, "op", "must be one of matmul, attention, network"),
        ("op,heads," + HEAD + "network,3," + ROW, "heads", "must divide k = 512"),
        (HEAD, "rows", "measure a plan first"),
        (HEAD + ROW, "rows", "5 are needed"),
    ],
)
def test_a_faulty_file_is_refused_by_column(
    tmp_path: Path, text: str, key: str, words: str
) -> None:
    with pytest.raises(InputError) as error:
        user_rows.fit_csv(write(tmp_path, text), load_device(DEVICE), "torch-eager")
    told = {p.key: p.message for p in error.value.problems}
    assert words in told.get(key, ""), told


def test_a_parameter_that_too_few_rows_tell_of_is_named_with_how_many_it_needs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shapes = [Shape("matmul", "fp16", 1, 4096, 4096, n, 1, 1) for n in (2048, 3072, 4096, 5120)]
    shapes.append(Shape("matmul", "fp16", 1, 1, 64, 64, 1, 1))  # hardly more than its launch
    device = load_device(DEVICE)
    user_rows.fit_csv(measured_by(device, shapes, tmp_path), device, "torch-eager")
    (told,) = caplog.messages
    assert re.search(r"rows\.csv: each parameter needs 3 rows .* only 1 for launch_half", told), (
        told
    )
    assert "calibrate plan --rows" in told


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        user_rows.read_rows(
            write(tmp_path, HEAD + "fp16,0,1,1,1\nfp16,1,1,1,-1\n"), load_device(DEVICE), "r"
        )
    assert len(error.value.problems) == 2


def test_a_plan_holds_distinct_shapes() -> None:
    shapes = user_rows.next_shapes(load_device(DEVICE), 20, dtype="fp16")
    assert len(set(shapes)) == 20


def test_a_plan_asks_for_products_attention_and_networks_and_never_twice(tmp_path: Path) -> None:
    device = load_device(DEVICE)
    first = user_rows.next_shapes(device, 12, dtype="fp16", runtime="torch-eager")
    assert {shape.op for shape in first} == set(OPS)
    known = measured_by(device, first, tmp_path)
    more = user_rows.next_shapes(device, 12, dtype="fp16", runtime="torch-eager", known=known)
    assert not set(first) & set(more)
    rest = user_rows.next_shapes(device, 999, dtype="fp16", ops=("attention",), known=known)
    assert set(rest) == set(pool("fp16", ("attention",))) - set(first)
    again = user_rows.next_shapes(device, 12, dtype="fp16", runtime="torch-eager")
    assert again == first
    alone = user_rows.next_shapes(device, 4, dtype="fp16", ops=("attention",))
    assert {shape.op for shape in alone} == {"attention"}


def test_no_planned_shape_keeps_a_slow_board_for_minutes() -> None:
    for shape in pool("fp32", OPS):
        (table,), _ = measured([shape], [1.0], load_device(DEVICE), "r", "x")
        assert float(table.ops.executed_flops @ table.ops.count) <= LARGEST
    assert len(pool("fp32", OPS)) > 200


def measured_by(device: Device, shapes: list[Shape], tmp_path: Path) -> Path:
    """A CSV of what a device takes for shapes, as `target.py` writes it."""
    blank, number = measured(shapes, [1.0] * len(shapes), device, "torch-eager", "x")
    times = predict_rows(blank, device)
    lines = [",".join(map(str, (*shapes[i], 1e6 * t))) for i, t in zip(number, times, strict=True)]
    return write(tmp_path, "\n".join([",".join((*Shape._fields, "latency_us")), *lines, ""]))


def rewritten(file: Path, change: Callable[[int, float], float]) -> Path:
    """The file with what `change` makes of the number of a row and its time."""
    head, *lines = file.read_text().splitlines()
    rows = [line.rsplit(",", 1) for line in lines]
    changed = [f"{shape},{change(i, float(time))}" for i, (shape, time) in enumerate(rows)]
    file.write_text("\n".join([head, *changed, ""]))
    return file


def test_rows_in_another_unit_than_the_others_are_named_by_line(tmp_path: Path) -> None:
    device = load_device(DEVICE)
    shapes = user_rows.next_shapes(device, 12, dtype="fp16")
    slips = {2: 1e-3, 7: 1e3}
    file = rewritten(measured_by(device, shapes, tmp_path), lambda i, t: t * slips.get(i, 1.0))
    with pytest.raises(InputError) as error:
        user_rows.fit_csv(file, device, "torch-eager")
    assert [p.file for p in error.value.problems] == [f"{file}:4", f"{file}:9"]
    first, second = (p.message for p in error.value.problems)
    assert re.match(r"is 1/\d+ of what the other rows", first), first
    assert re.match(r"is \d+ times what the other rows", second), second


def test_a_file_that_no_such_device_could_have_made_is_refused(tmp_path: Path) -> None:
    device = load_device(DEVICE)
    shapes = user_rows.next_shapes(device, 12, dtype="fp16")
    fast = rewritten(measured_by(device, shapes, tmp_path), lambda i, t: t / 1000)
    with pytest.raises(InputError, match="is 1/1000 of what the device could do"):
        user_rows.fit_csv(fast, device, "torch-eager")


def test_twenty_planned_rows_teach_the_device(tmp_path: Path) -> None:
    device = load_device(DEVICE)
    truth = with_parameters(device, {"launch_half": 3 * device.parameter("launch_half")})
    shapes = user_rows.next_shapes(device, 20, dtype="fp16", ops=("matmul",))
    file = measured_by(truth, shapes, tmp_path)
    profile = user_rows.fit_csv(file, device, "torch-eager")
    assert profile.n == 20
    assert profile.mape < 0.10
    assert np.isclose(profile.model["launch_half"], truth.parameter("launch_half"), rtol=0.2)


def test_thirty_planned_rows_of_all_kinds_teach_attention_and_the_host(tmp_path: Path) -> None:
    device = load_device(DEVICE)
    told = {"attention_launch_half": 2e-5, "dispatch": 2e-4}
    truth = with_parameters(device, told)
    shapes = user_rows.next_shapes(device, 30, dtype="fp16", runtime="torch-eager")
    profile = user_rows.fit_csv(measured_by(truth, shapes, tmp_path), device, "torch-eager")
    for name, value in told.items():
        assert np.isclose(profile.model[name], value, rtol=0.3), name


def test_rows_of_a_network_are_its_layers_and_one_call() -> None:
    shape = Shape("network", "fp32", 2, 16, 64, 256, 4, 3)
    (table,), _ = measured([shape], [1.0], load_device(DEVICE), "torch-eager", "x")
    assert table.family == "end_to_end"
    assert table.calls.tolist() == [1.0]
    matrices = 2 * 16 * 64 * 2 * (3 * 64 + 64 + 2 * 256)
    scores = 4 * 2 * 16 * 16 * 64
    matmul, attention = (table.ops.kind == KIND[k] for k in ("matmul", "attention_prefill"))
    flops = table.ops.executed_flops * table.ops.count
    assert flops[matmul].sum() == 3 * matrices
    assert flops[attention].sum() == pytest.approx(3 * scores, rel=0.2)  # with its softmax


def test_a_processor_is_told_by_its_own_operators_what_networks_cannot_tell(
    tmp_path: Path,
) -> None:
    device = load_device("raspberry-pi-5")
    told = {"efficiency_attention_fp32": 0.2, "efficiency_matmul_fp32": 0.5}
    truth = with_parameters(device, told)
    shapes = user_rows.next_shapes(device, 30, ops=("matmul", "attention"))
    profile = user_rows.fit_csv(measured_by(truth, shapes, tmp_path), device, "torch-eager")
    for name, value in told.items():
        assert np.isclose(profile.model[name], value, rtol=0.3), name
