"""The layers' matrices in int8 (dynamic quantisation).

In int8 are the weights of the layers' linear operators (QKV, attention output, both of the
feed-forward network, and the slices of it that are experts): one scale per output channel,
symmetric. What enters such an operator is quantised on the fly, one scale and zero point for the
whole tensor, the products are summed in int32 and come out as fp32. Everything else (embeddings,
norms, attention itself, routers, exit heads) stays fp32.

One scale per call means that a text's answer depends, a little, on its batch mates.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynsearch.models.dynamic import Weights

BODY = ("qkv", "out", "ffn_in", "ffn_out")


def quantised(weights: Weights) -> Weights:
    """`weights` with the body's matrices as int8 [out, in] and their `scale` [out] beside them.

    weight = round(w / scale) with scale = max |w| of the output channel / 127.
    """
    out = {}
    for name, value in weights.items():
        out[name] = value.float()
        if is_body(name):
            scale = (out[name].abs().amax(dim=1) / 127.0).clamp_min(1e-12)
            out[name.removesuffix("weight") + "scale"] = scale
            out[name] = (out[name] / scale[:, None]).round().to(torch.int8)
    return out


def is_body(name: str) -> bool:
    """Whether a weight is one of the matrices that int8 covers."""
    parts = name.split(".")
    return parts[0] == "layers" and parts[-1] == "weight" and parts[2] in BODY


def needs_reduced_range() -> bool:
    """Whether activations get 7 bits: x86 kernels without VNNI add pairs of products in int16.

    (torch.ao.quantization documents the same rule as `reduce_range`.)
    """
    seen = torch.cpu.get_capabilities()
    x86 = str(seen.get("architecture", "")) in ("x86_64", "AMD64", "i386")
    return x86 and not (seen.get("avx512_vnni") or seen.get("avx_vnni"))


def int8_matrix(
    weights: Weights, name: str, rows: slice, columns: slice, bias: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """A slice of the quantised matrix `name`; its own bias unless another is given."""
    stem, seven_bits = name.removesuffix("weight"), needs_reduced_range()
    added = weights[stem + "bias"][rows] if bias is None else bias
    packed = pack(weights[name][rows, columns].contiguous(), weights[stem + "scale"][rows], added)

    def matrix(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic(x, packed, seven_bits)
        return out

    return matrix


def pack(values: Tensor, scale: Tensor, bias: Tensor) -> Any:
    """What `torch.ops.quantized.linear_dynamic` takes, of a matrix int8 [out, in]."""
    zeros = torch.zeros(values.shape[0], dtype=torch.int64)
    with warnings.catch_warnings():  # no other way in makes the packed form of these kernels
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
        matrix = torch._make_per_channel_quantized_tensor(values, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(matrix, bias)
