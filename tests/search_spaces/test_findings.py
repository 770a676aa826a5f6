"""Geometries that mean nothing are rejected with the nearest that does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search_spaces import load_backbone
from search_spaces.findings import check_backbone

LLAMA, T5, BERT = (load_backbone(n) for n in ("llama2-7b", "t5-small", "bert-base"))
MIXTRAL = load_backbone("mixtral-8x7b")


@pytest.mark.parametrize(
    ("backbone", "changes", "key", "nearest"),
    [
        (T5, {"num_decoder_layers": 0}, "num_decoder_layers", 6),
        (LLAMA, {"num_decoder_layers": 3}, "num_decoder_layers", 0),
        (LLAMA, {"decoder_ffn_size": 8}, "decoder_ffn_size", None),
        (T5, {"head_width": None, "decoder_num_heads": 7}, "decoder_num_heads", 8),
        (BERT, {"sliding_window": 64}, "sliding_window", None),
        (LLAMA, {"sliding_window": 0}, "sliding_window", 1),
        (LLAMA, {"positions": "rope"}, "positions", "rotary"),
        (LLAMA, {"relative_buckets": 32}, "relative_buckets", 0),
        (T5, {"relative_buckets": 0}, "relative_buckets", 32),
        (LLAMA, {"norm": "batch"}, "norm", "layer"),
        (LLAMA, {"biases": "some"}, "biases", "none"),
        (LLAMA, {"input_channels": 80}, "input_channels", 0),
        (MIXTRAL, {"experts_per_token": 9}, "experts_per_token", 8),
        (MIXTRAL, {"num_experts": 0}, "num_experts", 1),
        (LLAMA, {"num_shared_experts": 1}, "num_shared_experts", 0),
        (MIXTRAL, {"expert_every": 0}, "expert_every", 1),
        (LLAMA, {"head_width": 0}, "head_width", 1),
    ],
)
def test_a_geometry_that_means_nothing_is_rejected(
    backbone: Any, changes: dict[str, Any], key: str, nearest: object
) -> None:
    assert check_backbone(backbone) == []
    found = check_backbone(replace(backbone, **changes))
    assert (found[0].key, found[0].nearest) == (f"backbone.{key}", nearest)
    assert found[0].severity == "reject"


def test_heads_of_their_own_width_need_not_divide_the_layer() -> None:
    assert check_backbone(replace(LLAMA, num_heads=24, head_width=128)) == []
    assert check_backbone(replace(LLAMA, num_heads=24))[0].key == "backbone.num_heads"
