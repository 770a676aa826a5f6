"""The script that is copied to a target: interruption, and what it writes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cost_models.calibrate import target

PLAN = "dtype,m,k,n\nfp32,1,8,8\nfp32,2,8,8\nfp32,3,8,8\n"


def test_an_interrupted_measurement_goes_on_with_what_is_left(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.csv", tmp_path / "out.csv"
    plan.write_text(PLAN)
    asked: list[int] = []

    def timer(dtype: str, m: int, k: int, n: int) -> float:
        asked.append(m)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return 1e-6 * m

    with contextlib.suppress(KeyboardInterrupt):
        target.measure(plan, out, timer, "r")
    with out.open("a") as file:
        file.write("fp32,2,8,")  # a line cut off
    target.measure(plan, out, timer, "r")
    assert asked == [1, 2, 2, 3]
    assert [row["latency_us"] for row in target.rows_of(out)] == ["1", "2", "3"]
    assert target.measure(plan, out, timer, "r") == 0


def test_a_product_is_timed_with_torch(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.csv", tmp_path / "out.csv"
    plan.write_text("dtype,m,k,n\nfp32,2,8,8\n")
    timer, runtime = target.torch_timer(1)
    assert target.measure(plan, out, timer, runtime) == 1
    assert float(target.rows_of(out)[0]["latency_us"]) > 0
