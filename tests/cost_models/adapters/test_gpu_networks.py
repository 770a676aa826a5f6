"""Whole networks in eager PyTorch: operators of forward passes from names and sizes."""

from __future__ import annotations

import csv
import gzip
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest

from cost_models.adapters.gpu_networks import read
from search_spaces.ops import KIND

from ..shared_data import data_file, needs_data

HEADER = "device,model,mode,seq_len,batch,option,dtype,measured_ms,pred_neusight_ms\n"
LAYERS = {"bert_large": 24, "gpt2_large": 36, "gpt3_xl": 24, "opt_13": 24}


def written(folder: Path, *rows: str) -> Path:
    path = folder / "networks.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_a_forward_pass_costs_two_flops_a_weight_and_token_and_what_attention_adds(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, "NVIDIA L4,gpt2_large,inf,1024,4,,fp32,1276.3,1135.9")
    (table,) = read(path, tmp_path)
    assert (table.device, table.runtime, table.family) == (
        "nvidia-l4",
        "torch-eager",
        "end_to_end",
    )
    matmul = table.ops.kind == KIND["matmul"]
    found = float((table.ops.count * table.ops.flops)[matmul].sum())
    h, tokens = 1280, 4096
    weights = 36 * 12 * h * h + 50257 * h
    assert found == pytest.approx(2 * tokens * (weights + 36 * 2 * h * 1024))
    assert table.peer_s["neusight"] == pytest.approx([1.1359])
    assert table.seconds == pytest.approx([1.2763])


def test_training_several_devices_compiled_graphs_and_unknown_networks_are_left_out(
    tmp_path: Path,
) -> None:
    rows = [
        "NVIDIA L4,bert_large,inf,512,8,,fp32,409.86,350.13",
        "NVIDIA L4,bert_large,train,512,8,,fp32,1275.4,",
        "NVIDIA L4,bert_large,inf,512,8,fusion,fp32,344.11,",
        "NVIDIA L4,bert_large,inf,512,8,tp4,fp32,200,",
        "NVIDIA L4,someone_elses,inf,512,8,,fp32,10,",
    ]
    (table,) = read(written(tmp_path, *rows), tmp_path)
    assert len(table) == 1
    assert table.group.tolist() == ["bert_large"]


def traced() -> list[tuple[str, dict[tuple[int, ...], int]]]:
    """Products of every network in the authors' table: name, (batch, m, k, n) -> times a layer."""
    path, _ = data_file("gpu/neusight/models_ops.csv.gz")
    found: dict[tuple[str, str, str], dict[tuple[int, ...], int]] = {}
    with gzip.open(path, "rt") as stream:
        for row in csv.DictReader(stream):
            if row["op"] not in ("BMM", "Linear"):
                continue
            ((_, sizes),) = literal_eval(row["shape"])
            if row["op"] == "Linear":
                shape = (1, *sizes)  # m, k, n
            else:
                b, m, n, k = sizes
                shape = (b, m, k, n)
            if min(shape[1:]) > 16:  # not what classifies whole texts
                key = (row["device"], row["model"], row["batch"])
                found.setdefault(key, {})[shape] = int(row["count"])
    return [(model, shapes) for (_, model, _), shapes in found.items()]


@needs_data
def test_products_are_those_that_the_authors_traced() -> None:
    theirs = traced()
    path, root = data_file("gpu/neusight/models_e2e.csv.gz")
    for table in read(path, root):
        for i, model in enumerate(table.group.tolist()):
            ops = table.take(np.array([i])).ops
            ops = ops.take((ops.kind == KIND["matmul"]) & (ops.m > 16))
            mine: dict[tuple[int, ...], float] = {}
            for b, m, k, n, count in zip(ops.batch, ops.m, ops.k, ops.n, ops.count, strict=True):
                mine[b, m, k, n] = mine.get((b, m, k, n), 0) + count
            (same, *_) = [
                shapes for name, shapes in theirs if name == model and mine.keys() == shapes.keys()
            ]
            words = {shape for shape in same if shape[3] > 50_000}
            assert len(words) == (model != "bert_large")
            for shape, count in same.items():
                assert mine[shape] == count * (1 if shape in words else LAYERS[model])
