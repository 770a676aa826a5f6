"""Rows of Jetson boards: which are read, and as what."""

from __future__ import annotations

from pathlib import Path

import pytest

from cost_models.adapters import edge_jetson_llama, edge_jetson_vlm, edge_mlperf_bert

NANO = """device,backend,gpu_layers,model,weights,prefill512_tok_per_s,decode128_tok_per_s
Jetson Nano 4GB (Tegra X1),CUDA,10,TinyLlama-1.1B,q4_k_m,24,3
Jetson Nano 4GB (Tegra X1),CUDA,24,TinyLlama-1.1B,q4_k_m,64,4
"""
ORIN = """device,runtime,weights,prompt,prompt_tokens,output_tokens,prefill_or_ttft_ms,tpot_ms,\
energy_per_token_mj
Jetson Orin Nano 8GB Super (MAXN_SUPER),TensorRT-Edge-LLM,w4a16,text,19.0,80,29,16,338
Jetson Orin Nano 8GB Super (MAXN_SUPER),llama.cpp,q4_k_m,text,,80,33,26,
"""
BERT = """system,benchmark,layers,hidden,ffn,heads,seq_len_tok_max,dtype,scenario,latency_max_ms
"Orin (Jetson AGX Orin 64G, MaxP)",bert-99,24,1024,4096,16,384,int8,SingleStream,6.5
"Orin (Jetson AGX Orin 64G, MaxQ)",bert-99,24,1024,4096,16,384,int8,SingleStream,9.5
"""


def test_only_networks_that_are_whole_on_the_graphics_processor_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(NANO, encoding="utf-8")
    (table,) = edge_jetson_llama.read(path, tmp_path)
    assert table.seconds == pytest.approx([512 / 64, 1 / 4])


def test_prompts_of_unknown_length_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(ORIN, encoding="utf-8")
    engine, llama = edge_jetson_vlm.read(path, tmp_path)
    assert engine.seconds == pytest.approx([16e-3, 29e-3])
    assert llama.seconds == pytest.approx([26e-3])


def test_the_longest_sentence_is_the_row_and_capped_runs_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(BERT, encoding="utf-8")
    (table,) = edge_mlperf_bert.read(path, tmp_path)
    assert table.seconds == pytest.approx([6.5e-3])
    assert table.ops.m.max() == 384
