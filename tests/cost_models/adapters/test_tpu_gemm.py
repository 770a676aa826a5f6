"""Matmuls of tensor processors: units, types, groups, generations without a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cost_models.adapters import scan, tpu_gemm, tpu_trace
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError

HOST = "device,tpu_gen,dtype,m,n,k,latency_us\n"
ROWS = "T,v6e,bfloat16,128,512,256,150\nT,v6e,int8,128,512,256,140\nT,v5e,float32,8,16,32,99\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "any_name.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_is_one_matmul_with_the_bytes_of_its_type(tmp_path: Path) -> None:
    first, second = tpu_gemm.read(write(tmp_path, HOST + ROWS), tmp_path)
    assert (first.device, second.device) == ("google-tpu-v5e", "google-tpu-v6e")
    assert second.seconds == pytest.approx([150e-6, 140e-6])
    ops = second.ops
    assert ops.flops == pytest.approx([2 * 128 * 512 * 256] * 2)
    assert ops.weight_bytes == pytest.approx([2 * 512 * 256, 512 * 256])
    moved = [2 * (128 * 256 + 128 * 512), 128 * 256 + 4 * 128 * 512]  # int8 returns int32
    assert ops.activation_bytes == pytest.approx(moved)
    assert [DTYPES[i] for i in ops.dtype] == ["bf16", "int8"]
    assert second.calls == pytest.approx([1.0, 1.0])


def test_types_of_one_shape_are_left_out_together(tmp_path: Path) -> None:
    table = tpu_gemm.read(write(tmp_path, HOST + ROWS), tmp_path)[1]
    assert len(np.unique(table.group)) == 1


def test_a_generation_without_a_device_file_is_left_out_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, HOST + "T,v99,bfloat16,8,8,8,150\n" + ROWS)
    assert [t.device for t in tpu_gemm.read(path, tmp_path)] == [
        "google-tpu-v5e",
        "google-tpu-v6e",
    ]
    assert "v99" in tpu_gemm.unread(path, tmp_path)[0]


def test_an_unknown_type_is_refused_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, HOST + "T,v6e,bfloat61,8,8,8,150\n")
    with pytest.raises(InputError, match=r"dtype, row 2 = bfloat61"):
        tpu_gemm.read(path, tmp_path)


def test_traces_are_told_apart_by_their_column_and_have_no_dispatch(tmp_path: Path) -> None:
    text = "device,tpu_gen,timing_mode,dtype,m,n,k,latency_us\nT,v7,trace,bfloat16,8,8,8,5\n"
    path = write(tmp_path, text)
    found = scan(tmp_path)
    assert found.read == {path.name: "tpu_trace"}
    assert found.tables[0].calls == pytest.approx([0.0])
    with pytest.raises(InputError, match="timing_mode"):
        tpu_trace.read(write(tmp_path, text.replace("trace", "host")), tmp_path)
