"""Encoders in a number format, their layers' matrices packed once for the processor's kernels.

A matrix that is not packed is laid out anew at every call: in bf16 that costs a fifth to a half
of a small matmul (measured: 16 rows x 384 x 1536, 0.39 against 0.30 ms; one row, 0.15 against
0.08 ms), and slices of a matrix, which experts are, cost more. In fp32 oneDNN with packed weights
takes 106 us for 8 such rows, 364 for 32 and 2,680 for 256, the BLAS of `linear` 161, 493 and
3,015 (Zen 4, one thread). Experts are packed when a plan first asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from dynsearch.models.dynamic import TORCH_DTYPE, DynamicEncoder, EncoderConfig, Plan, Weights
from dynsearch.models.int8 import BODY, int8_matrix, is_body, quantised

Matrix = Callable[[Tensor], Tensor]  # [..., in] -> [..., out]
Pack = Callable[[Weights, str, slice, slice, Tensor | None], Matrix]
PACKED_ROWS = 32  # rows that a packed bf16 matrix is laid out for; any number runs
ALL = slice(None)


def stored(weights: Weights, dtype: str) -> Weights:
    """Weights (float32) as a file of this number format holds them; int8 with its scales."""
    if dtype == "int8":
        return quantised(weights)
    return {name: value.to(TORCH_DTYPE[dtype]) for name, value in weights.items()}


def encoder_of(
    config: EncoderConfig, weights: Weights, dtype: str, plan: Plan | None = None
) -> DynamicEncoder:
    """The runnable network in a number format.

    Args:
        config: Geometry.
        weights: From `stored`.
        dtype: "fp32", "bf16" or "int8".
        plan: The only one that will be run: nothing else is packed. None: any may be.
    """
    if dtype == "int8":
        return PackedEncoder(config, weights, int8_matrix, plan)
    if packs(dtype):
        return PackedEncoder(config, weights, float_matrix, plan)
    return DynamicEncoder(config, weights)


def matrix_of(weights: Weights, name: str, dtype: str) -> Matrix:
    """The linear operator `name` of fp32 `weights` as a network in `dtype` runs it."""
    held = stored(weights, dtype)
    if dtype == "int8":
        return int8_matrix(held, name + ".weight", ALL, ALL, None)
    if packs(dtype):
        return float_matrix(held, name + ".weight", ALL, ALL, None)
    return partial(functional.linear, weight=held[name + ".weight"], bias=held[name + ".bias"])


def packs(dtype: str) -> bool:
    """Whether this processor's library takes packed matrices in "fp32" or "bf16"."""
    if not (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return False
    if dtype == "bf16":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.cpu.get_capabilities().get("architecture") in ("x86_64", "AMD64")


def float_matrix(
    weights: Weights, name: str, rows: slice, columns: slice, bias: Tensor | None
) -> Matrix:
    """A slice of the fp32 or bf16 matrix `name`; its own bias unless another is given."""
    values = weights[name][rows, columns].contiguous()
    packed = torch.ops.mkldnn._reorder_linear_weight(values, PACKED_ROWS)
    added = weights[name.removesuffix("weight") + "bias"][rows] if bias is None else bias

    def matrix(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, added, "none", [], "")
        return out

    return matrix


class PackedEncoder(DynamicEncoder):
    """A dynamic encoder whose layers' matrices run in packed form."""

    def __init__(
        self, config: EncoderConfig, weights: Weights, pack: Pack, plan: Plan | None = None
    ) -> None:
        """Pack the matrices whole; those of experts now for `plan`, else on first use.

        Args:
            config: Geometry.
            weights: In the number format of `pack`.
            pack: Makes a function of a slice of a matrix.
            plan: The only one that will be run. None: any may be.
        """
        super().__init__(config, {k: v for k, v in weights.items() if not _of_matrix(k)})
        self.matrices: dict[str, Matrix] = {}
        self.experts: dict[tuple[int, int], list[tuple[Matrix, Matrix]]] = {}  # (layer, E)
        self._pack = pack
        self._ffn_weights = {k: v for k, v in weights.items() if _of_ffn(k)}
        for layer in range(config.num_layers if plan is None else plan.depth):
            name = f"layers.{layer}."
            split = plan is not None and plan.top_k[layer] < plan.num_experts[layer]
            for part in BODY[:2] if split else BODY:
                self.matrices[name + part] = pack(weights, f"{name}{part}.weight", ALL, ALL, None)
            if plan is not None and split:
                self._experts_of(layer, plan.num_experts[layer])
        if plan is not None:
            self._ffn_weights = {}

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return self.matrices[name](x)

    def _expert(self, layer: int, experts: int, e: int, x: Tensor) -> Tensor:
        up, down = self._experts_of(layer, experts)[e]
        return down(functional.gelu(up(x)))

    def _experts_of(self, layer: int, experts: int) -> list[tuple[Matrix, Matrix]]:
        """What leads into and out of each expert of a layer; packed when first asked for."""
        key = layer, experts
        if key not in self.experts:
            weights = self._ffn_weights | self.weights
            self.experts[key] = _experts(self.config, weights, self._pack, layer, experts)
        return self.experts[key]


def _experts(
    config: EncoderConfig, weights: Weights, pack: Pack, layer: int, experts: int
) -> list[tuple[Matrix, Matrix]]:
    """What leads into and out of each expert of a layer, less its mean output."""
    name, share = f"layers.{layer}.", config.ffn_size // experts
    minus_mean = weights[f"{name}experts{experts}.minus_mean"]
    parts = [slice(e * share, (e + 1) * share) for e in range(experts)]
    return [
        (
            pack(weights, name + "ffn_in.weight", part, ALL, None),
            pack(weights, name + "ffn_out.weight", ALL, part, minus_mean[e]),
        )
        for e, part in enumerate(parts)
    ]


def _of_matrix(name: str) -> bool:
    """Whether a weight is a packed matrix, or its bias or scale."""
    return is_body(name.rpartition(".")[0] + ".weight")


def _of_ffn(name: str) -> bool:
    """Whether it is one of the feed-forward network's, of which experts are slices."""
    return _of_matrix(name) and ".ffn_" in name
