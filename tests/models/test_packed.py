"""Packed matrices compute what arithmetic by hand gives, and all plans run on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.models import int8
from dynsearch.models.dynamic import DynamicEncoder, Record, full_plan, plan_of
from dynsearch.models.experts import split_experts
from dynsearch.models.int8 import quantised
from dynsearch.models.packed import encoder_of, float_matrix, packs, stored
from dynsearch.models.tokens import Tokens, load_tokenizer, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.training import Labelled, add_heads
from dynsearch.testing import tiny_model, tiny_texts
from search_spaces.candidate import Candidate, Experts, Skim

PLANS = {
    "full": {},
    "skim": {"keep_rate": (0.75, 0.5, 0.5, 0.25)},
    "experts by sequence": {"num_experts": (4, 8, 1, 4), "top_k": (1, 4, 1, 2)},
    "experts by token": {
        "num_experts": (1, 8, 4, 4),
        "top_k": (1, 2, 1, 2),
        "token_routing": True,
    },
}


PACKED = ("int8", *(dtype for dtype in ("fp32", "bf16") if packs(dtype)))
TOLERANCE = {"bf16": {"rtol": 2**-7, "atol": 2**-5}, "fp32": {"rtol": 1e-5, "atol": 1e-5}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokens(folder: Path) -> Tokens:
    return tokenize(load_tokenizer(folder), [t for t, _ in tiny_texts(48)], 24)


@pytest.fixture(scope="module")
def model(folder: Path, tokens: Tokens) -> DynamicEncoder:
    config = encoder_config(read_backbone(folder), num_classes=3, norm_eps=1e-12)
    weights = add_heads(config, read_pretrained(folder), 0)
    return DynamicEncoder(*split_experts(config, weights, tokens, (4, 8), 0))


def by_hand(x, weight, bias, *, bits: int = 8):
    """Dynamic quantisation in numpy: one scale and zero point for x, one scale a row of weight.

    Returns the product and what one unit of rounding in x can change of it.
    """
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    w_scale = np.abs(weight).max(axis=1) / 127
    w = np.round(weight / w_scale[:, None])
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    scale = (high - low) / (2**bits - 1)
    zero = np.round(-low / scale)
    q = np.clip(np.round(x / scale) + zero, 0, 2**bits - 1) - zero
    return q @ w.T * scale * w_scale + np.asarray(bias), scale * np.abs(w * w_scale[:, None])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    m=st.integers(1, 40),
    shift=st.floats(-3, 3),
    reduce=st.sampled_from([True] if int8.needs_reduced_range() else [False, True]),
)
def test_a_linear_operator_is_integer_arithmetic(seed: int, m: int, shift: float, reduce: bool):
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(m, 32, generator=make) + shift
    weight, bias = torch.randn(24, 32, generator=make), torch.randn(24, generator=make)
    name, every = "layers.0.qkv.", slice(None)
    stored = quantised({name + "weight": weight, name + "bias": bias})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "needs_reduced_range", lambda: reduce)
        got = int8.int8_matrix(stored, name + "weight", every, every, None)(x).numpy()
    want, step = by_hand(x, weight, bias, bits=7 if reduce else 8)
    # a value that falls between two integers may be rounded either way: few of 32 do
    assert (np.abs(got - want) <= 2 * step.max(axis=1) + 1e-4).all()
    assert np.median(np.abs(got - want)) < 1e-4


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.integers(1, 70), part=st.sampled_from([None, 0, 1]))
def test_a_packed_matrix_rounds_the_exact_product_once(dtype, seed, m, part):
    if not packs(dtype):
        pytest.skip(f"no packed {dtype} matrices on this processor")
    of = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(2, m, 32, generator=make).to(of)
    weight = torch.randn(24, 32, generator=make).to(of)
    bias = torch.randn(24, generator=make).to(of)
    name = "layers.0.ffn_out."
    columns = slice(None) if part is None else slice(16 * part, 16 * (part + 1))
    weights = {name + "weight": weight, name + "bias": bias}
    matrix = float_matrix(weights, name + "weight", slice(None), columns, None)
    got = matrix(x[..., columns].contiguous()).double()
    want = x[..., columns].double() @ weight[:, columns].double().T + bias.double()
    torch.testing.assert_close(got, want, **TOLERANCE[dtype])  # bf16: 8 bits, sums in fp32


def test_every_expert_is_its_slice_of_the_quantised_matrices(model: DynamicEncoder):
    quick, stored = model.to("int8"), quantised(model.weights)
    x = torch.randn(5, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    whole = {k: v for k, v in stored.items() if k.startswith("layers.1.ffn_")}
    for experts in (4, 8):
        share = model.config.ffn_size // experts
        for e in range(experts):
            part = slice(e * share, (e + 1) * share)
            up = whole["layers.1.ffn_in.weight"][part].double()
            up *= whole["layers.1.ffn_in.scale"][part, None]
            down = whole["layers.1.ffn_out.weight"][:, part].double()
            down *= whole["layers.1.ffn_out.scale"][:, None]
            hidden = torch.nn.functional.gelu(
                x.double() @ up.T + whole["layers.1.ffn_in.bias"][part]
            )
            minus_mean = model.weights[f"layers.1.experts{experts}.minus_mean"][e]
            want = hidden @ down.T + minus_mean
            got = quick._expert(1, experts, e, x)
            # only the rounding of activations is left: 1/255 of their range, over `share` terms
            bound = 0.02 * float((hidden @ down.T).abs().max()) + 1e-4
            torch.testing.assert_close(got.double(), want, atol=bound, rtol=0)


@pytest.mark.parametrize("name", PLANS)
def test_int8_runs_every_plan_close_to_fp32(model: DynamicEncoder, tokens: Tokens, name: str):
    quick, plan = model.to("int8"), replace(full_plan(model.config), **PLANS[name])
    ids, n = tokens.batch(np.arange(24))
    got, want = quick.run(plan, ids, n).logits, model.run(plan, ids, n).logits
    assert not np.array_equal(got, want)
    assert np.median(np.abs(got - want)) < 0.05


def test_packing_for_one_plan_answers_as_packing_for_all(model: DynamicEncoder, tokens: Tokens):
    ids, n = tokens.batch(np.arange(8))
    for name, changes in PLANS.items():
        plan = replace(full_plan(model.config), **changes)
        for dtype in PACKED:
            one = encoder_of(model.config, stored(model.weights, dtype), dtype, plan)
            want = model.to(dtype).run(plan, ids, n).logits
            np.testing.assert_array_equal(one.run(plan, ids, n).logits, want)
            dense = [k for k in one.matrices if "ffn_in" in k]
            split = sum(k < e for k, e in zip(plan.top_k, plan.num_experts, strict=True))
            assert len(dense) == plan.depth - split, name


def test_experts_are_packed_when_a_plan_first_asks_for_them(model: DynamicEncoder, tokens: Tokens):
    ids, n = tokens.batch(np.arange(4))
    for dtype in PACKED:
        quick = model.to(dtype)
        quick.run(full_plan(model.config), ids, n)
        assert quick.experts == {}
        quick.run(replace(full_plan(model.config), **PLANS["experts by sequence"]), ids, n)
        assert sorted(quick.experts) == [(0, 4), (1, 8), (3, 4)]


def test_matrices_are_stored_in_one_byte(model: DynamicEncoder):
    stored = quantised(model.weights)
    kinds = {k.split(".")[2]: v.dtype for k, v in stored.items() if is_matrix(k)}
    assert kinds == dict.fromkeys(("qkv", "out", "ffn_in", "ffn_out"), torch.int8)
    assert all(v.dtype == torch.float32 for k, v in stored.items() if not is_matrix(k))
    left = model.to("int8").weights
    assert not any(is_matrix(k) for k in left)  # packed, not kept twice


def is_matrix(name: str) -> bool:
    return name.startswith("layers.") and name.endswith(
        ("qkv.weight", "out.weight", "ffn_in.weight")
    )


def test_a_recorded_pass_is_what_each_text_gets_alone(
    folder: Path, model: DynamicEncoder, tokens: Tokens
):
    labelled = Labelled(tokens=tokens, labels=np.zeros(48, dtype=np.int64))
    quality = SupernetQuality(model.config, model.weights, {"search": labelled}, "hash")
    outer = Candidate(
        backbone=read_backbone(folder),
        depth=4,
        dtype="int8",
        skim=(Skim(layers=(1,), keep_rate=(0.5,)),),
        moe=Experts(layers=(2, 3), num_experts=(4, 4), top_k=(1, 1)),
    )
    trace = quality.record(outer, "search")
    for i in range(48):
        alone = Record()
        quality.encoder("int8").record(plan_of(outer), *tokens.batch(np.array([i])), alone)
        np.testing.assert_array_equal(trace.logits[i], torch.stack(alone.logits, 1)[0].numpy())


def test_processors_without_vnni_get_seven_bits(monkeypatch: pytest.MonkeyPatch):
    cases = [
        ({"architecture": "x86_64", "avx512_vnni": True}, False),
        ({"architecture": "x86_64", "avx_vnni": True}, False),
        ({"architecture": "x86_64", "avx2": True}, True),
        ({"architecture": "aarch64"}, False),
    ]
    for seen, reduced in cases:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda seen=seen: seen)
        assert int8.needs_reduced_range() is reduced
