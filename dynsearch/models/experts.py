"""Feed-forward networks cut into nested experts, and routers fitted in closed form.

MoEfication (Zhang et al. 2022) cuts a trained FFN by clustering its neurons. Here the neurons
are ordered once so that every split is a reshape: E experts are E equal consecutive slices, and
the coarser split's experts are unions of the finer one's (8 refine 4). With all experts switched
on the network is exactly the dense one.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dynsearch.models.dynamic import DynamicEncoder, EncoderConfig, Weights, full_plan
from dynsearch.models.tokens import Tokens

PROFILE_ROWS = 192  # texts that neuron profiles, means and routers are taken from, at most
PROFILE_TOKENS = 8192  # their tokens, at most
KMEANS_ROUNDS = 8
RIDGE = 1e-2  # relative to the mean diagonal of the Gram matrix


def split_experts(
    config: EncoderConfig, weights: Weights, tokens: Tokens, counts: tuple[int, ...], seed: int
) -> tuple[EncoderConfig, Weights]:
    """The same network with FFN neurons reordered into nested experts, routers fitted.

    Args:
        config: Geometry; `ffn_size` must be divisible by the largest count.
        weights: Flat weights; not changed.
        tokens: Texts from which co-activation is read.
        counts: Expert counts, ascending, each dividing the next.
        seed: Of the clustering.
    """
    if not counts:
        return config, dict(weights)
    if config.ffn_size % counts[-1] or any(b % a for a, b in pairwise(counts)):
        raise ValueError(f"expert counts {counts} do not nest in ffn_size {config.ffn_size}")
    rng = np.random.default_rng(seed)
    out = dict(weights)
    inputs = ffn_inputs(DynamicEncoder(config, weights), tokens)
    for layer, x in enumerate(inputs):
        name = f"layers.{layer}."
        hidden = functional.gelu(
            functional.linear(x, weights[name + "ffn_in.weight"], weights[name + "ffn_in.bias"])
        )
        strength = weights[name + "ffn_out.weight"].norm(dim=0)  # [f]
        profile = ((hidden - hidden.mean(dim=0)) * strength).T.cpu().numpy()  # [f, tokens]
        order = torch.from_numpy(_nested_order(_project(profile, rng), counts, rng)).to(x.device)
        out[name + "ffn_in.weight"] = weights[name + "ffn_in.weight"][order].contiguous()
        out[name + "ffn_in.bias"] = weights[name + "ffn_in.bias"][order].contiguous()
        out[name + "ffn_out.weight"] = weights[name + "ffn_out.weight"][:, order].contiguous()
    config = replace(config, expert_counts=counts)
    return config, fit_routers(config, out, tokens)


def fit_routers(config: EncoderConfig, weights: Weights, tokens: Tokens) -> Weights:
    """`weights` with expert means and routers fitted to the network as it is now.

    A switched-off expert contributes its mean output over `tokens`. A router scores expert e by a
    ridge regression of |output_e - mean_e| (L2 norm, per token) on the FFN input. Being linear,
    the score of a mean-pooled state is the mean score of its tokens, so one router serves both
    granularities.
    """
    out = dict(weights)
    inputs = ffn_inputs(DynamicEncoder(config, weights), tokens)
    for layer, x in enumerate(inputs):
        name = f"layers.{layer}."
        hidden = functional.gelu(
            functional.linear(x, weights[name + "ffn_in.weight"], weights[name + "ffn_in.bias"])
        )
        for experts in config.expert_counts:
            share = config.ffn_size // experts
            means, targets = [], []
            for e in range(experts):
                part = slice(e * share, (e + 1) * share)
                answer = functional.linear(
                    hidden[:, part], weights[name + "ffn_out.weight"][:, part]
                )
                means.append(answer.mean(dim=0))
                targets.append((answer - means[-1]).norm(dim=1))
            mean = torch.stack(means)
            weight, bias = _ridge(x, torch.stack(targets, dim=1))
            out[f"{name}experts{experts}.base"] = weights[name + "ffn_out.bias"] + mean.sum(dim=0)
            out[f"{name}experts{experts}.minus_mean"] = -mean
            out[f"{name}router{experts}.weight"] = weight
            out[f"{name}router{experts}.bias"] = bias
    return out


def ffn_inputs(model: DynamicEncoder, tokens: Tokens) -> list[Tensor]:
    """Inputs [tokens, h] of each layer's FFN in the full network, float32, without padding."""
    plan = full_plan(model.config)
    parts: list[list[Tensor]] = [[] for _ in range(plan.depth)]
    fits = int(np.searchsorted(np.cumsum(tokens.lengths), PROFILE_TOKENS, side="right"))
    rows = np.arange(min(PROFILE_ROWS, max(1, fits), len(tokens)))
    with torch.no_grad():
        for i in range(0, len(rows), 64):
            ids, n = tokens.batch(rows[i : i + 64])
            state = model.start(ids, n, tokens.batch_types(rows[i : i + 64]))
            for layer in range(plan.depth):
                seen = model.attend(layer, state, plan)
                mask = seen.mask()
                flat = seen.x.reshape(-1, seen.x.shape[-1])
                parts[layer].append(flat if mask is None else flat[mask.reshape(-1)])
                state = model.feed_forward(layer, seen, plan)
    return [torch.cat(p).float() for p in parts]


def _ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [E, h] and bias [E] of the ridge regression of y [n, E] on x [n, h]."""
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    centred = x - mean_x
    gram = centred.T @ centred
    gram += torch.eye(x.shape[1], device=x.device) * (RIDGE * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, centred.T @ (y - mean_y)).T.contiguous()
    return weight, mean_y - weight @ mean_x


def _project(profile: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Random projection of neuron profiles [f, tokens] to 64 dimensions, unit length."""
    basis = rng.standard_normal((profile.shape[1], 64), dtype=np.float32)
    short = profile @ basis
    unit: NDArray[np.float32] = short / np.maximum(np.linalg.norm(short, axis=1), 1e-12)[:, None]
    return unit


def _nested_order(
    points: NDArray[np.float32], counts: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Order of the points in which every count's groups are consecutive and equal in size."""
    groups = [np.arange(points.shape[0])]
    previous = 1
    for count in counts:
        parts = count // previous
        groups = [
            group[members]
            for group in groups
            for members in _balanced_clusters(points[group], parts, rng)
        ]
        previous = count
    return np.concatenate(groups)


def _balanced_clusters(
    points: NDArray[np.float32], parts: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """K-means with equal cluster sizes: points that lose most by waiting choose first."""
    size = points.shape[0] // parts
    centres = points[rng.choice(points.shape[0], parts, replace=False)]
    owner = np.zeros(points.shape[0], dtype=np.int64)
    for _ in range(KMEANS_ROUNDS):
        far = ((points[:, None] - centres[None]) ** 2).sum(axis=2)  # [points, parts]
        ranked = np.argsort(far, axis=1)
        best = np.sort(far, axis=1)
        free = np.full(parts, size)
        for i in np.argsort(best[:, 0] - best[:, min(1, parts - 1)], kind="stable"):
            owner[i] = next(c for c in ranked[i] if free[c])
            free[owner[i]] -= 1
        centres = np.stack([points[owner == c].mean(axis=0) for c in range(parts)])
    return [np.flatnonzero(owner == c) for c in range(parts)]
