"""The AI Hub's tables: boards, components, groups, and what is not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cost_models.adapters import edge_aihub as adapter
from cost_models.adapters import edge_aihub_llm as llm
from search_spaces.errors import InputError
from search_spaces.ops import KIND

HEADER = "model,component,precision,device,runtime,compute_unit,latency_ms,layers_cpu\n"
ROWS = """bert,Bert,float,Samsung Galaxy S25,qnn_dlc,NPU,12.0,
electra,Electra,float,Samsung Galaxy S25,qnn_dlc,NPU,13.0,0
tiny,HfEncoder,w8a16,Samsung Galaxy S25,qnn_dlc,NPU,2.0,
tiny,HfDecoder,float,Samsung Galaxy S25,qnn_dlc,NPU,3.0,2
tiny,HfDecoder,float,Samsung Galaxy S25,onnx,NPU,4.0,
bert,Bert,float,Samsung Galaxy S25,qnn_dlc,CPU,900,
resnet,Net,float,Samsung Galaxy S25,qnn_dlc,NPU,1.0,
bert,Bert,float,Board of nobody,qnn_dlc,NPU,12.0,
"""
GEOMETRY = """model,component_regex,layers,hidden,ffn,heads,q_len,kv_len,weight_m
bert,.*,2,64,256,4,32,32,0.098304
electra,.*,2,64,256,4,32,32,0.098304
tiny,(?i).*enc.*,2,64,256,4,16,16,0.098304
tiny,(?i).*dec.*,2,64,256,4,1,20,0.2
"""


def folder(tmp_path: Path, rows: str = ROWS, geometry: str | None = GEOMETRY) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(HEADER + rows, encoding="utf-8")
    if geometry is not None:
        (tmp_path / "geometry.csv").write_text(geometry, encoding="utf-8")
    return path


def test_boards_and_runtimes_are_tables_and_unknown_models_are_left_out(tmp_path: Path) -> None:
    onnx, qnn = adapter.read(folder(tmp_path), tmp_path)
    assert (onnx.runtime, len(onnx)) == ("onnx", 1)
    assert (qnn.device, qnn.runtime) == ("qualcomm-snapdragon-8-elite", "qnn_dlc")
    assert qnn.seconds == pytest.approx([12e-3, 13e-3, 2e-3, 3e-3])
    assert adapter.unread(tmp_path / "table.csv", tmp_path) == [
        "table.csv: Board of nobody has no device file"
    ]


def test_models_of_equal_shape_are_one_group_and_components_are_not(tmp_path: Path) -> None:
    group = adapter.read(folder(tmp_path), tmp_path)[1].group
    assert group[0] == group[1]
    assert len(np.unique(group)) == 3


def test_nodes_of_the_processor_are_host_nodes_with_copies(tmp_path: Path) -> None:
    ops = adapter.read(folder(tmp_path), tmp_path)[1].ops
    away = ops.kind == KIND["host_sync"]
    assert set(ops.candidate[away]) == {3}
    assert ops.count[away] == pytest.approx([2.0])
    assert ops.activation_bytes[away] == pytest.approx([2 * 2 * 64])


def test_a_file_without_geometry_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"geometry\.csv"):
        adapter.read(folder(tmp_path, geometry=None), tmp_path)


def test_extrapolated_prompts_of_language_models_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "llm.csv"
    path.write_text(
        "model,precision,device,runtime,context_length_tok,ttft_min_ms,ttft_max_ms,"
        "decode_tok_per_s\n"
        "llama_v3_8b_instruct,w4a16,Samsung Galaxy S24,genie,4096,100,3200,20\n"
        "llama_v2_7b_chat,w4a16,Samsung Galaxy S24,genie,1024,1440,1440,10\n"
        "a_model_without_geometry,w4a16,Samsung Galaxy S24,genie,4096,50,1600,40\n",
        encoding="utf-8",
    )
    steps, prompts = llm.read(path, tmp_path)
    assert steps.seconds == pytest.approx([0.05, 0.1])
    assert prompts.seconds == pytest.approx([0.1])  # of 128 tokens
    assert any("a_model_without_geometry" in text for text in llm.unread(path, tmp_path))
    matmul = steps.ops.kind == KIND["matmul"]
    read = (steps.ops.weight_bytes * steps.ops.count)[matmul & (steps.ops.candidate == 0)].sum()
    assert read == pytest.approx(7.5e9 * 4.5 / 8, rel=0.01)  # all but the embedding of 8.03e9
