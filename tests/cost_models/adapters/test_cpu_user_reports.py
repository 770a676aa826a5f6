"""Rows that users of whisper.cpp report: formats, thread counts, groups, geometry."""

from __future__ import annotations

from pathlib import Path

import pytest

from cost_models.adapters import cpu_ggml, cpu_whisper
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError

GGML = "device,threads,weight_dtype,m,n,k,gflops,latency_us\n"
BOARD = "Orange Pi 5 (RK3588)"
WHISPER = (
    "device,build,threads,model,layers,hidden,ffn,heads,batch,seq_len_tok,weight_dtype,"
    "encoder_latency_ms\n"
)


def write(folder: Path, text: str) -> Path:
    path = folder / "any_name.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_blocks_of_32_weights_carry_the_bytes_of_their_scale(tmp_path: Path) -> None:
    text = GGML + "".join(f"{BOARD},4,{f},64,64,64,1,100\n" for f in ("f32", "q8_0", "q4_1"))
    (table,) = cpu_ggml.read(write(tmp_path, text), tmp_path)
    per_block = [32 * 4, 32 + 2, 16 + 2 + 2]
    assert table.ops.weight_bytes == pytest.approx([b * 64 * 64 / 32 for b in per_block])
    assert [DTYPES[i] for i in table.ops.dtype] == ["fp32", "int8", "int4"]
    assert table.seconds == pytest.approx([1e-4] * 3)
    assert len(set(table.group)) == 1


def test_each_number_of_threads_is_a_table_of_its_own(tmp_path: Path) -> None:
    text = GGML + f"{BOARD},4,f16,64,64,64,1,100\n{BOARD},1,f16,64,64,64,1,300\n"
    tables = cpu_ggml.read(write(tmp_path, text), tmp_path)
    assert [(t.threads, len(t)) for t in tables] == [(4, 1), (1, 1)]


def test_an_unknown_weight_format_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weight_dtype"):
        cpu_ggml.read(write(tmp_path, GGML + f"{BOARD},4,q2_k,64,64,64,1,100\n"), tmp_path)


def test_a_whisper_pass_has_its_geometry_and_builds_without_simd_are_left_out(
    tmp_path: Path,
) -> None:
    tiny = "tiny,4,384,1536,6,1,1500,fp16,9506\n"
    base = "base,6,512,2048,8,1,1500,fp16,23512\n"
    pi = "Raspberry Pi 4 (4x Cortex-A72)"
    text = WHISPER + f"{pi},NEON,4,{tiny}{pi},NEON,4,{base}{pi},no SIMD,4,{tiny}"
    (table,) = cpu_whisper.read(write(tmp_path, text), tmp_path)
    assert (table.device, table.threads, len(table)) == ("raspberry-pi-4", 4, 2)
    assert table.group.tolist() == ["L4 h384", "L6 h512"]
    ops = table.ops
    tiny_flops = ops.flops[ops.candidate == 0].sum()
    assert tiny_flops / 2 == pytest.approx(18.469e9, rel=0.1)  # the published multiply-adds
