"""A user's CSV: what is refused, what a plan asks for, and what a fit learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cost_models.calibrate import user_rows
from cost_models.calibrate.posterior import predict_rows
from cost_models.device import load_device, with_parameters
from search_spaces.errors import InputError

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


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        user_rows.read_rows(
            write(tmp_path, HEAD + "fp16,0,1,1,1\nfp16,1,1,1,-1\n"), load_device(DEVICE), "r"
        )
    assert len(error.value.problems) == 2


def test_a_plan_holds_distinct_shapes() -> None:
    shapes = user_rows.next_shapes(load_device(DEVICE), 20, dtype="fp16")
    assert len(set(shapes)) == 20


def test_twenty_planned_rows_teach_the_device(tmp_path: Path) -> None:
    device = load_device(DEVICE)
    truth = with_parameters(device, {"launch_half": 3 * device.parameter("launch_half")})
    shapes = user_rows.next_shapes(device, 20, dtype="fp16")
    blank = user_rows._measured(shapes, [1.0] * 20, device, "r", "x")
    times = predict_rows([blank], truth)
    rows = [f"{','.join(map(str, s))},{1e6 * t}\n" for s, t in zip(shapes, times, strict=True)]
    profile = user_rows.fit_csv(write(tmp_path, HEAD + "".join(rows)), device, "torch-eager")
    assert profile.n == 20
    assert profile.mape < 0.10
    assert np.isclose(profile.model["launch_half"], truth.parameter("launch_half"), rtol=0.2)
