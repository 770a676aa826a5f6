"""The script that is copied to a target: interruption, and what it writes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from cost_models.calibrate import target

PLAN = "dtype,m,k,n\nfp32,1,8,8\nfp32,2,8,8\nfp32,3,8,8\n"


def test_an_interrupted_measurement_goes_on_with_what_is_left(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.csv", tmp_path / "out.csv"
    plan.write_text(PLAN)
    asked: list[int] = []

    def timer(shape: target.Shape) -> float:
        asked.append(shape.m)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return 1e-6 * shape.m

    with contextlib.suppress(KeyboardInterrupt):
        target.measure(plan, out, timer, "r")
    with out.open("a") as file:
        file.write("matmul,fp32,1,2,8,")  # a line cut off
    target.measure(plan, out, timer, "r")
    assert asked == [1, 2, 2, 3]
    assert [row["latency_us"] for row in target.rows_of(out)] == ["1", "2", "3"]
    assert target.measure(plan, out, timer, "r") == 0


def test_products_attention_and_layers_are_timed_with_torch(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.csv", tmp_path / "out.csv"
    rows = "matmul,fp32,1,2,8,8,1,1\nattention,fp32,2,4,8,4,2,1\nnetwork,fp32,2,4,8,16,2,3\n"
    plan.write_text(f"{','.join(target.Shape._fields)}\n{rows}")
    timer, runtime = target.torch_timer(1)
    assert target.measure(plan, out, timer, runtime) == 3
    found = target.rows_of(out)
    assert [row["op"] for row in found] == list(target.OPS)
    assert all(float(row["latency_us"]) > 0 for row in found)
    assert target.measure(plan, out, timer, runtime) == 0


def test_onnxruntime_says_what_it_cannot_time() -> None:
    pytest.importorskip("onnxruntime")
    timer, _ = target.onnxruntime_timer(1)
    with pytest.raises(SystemExit, match="plan with --ops matmul"):
        timer(target.Shape("attention", "fp32", 1, 4, 8, 4, 2))


def test_one_thread_is_timed_by_its_own_work_and_several_by_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(target.time, "thread_time", iter([1.0, 3.0]).__next__)
    monkeypatch.setattr(target.time, "perf_counter", iter([1.0, 8.0]).__next__)
    assert target.seconds_by(1)(lambda: None, 2) == 2.0
    assert target.seconds_by(4)(lambda: None, 2) == 7.0


def test_rows_never_go_to_a_file_of_other_columns(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.csv", tmp_path / "out.csv"
    plan.write_text(PLAN)
    out.write_text("dtype,m,k,n,latency_us\nfp32,1,8,8,3\n")
    assert "other columns" in str(target.fault_of(plan, out))
    out.write_text("")
    assert target.fault_of(plan, out) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("dtype,m,k\nfp32,1,8\n", "line 2: needs the columns dtype, m, k, n"),
        (PLAN + "int8,1,8,8\n", "line 5: dtype int8: fp32, bf16, fp16 can be measured"),
        ("dtype,m,k,n\nfp32,0,8,8\n", "line 2: batch, m, k, n, heads, layers must be whole"),
        ("op,dtype,m,k,n\nconv,fp32,1,8,8\n", "line 2: op conv: matmul, attention, network can"),
        ("op,dtype,m,k,n,heads\nnetwork,fp32,1,8,8,3\n", "k = 8 does not split into 3 heads"),
    ],
)
def test_a_faulty_plan_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, fault: str
) -> None:
    plan, out = tmp_path / "plan.csv", tmp_path / "out.csv"
    plan.write_text(text)
    with pytest.raises(SystemExit):
        target.main([str(plan), str(out)])
    assert fault in capsys.readouterr().err
    assert not out.exists()
    plan.write_text(PLAN)
    assert target.fault_of(plan) is None
