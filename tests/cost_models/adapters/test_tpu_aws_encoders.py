"""Encoders on AWS: one layout for three classes of device."""

from __future__ import annotations

from pathlib import Path

import pytest

from cost_models.adapters import tpu_aws_encoders as adapter
from search_spaces.ops import KIND

TEXT = """device_class,device,instance,model,layers,hidden,ffn,heads,batch,seq_len_tok,latency_ms
npu,AWS Inferentia2 (1 NeuronCore-v2),inf2,bert,2,64,256,4,1,8,1.5
npu,AWS Inferentia2 (1 NeuronCore-v2),inf2,bert,2,64,256,4,1,16,1.75
npu,Some other chip,x,bert,2,64,256,4,1,16,1.75
"""


def test_rows_are_encoders_of_their_length_and_unknown_chips_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(TEXT, encoding="utf-8")
    (table,) = adapter.read(path, tmp_path)
    assert (table.device, len(table)) == ("aws-inferentia2", 2)
    assert table.seconds == pytest.approx([1.5e-3, 1.75e-3])
    matmul = table.ops.kind == KIND["matmul"]
    for row, tokens in enumerate((8, 16)):
        mine = matmul & (table.ops.candidate == row)
        macs = table.ops.flops[mine].sum() / 2
        assert macs == 2 * tokens * (4 * 64 * 64 + 2 * 64 * 256)
    assert any("Some other chip" in text for text in adapter.unread(path, tmp_path))


def test_an_activation_in_eager_pieces_is_eight_kernels_a_layer(tmp_path: Path) -> None:
    eager = "cpu,Intel Xeon 8375C (c6i.2xlarge),c6i,{},2,64,256,4,1,8,1.5\n"
    compiled = "npu,AWS Inferentia2 (1 NeuronCore-v2),inf2,albert_base_v2,2,64,256,4,1,8,1.5\n"
    path = tmp_path / "a.csv"
    rows = eager.format("albert_base_v2") + eager.format("bert") + compiled
    path.write_text(TEXT.splitlines()[0] + "\n" + rows, encoding="utf-8")
    tables = {t.device: t for t in adapter.read(path, tmp_path)}
    ops = tables["intel-xeon-8375c-c6i-2xlarge"].ops
    wide = (ops.kind == KIND["elementwise"]) & (ops.n == 256)
    kernels = [ops.count[wide & (ops.candidate == row)].sum() for row in (0, 1)]
    assert kernels == [2 * 8, 2]
    ops = tables["aws-inferentia2"].ops
    assert ops.count[(ops.kind == KIND["elementwise"]) & (ops.n == 256)].sum() == 2
