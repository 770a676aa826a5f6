"""Networks from one line of geometry: what they compute and read must be what the line says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.adapters.edge_shapes import Geometry, mobile_bert, network, on_processor
from search_spaces.candidate import DTYPES
from search_spaces.ops import KIND, OpTable


def weights_of(table: OpTable, bytes_each: float) -> float:
    matmul = table.kind == KIND["matmul"]
    return float((table.weight_bytes * table.count)[matmul].sum() / bytes_each)


def macs_of(table: OpTable) -> float:
    kinds = [KIND[k] for k in ("matmul", "attention_prefill", "attention_decode")]
    mine = np.isin(table.kind, kinds)
    return float((table.flops * table.count)[mine].sum() / 2)


@given(
    layers=st.integers(2, 12),
    heads=st.integers(1, 8),
    tokens=st.integers(2, 300),
    matrices=st.sampled_from([2, 3]),
)
def test_an_encoder_computes_and_reads_what_its_geometry_says(
    layers: int, heads: int, tokens: int, matrices: int
) -> None:
    h, f = 32 * heads, 128 * heads
    body = layers * (4 * h * h + matrices * h * f)
    shape = Geometry(
        layers=layers, hidden=h, ffn=f, heads=heads, q_len=tokens, kv_len=tokens, weights=body
    )
    table = network(shape, "fp16", "fp16")
    biases = layers * (5 * h + (matrices - 1) * f)
    assert weights_of(table, 2) == pytest.approx(body + biases)
    assert macs_of(table) == pytest.approx(body * tokens + layers * 2 * tokens * tokens * h)


def test_layers_that_share_weights_read_them_once() -> None:
    one = 4 * 64 * 64 + 2 * 64 * 256
    shape = Geometry(layers=12, hidden=64, ffn=256, heads=4, q_len=9, kv_len=9, weights=one)
    table = network(shape, "fp16", "fp16")
    assert weights_of(table, 2) == pytest.approx(one, rel=0.02)
    assert macs_of(table) == pytest.approx(12 * (one * 9 + 2 * 81 * 64))


def test_what_a_decoder_reads_beyond_its_layers_is_a_vocabulary() -> None:
    body = 4 * (6 * 64 * 64 + 2 * 64 * 256)
    shape = Geometry(
        layers=4, hidden=64, ffn=256, heads=4, q_len=1, kv_len=50, weights=body + 64 * 1000
    )
    table = network(shape, "fp16", "fp16")
    last = table.take(np.flatnonzero(table.kind == KIND["matmul"])[-1:])
    assert (last.n[0], last.count[0]) == (1000, 1.0)
    assert weights_of(table, 2) == pytest.approx(body + 64 * 1000, rel=0.02)


def test_mobile_bert_has_its_published_matrices() -> None:
    table = mobile_bert(24, 384, "fp16", "int8")
    assert weights_of(table, 1) == pytest.approx(20.054e6, rel=0.01)  # of its layers
    assert macs_of(table) == pytest.approx(8.6067e9, rel=0.01)


def test_a_graph_with_few_nodes_on_the_processor_keeps_its_matmuls() -> None:
    shape = Geometry(layers=2, hidden=64, ffn=256, heads=4, q_len=9, kv_len=9, weights=98304)
    table = network(shape, "fp16", "int8")
    assert on_processor(table, 0, 9, 64, "fp16") is table
    few, many = (on_processor(table, n, 9, 64, "fp16") for n in (3, 20))
    assert (few.kind == KIND["matmul"]).sum() == (table.kind == KIND["matmul"]).sum()
    assert not (many.kind == KIND["matmul"]).any()
    away = many.kind == KIND["host_sync"]
    assert many.count[away].sum() == pytest.approx(20)
    assert many.flops[away].sum() == pytest.approx(table.flops[table.kind == KIND["matmul"]].sum())


def test_integer_weights_make_attention_integer_and_nothing_else() -> None:
    shape = Geometry(layers=2, hidden=64, ffn=256, heads=4, q_len=9, kv_len=9, weights=98304)
    names = {
        name: {DTYPES[i] for i in network(shape, "fp16", "int8").dtype[kind]}
        for name, kind in (
            (k, network(shape, "fp16", "int8").kind == KIND[k])
            for k in ("matmul", "attention_prefill", "elementwise")
        )
    }
    assert names == {"matmul": {"int8"}, "attention_prefill": {"int8"}, "elementwise": {"fp16"}}
