"""Expert layers: which experts of which rank get how many tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cost_models.adapters.gpu_moe import power_law_loads, read
from search_spaces.ops import KIND

HEADER = "device,framework,dtype,tokens,hidden,inter,topk,experts,tp,ep,distribution,latency_us\n"


def test_few_tokens_go_to_experts_of_their_own() -> None:
    assert power_law_loads(1, 128, 8, 1, 1.01) == (8.0, 8.0)
    assigned, touched = power_law_loads(4, 128, 8, 1, 1.2)
    assert assigned == 32.0
    assert 28 <= touched <= 32


@pytest.mark.parametrize("power", [1.01, 1.2])
def test_skewed_loads_leave_experts_without_tokens_that_even_ones_reach(power: float) -> None:
    for tokens in (16, 64, 256):
        assigned, touched = power_law_loads(tokens, 256, 8, 1, power)
        assert assigned == pytest.approx(8 * tokens, rel=0.01)
        assert 0.2 * 256 < touched < 0.95 * min(256, 8 * tokens)


def test_the_fullest_rank_gets_more_than_its_share_and_no_expert_more_than_every_token() -> None:
    assigned, touched = power_law_loads(1024, 128, 8, 4, 1.01)
    assert 1024 * 8 / 4 < assigned < 1024 * 8
    assert touched <= 32
    assert power_law_loads(64, 8, 2, 8, 1.2)[0] <= 64


def test_rows_of_a_power_law_move_the_weights_of_fewer_experts(tmp_path: Path) -> None:
    shape = "h100_sxm,vllm/1,bfloat16,32,2048,768,8,256,1,1"
    path = tmp_path / "moe.csv"
    path.write_text(HEADER + f"{shape},balanced,50\n{shape},power_law_1.01,40\n", encoding="utf-8")
    (table,) = read(path, tmp_path)
    assert (table.ops.kind == KIND["grouped_matmul"]).all()
    even, skewed = (table.ops.count[table.ops.candidate == row] for row in (0, 1))
    np.testing.assert_allclose(even, 256)
    assert (skewed < 0.6 * even).all()
