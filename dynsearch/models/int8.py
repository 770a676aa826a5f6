"""The dynamic encoder with its large matrices in int8 (dynamic quantisation).

In int8 are the weights of the layers' linear operators (QKV, attention output, both of the
feed-forward network, and the slices of it that are experts): one scale per output channel,
symmetric. What enters such an operator is quantised on the fly, one scale and zero point for the
whole tensor, the products are summed in int32 and come out as fp32. Everything else (embeddings,
norms, attention itself, routers, exit heads) stays fp32.

One scale per call means that a text's answer depends, a little, on its batch mates.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig, Plan, Weights

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


class Int8Encoder(DynamicEncoder):
    """A dynamic encoder over quantised weights, packed once for the processor's int8 kernels."""

    def __init__(self, config: EncoderConfig, weights: Weights, plan: Plan | None = None) -> None:
        """Pack the matrices, whole and sliced into experts.

        Args:
            config: Geometry.
            weights: From `quantised`.
            plan: The only one that will be run: nothing else is packed. None: any may be.
        """
        rest = {k: v for k, v in weights.items() if not _is_packed(k)}
        super().__init__(config, rest)
        self.reduce_range = needs_reduced_range()
        self.packed: dict[str, Any] = {}
        self.experts: dict[tuple[int, int], list[tuple[Any, Any]]] = {}  # (layer, E) -> experts
        for layer in range(config.num_layers if plan is None else plan.depth):
            name, split = f"layers.{layer}.", plan is not None and _is_split(plan, layer)
            for part in BODY[:2] if split else BODY:
                self.packed[name + part] = _pack(weights, f"{name}{part}.weight")
            for count in config.expert_counts:
                if f"{name}experts{count}.minus_mean" in weights:
                    self.experts[layer, count] = self._slices(weights, layer, count)

    def _slices(self, weights: Weights, layer: int, experts: int) -> list[tuple[Any, Any]]:
        name, share = f"layers.{layer}.", self.config.ffn_size // experts
        minus_mean = weights[f"{name}experts{experts}.minus_mean"]
        found = []
        for e in range(experts):
            part = slice(e * share, (e + 1) * share)
            up = _pack(weights, name + "ffn_in.weight", rows=part)
            down = _pack(weights, name + "ffn_out.weight", columns=part, bias=minus_mean[e])
            found.append((up, down))
        return found

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return self._apply(x, self.packed[name])

    def _expert(self, layer: int, experts: int, e: int, x: Tensor) -> Tensor:
        up, down = self.experts[layer, experts][e]
        return self._apply(functional.gelu(self._apply(x, up)), down)

    def _apply(self, x: Tensor, packed: Any) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic(x, packed, self.reduce_range)
        return out


def needs_reduced_range() -> bool:
    """Whether activations get 7 bits: x86 kernels without VNNI add pairs of products in int16.

    (torch.ao.quantization documents the same rule as `reduce_range`.)
    """
    seen = torch.cpu.get_capabilities()
    x86 = str(seen.get("architecture", "")) in ("x86_64", "AMD64", "i386")
    return x86 and not (seen.get("avx512_vnni") or seen.get("avx_vnni"))


def _is_split(plan: Plan, layer: int) -> bool:
    return plan.top_k[layer] < plan.num_experts[layer]


def _is_packed(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "layers" and parts[2] in BODY


def _pack(
    weights: Weights,
    name: str,
    *,
    rows: slice = slice(None),
    columns: slice = slice(None),
    bias: Tensor | None = None,
) -> Any:
    """A slice of the matrix `name` for `linear_dynamic`; its own bias unless another is given."""
    stem = name.removesuffix("weight")
    if bias is None:
        bias = weights[stem + "bias"][rows]
    return pack(weights[name][rows, columns].contiguous(), weights[stem + "scale"][rows], bias)


def pack(values: Tensor, scale: Tensor, bias: Tensor) -> Any:
    """What `torch.ops.quantized.linear_dynamic` takes, of a matrix int8 [out, in]."""
    zeros = torch.zeros(values.shape[0], dtype=torch.int64)
    with warnings.catch_warnings():  # no other way in makes the packed form of these kernels
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
        matrix = torch._make_per_channel_quantized_tensor(values, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(matrix, bias)
