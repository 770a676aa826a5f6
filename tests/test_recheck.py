"""No configuration of a search breaks a budget when code of its own reads it again."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.device import load_device
from dynsearch.evaluate import Scene, blank_trace, build, inner_spec
from search_spaces.candidate import (
    Backbone,
    Candidate,
    Experts,
    Skim,
    apply_policy,
    static_policies,
)
from search_spaces.inner import InnerSpace
from search_spaces.workload import Workload

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "sim")]
from recheck import broken, mean_s, peak_bytes, worst_s  # noqa: E402
from replay_cases import make_trace  # noqa: E402

CLASSES, MAX_LEN, LAYERS = 3, 20, 4
NAMES = ("generic-x86-avx2", "nvidia-a100-80g-sxm")
NET = Backbone(
    name="small", num_layers=LAYERS, hidden_size=48, num_heads=4, ffn_size=192, vocab_size=99,
    max_len=64,
)  # fmt: skip
FULL = Candidate(backbone=NET, depth=LAYERS)
SCENE = Scene(
    devices=tuple(load_device(name) for name in NAMES),
    workload=Workload(batch=1, max_len=MAX_LEN),
    num_classes=CLASSES,
)
SPACE = InnerSpace(
    exit_layers=(1, 2, 3), min_depth=2, max_depth=LAYERS, criteria=("max_prob", "patience"),
    patience=(1, 2), exit_batching=("serial",),
)  # fmt: skip


@st.composite
def outers(draw: st.DrawFn) -> Candidate:
    rates = sorted(draw(st.lists(st.sampled_from([1.0, 0.6, 0.3]), min_size=2, max_size=2)))
    layers = tuple(l_ for l_, r in zip((1, 3), rates[::-1], strict=True) if r < 1.0)
    skim = (Skim(layers=layers, keep_rate=tuple(r for r in rates[::-1] if r < 1.0)),)
    kind = draw(st.sampled_from(["token", "sequence"]))
    moe = Experts(layers=(2, 4), num_experts=(4, 4), top_k=(1, 2), granularity=kind)
    return replace(
        FULL,
        skim=skim if layers else (),
        moe=draw(st.sampled_from([None, moe])),
        dtype=draw(st.sampled_from(["fp32", "bf16"])),
    )


@settings(max_examples=8)
@given(
    outer=outers(),
    seed=st.integers(0, 2**16),
    shares=st.tuples(st.floats(0.5, 1.05), st.floats(0.9, 1.05), st.floats(0.4, 1.0)),
)
def test_no_point_of_a_random_search_breaks_a_budget(outer, seed, shares) -> None:
    rng = np.random.default_rng(seed)
    drawn = make_trace(rng, 24, LAYERS)
    # Fewer tokens leave nothing to drop, which tables by rate price as a drop all the same.
    reference = blank_trace(FULL, np.maximum(drawn.lengths, 4), CLASSES)
    reference = replace(reference, logits=drawn.logits, labels=drawn.labels)
    logits = make_trace(rng, 24, LAYERS).logits
    tokens = blank_trace(outer, reference.lengths, CLASSES)
    trace = replace(tokens, logits=logits, labels=reference.labels)
    bare = static_policies([LAYERS], num_layers=LAYERS, exit_batching="serial")
    full = apply_policy(FULL, bare, 0)
    budgets = {}
    for device in SCENE.devices:
        costs = (
            worst_s(full, device, max_len=MAX_LEN, classes=CLASSES),
            peak_bytes(full, max_len=MAX_LEN, classes=CLASSES),
            mean_s(full, device, reference, classes=CLASSES),
        )
        names = ("latency_worst_s", "peak_bytes", "latency_mean_s")
        limits = [c * share for c, share in zip(costs, shares, strict=True)]
        budgets[device.name] = dict(zip(names, limits, strict=True))
    spec = inner_spec(
        SCENE,
        inner_space=SPACE,
        objectives=("error", "latency_mean_s"),
        budgets=budgets,
        anchors=dict.fromkeys(NAMES, (1.0, 2.0, 3.0)),
    )
    found = build({**spec, "reference_trace": reference, "majority_error": 0.5})(outer, trace)
    for device, front in zip(SCENE.devices, found.devices, strict=True):
        for i in rng.permutation(len(front.policies))[:6]:
            one = apply_policy(outer, front.policies, i)
            more = {"trace": trace, "max_len": MAX_LEN, "classes": CLASSES}
            assert broken(one, device, budgets[device.name], **more) == {}
            costs = {name: float(front.costs[name][i]) for name in ("latency_mean_s",)}
            tight = {name: cost * (1 - 1e-6) for name, cost in costs.items()}
            assert broken(one, device, tight, **more).keys() == costs.keys()
