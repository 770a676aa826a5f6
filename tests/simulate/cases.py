"""Candidates of every kind of backbone for tests of the simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cost_models.device import load_device
from dynsearch.simulate.setting import Setting
from search_spaces.backbone import Backbone
from search_spaces.backbones import load_backbone
from search_spaces.candidate import Candidate, Exits, Experts, Skim
from search_spaces.tokens import SCORER_WIDTH
from search_spaces.workload import Workload

PHONE, SERVER, BOARD = "qualcomm-snapdragon-8-gen3", "nvidia-h100-80g-sxm", "raspberry-pi-5"
SMALL = load_backbone("minilm-l6")
WRITER = Backbone(
    name="writer",
    type="decoder",
    num_layers=6,
    hidden_size=256,
    num_heads=4,
    ffn_size=1024,
    vocab_size=5000,
    max_len=512,
)
READER = Backbone(
    name="reader",
    type="recurrent",
    num_layers=1,
    hidden_size=128,
    num_heads=1,
    ffn_size=1,
    vocab_size=5000,
    max_len=512,
)


def encoder(**changes: Any) -> Candidate:
    """Six layers with exits after the second and fourth."""
    exits = Exits(layers=(2, 4), thresholds=(0.8, 0.8))
    base: dict[str, Any] = {"backbone": SMALL, "depth": 6, "exits": exits}
    return Candidate(**{**base, **changes})


def decoder(policy: str, **changes: Any) -> Candidate:
    """Six layers whose tokens leave early under a policy for their keys."""
    one = policy in ("sync_parallel", "self_speculative")
    layers = (2,) if one else (2, 4)
    exits = Exits(
        layers=layers,
        thresholds=(0.75,) * len(layers),
        granularity="token",
        head="norm_lm",
        kv_policy=policy,
        kv_cap=3 if policy == "recompute" else None,
        draft_tokens=3 if policy == "self_speculative" else None,
    )
    base = Candidate(
        backbone=WRITER, depth=6, exits=exits, output="text", exit_batching="wait_all"
    )
    return base.with_policy(**changes)


def skims(count: int = 6, rate: float = 0.9, **changes: Any) -> tuple[Skim, ...]:
    """Tokens dropped in every layer, down to rate ** count."""
    layers = tuple(range(1, count + 1))
    keep = tuple(rate**layer for layer in layers)
    return (Skim(layers=layers, keep_rate=keep, **changes),)


def entry(rate: float) -> tuple[Skim, ...]:
    """Tokens dropped before the first layer by a scorer, as the runnable network does."""
    first = Skim(
        layers=(1,),
        keep_rate=(rate,),
        score="learned",
        point="before_layer",
        gate_width=SCORER_WIDTH,
    )
    return (first,)


def experts(E: int = 4, k: int = 1, **changes: Any) -> Experts:
    """Experts in the third layer."""
    return Experts(layers=(3,), num_experts=(E,), top_k=(k,), granularity="token", **changes)


def setting(candidate: Candidate, *, batch: int = 1, device: str = SERVER, **more: Any) -> Setting:
    """One device and workload; lengths of 16, 32 and 48 tokens."""
    base: dict[str, Any] = {
        "candidate": candidate,
        "file": Path("candidate.toml"),
        "device": load_device(device),
        "workload": Workload(batch=batch, max_len=48),
        "lengths": (16, 32, 48),
        "samples": 6000,
        "new_tokens": 12,
    }
    return Setting(**{**base, **more})
