"""`dynsearch calibrate plan|measure|fit` from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynsearch.commands import calibrate
from dynsearch.errors import InputError

NOTHING = {"device": None, "rows": None, "out": None, "count": 3, "dtype": "fp32"}
NOTHING |= {"runtime": "r", "threads": 1}


@pytest.mark.parametrize(
    ("action", "given", "key"),
    [
        ("pln", {}, "ACTION"),
        ("plan", {}, "--out"),
        ("plan", {"out": Path("x")}, "--device"),
        ("plan", {"out": Path("x"), "device": "nvidia-l4", "dtype": "half"}, "--dtype"),
        ("plan", {"out": Path("x"), "device": "nvidia-l4", "ops": "matmul,gemm"}, "--ops"),
        ("measure", {"out": Path("x")}, "--rows"),
        ("measure", {"out": Path("x"), "rows": Path("no-such-plan")}, ""),
    ],
)
def test_what_a_step_lacks_is_named(action: str, given: dict[str, object], key: str) -> None:
    with pytest.raises(InputError) as error:
        calibrate.run(action, **{**NOTHING, **given})  # type: ignore[arg-type]
    assert [p.key for p in error.value.problems] == [key]


def test_a_plan_is_written_as_the_target_reads_it(tmp_path: Path) -> None:
    out = tmp_path / "plan.csv"
    found = calibrate.run("plan", **{**NOTHING, "device": "nvidia-l4", "out": out})  # type: ignore[arg-type]
    assert found["n"] == 3
    assert out.read_text().splitlines()[0] == "op,dtype,batch,m,k,n,heads,layers"
    assert len(out.read_text().splitlines()) == 4
