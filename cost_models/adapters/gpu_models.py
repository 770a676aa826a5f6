"""Geometry of the models that tables name, so that a layer's name and tokens give operators.

The figures are those of the models' own configuration files, written with the counts that the
tables' authors profiled; `search_spaces/backbones` holds the networks themselves.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Widths of one decoder layer."""

    hidden: int
    heads: int
    kv_heads: int
    head: int
    inter: int
    vocab: int
    experts: int = 0
    top_k: int = 0
    expert_inter: int = 0


SHAPES: dict[str, Shape] = {
    "meta-llama/Llama-3.1-8B": Shape(
        hidden=4096, heads=32, kv_heads=8, head=128, inter=14336, vocab=128256
    ),
    "meta-llama/Llama-3.1-70B": Shape(
        hidden=8192, heads=64, kv_heads=8, head=128, inter=28672, vocab=128256
    ),
    "Qwen/Qwen3-32B": Shape(
        hidden=5120, heads=64, kv_heads=8, head=128, inter=25600, vocab=151936
    ),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": Shape(
        hidden=2048,
        heads=32,
        kv_heads=4,
        head=128,
        inter=6144,
        vocab=151936,
        experts=128,
        top_k=8,
        expert_inter=768,
    ),
    "mistralai/Mixtral-8x7B-v0.1": Shape(
        hidden=4096,
        heads=32,
        kv_heads=8,
        head=128,
        inter=14336,
        vocab=32000,
        experts=8,
        top_k=2,
        expert_inter=14336,
    ),
}
