"""The dynamic encoder computes what the reference implementation computes, and really skips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.models import dynamic
from dynsearch.models.dynamic import DynamicEncoder, Plan, Record, State, full_plan
from dynsearch.models.experts import split_experts
from dynsearch.models.tokens import Tokens, load_tokenizer, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality.lesson import add_scorer
from dynsearch.quality.training import add_heads
from dynsearch.testing import tiny_model, tiny_texts
from search_spaces.candidate import keep_counts
from search_spaces.skims import attention_received
from search_spaces.tokens import SCORER_WIDTH


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
    config, weights = split_experts(config, weights, tokens, (4, 8), 0)
    weights = add_scorer(config.hidden_size, weights, 0)
    make = torch.Generator().manual_seed(0)
    weights["scorer.out.weight"] = torch.randn(1, SCORER_WIDTH, generator=make)
    return DynamicEncoder(config, weights)


def exits(plan: Plan, where: dict[int, float], **changes: object) -> Plan:
    on = tuple(i in where for i in range(len(plan.exit_on)))
    at = tuple(where.get(i, float("inf")) for i in range(len(plan.exit_on)))
    return replace(plan, exit_on=on, thresholds=at, **changes)


NEAR = {"atol": 1e-5, "rtol": 1e-5}
PLANS = {
    "full": {},
    "skim": {"keep_rate": (0.75, 0.5, 0.5, 0.25)},
    "skim before all": {"keep_input": 0.5, "keep_rate": (0.5, 0.25, 0.25, 0.25)},
    "experts by sequence": {"num_experts": (4, 8, 1, 4), "top_k": (1, 4, 1, 2)},
    "experts by token": {
        "num_experts": (1, 8, 4, 4),
        "top_k": (1, 2, 1, 2),
        "token_routing": True,
    },
    "all": {"keep_rate": (1.0, 0.5, 0.5, 0.5), "num_experts": (4, 4, 8, 8), "top_k": (2, 1, 2, 4)},
}


def reference(folder: Path):
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    return model.eval()


@pytest.mark.filterwarnings("ignore")
def test_full_network_equals_the_reference_implementation(folder, tokens):
    theirs = reference(folder)
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    ours = DynamicEncoder(config, read_pretrained(folder))
    ids, n = tokens.batch(np.arange(16))
    mask = (torch.arange(ids.shape[1])[None] < torch.from_numpy(n)[:, None]).long()
    with torch.no_grad():
        states = theirs(ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        pooled = ours.pooled(full_plan(config), ids, n)
    for want, got in zip(states, pooled, strict=True):
        mean = (want * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(got, mean, atol=2e-6, rtol=1e-5)


def test_all_experts_on_is_the_dense_network(folder, tokens, model):
    config = encoder_config(read_backbone(folder), num_classes=3, norm_eps=1e-12)
    dense = DynamicEncoder(config, read_pretrained(folder))
    ids, n = tokens.batch(np.arange(16))
    with torch.no_grad():
        want = dense.pooled(full_plan(config), ids, n)
        got = model.pooled(full_plan(config), ids, n)
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


def test_eight_experts_with_pairs_on_contain_four_experts(model):
    w, share = model.weights, model.config.ffn_size // 8
    for layer in range(model.config.num_layers):
        fine = w[f"layers.{layer}.experts8.minus_mean"]
        coarse = w[f"layers.{layer}.experts4.minus_mean"]
        torch.testing.assert_close(fine.view(4, 2, -1).sum(1), coarse, atol=1e-5, rtol=1e-4)
    assert share * 8 == model.config.ffn_size


@pytest.fixture
def few_queries(monkeypatch: pytest.MonkeyPatch) -> int:
    """Texts of more than five tokens count as long."""
    for module in (dynamic, attention_received):
        monkeypatch.setattr(module, "MAX_QUERIES", 5)
    return 5


@pytest.mark.parametrize("name", ["skim", "all"])
def test_a_long_text_never_depends_on_its_batch_mates(model, tokens, name, few_queries):
    test_a_sample_never_depends_on_its_batch_mates(model, tokens, name)


@pytest.mark.parametrize("name", PLANS)
def test_a_sample_never_depends_on_its_batch_mates(model, tokens, name):
    plan = replace(full_plan(model.config), **PLANS[name])
    ids, n = tokens.batch(np.arange(20))
    with torch.no_grad():
        together = model.pooled(plan, ids, n)
        for i in range(20):
            alone = model.pooled(plan, *tokens.batch(np.array([i])))
            for a, b in zip(alone, together, strict=True):
                torch.testing.assert_close(a[0], b[i], atol=5e-6, rtol=1e-4)


def test_before_the_first_layer_tokens_of_least_score_are_dropped(model, tokens):
    """An independent, per-sample reading: the rest of the text, in order, as a text of its own."""
    plan = replace(full_plan(model.config), keep_input=0.5, keep_rate=(0.5, 0.5, 0.5, 0.5))
    ids, n = tokens.batch(np.arange(6))
    w = {k: v.double().numpy() for k, v in model.weights.items() if "scorer" in k}
    with torch.no_grad():
        found = model.pooled(plan, ids, n)
        for i in range(6):
            x = model.start(ids[i : i + 1, : n[i]], n[i : i + 1]).x
            inner = x[0].double().numpy() @ w["scorer.hidden.weight"].T + w["scorer.hidden.bias"]
            inner = inner * (1 + scipy.special.erf(inner / np.sqrt(2))) / 2
            score = (inner @ w["scorer.out.weight"].T)[:, 0]
            score[0] = np.inf
            stay = np.sort(np.argsort(-score)[: keep_counts(n[i], np.array(0.5))])
            count = np.array([len(stay)])
            state = State(x=x[:, stay], n=count, original=count)
            for layer in range(4):
                state = model._layer(layer, state, full_plan(model.config))
                torch.testing.assert_close(found[layer][i], model.pool(state)[0], **NEAR)


def test_skimming_of_long_texts_asks_few_queries(model, tokens, few_queries):
    assert tokens.lengths[:6].max() > few_queries
    test_skimming_drops_tokens_of_least_received_attention(model, tokens)


def test_skimming_drops_tokens_of_least_received_attention(model, tokens):
    """An independent, per-sample reading: full attention matrix, numpy ranking."""
    plan = replace(full_plan(model.config), keep_rate=(0.5, 0.5, 0.5, 0.5))
    ids, n = tokens.batch(np.arange(6))
    with torch.no_grad():
        state = model.start(ids, n)
        got = model.attend(0, state, plan)
        for i in range(6):
            x = model.start(ids[i : i + 1, : n[i]], n[i : i + 1]).x
            w, size = model.weights, model.config.hidden_size
            heads = model.config.num_heads
            qkv = torch.nn.functional.linear(
                x, w["layers.0.qkv.weight"], w["layers.0.qkv.bias"]
            ).view(n[i], 3, heads, size // heads)
            q, k = qkv[:, 0].transpose(0, 1), qkv[:, 1].transpose(0, 1)
            share = torch.softmax(q @ k.transpose(1, 2) / (size // heads) ** 0.5, -1)
            asked = min(int(n[i]), dynamic.MAX_QUERIES)
            rows = [int(j * n[i] / asked) for j in range(asked)]
            received = share[:, rows].sum((0, 1)).numpy()
            received[0] = np.inf
            kept = np.sort(np.argsort(-received)[: keep_counts(n[i], 0.5)])
            alone = model.start(ids[i : i + 1, : n[i]], n[i : i + 1])
            whole = model.attend(0, alone, full_plan(model.config)).x[0, kept]
            torch.testing.assert_close(got.x[i, : len(kept)], whole, atol=5e-6, rtol=1e-4)
            assert got.n[i] == len(kept)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 6),
    width=st.integers(2, 9),
    padded=st.booleans(),
)
def test_explicit_attention_is_that_of_the_formula(seed, size, width, padded):
    make = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, size, 2, width, 4, generator=make)
    n = torch.randint(1, width + 1, (size,), generator=make)
    n[0] = width
    mask = torch.arange(width)[None] < n[:, None] if padded else None
    context, received = dynamic._attend_with_importance(q, k, v, mask)
    for i in range(size):
        m = int(n[i]) if padded else width
        share = (q[i, :, :, :].double() @ k[i, :, :m].double().mT / 2.0).softmax(-1)
        torch.testing.assert_close(context[i].double(), share @ v[i, :, :m].double(), **NEAR)
        torch.testing.assert_close(received[i, :m].double(), share[:, :m].sum(dim=(0, 1)), **NEAR)


def test_gradients_reach_queries_keys_and_values_of_long_texts(model, tokens, few_queries):
    make = torch.Generator().manual_seed(0)
    n, counts = np.array([9, 7]), np.array([4, 6])
    q, k, v = (torch.randn(2, 2, 9, 4, generator=make).requires_grad_() for _ in range(3))
    context, positions, _ = dynamic._attend_where_kept(q, k, v, n, counts, False)
    with torch.no_grad():
        free, same, _ = dynamic._attend_where_kept(q, k, v, n, counts, False)
    torch.testing.assert_close(context, free, **NEAR)
    assert torch.equal(positions, same)
    context.sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (q, k, v))
    assert (v.grad[1, :, 7:] == 0).all()  # padding


@pytest.mark.parametrize("batch", [1, 5])
def test_execution_decides_on_long_texts_as_the_recorded_logits_do(
    model, tokens, batch, few_queries
):
    test_execution_decides_as_the_recorded_logits_do(model, tokens, "skim", batch, False)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("wait", [False, True])
def test_execution_decides_as_the_recorded_logits_do(model, tokens, name, batch, wait):
    plan = replace(full_plan(model.config), **PLANS[name])
    seen = Record()
    ids, n = tokens.batch(np.arange(40))
    model.record(plan, ids, n, seen)
    logits = torch.stack(seen.logits, 1).double()
    sure = logits.softmax(-1).amax(-1).numpy()  # [N, L]
    where = {0: float(np.quantile(sure[:, 0], 0.7)), 2: float(np.quantile(sure[:, 2], 0.5))}
    plan = exits(plan, where, wait=wait)
    expected = np.where(sure[:, 0] >= where[0], 1, np.where(sure[:, 2] >= where[2], 3, 4))
    answer = logits.argmax(-1).numpy()[np.arange(40), expected - 1]
    tie = (np.abs(sure[:, [0, 2]] - [where[0], where[2]]) < 1e-5).any(1)
    assert tie.mean() <= 0.05
    assert len(set(expected[~tie])) == 3
    for rows in np.array_split(np.arange(40), 40 // batch):
        got = model.run(plan, *tokens.batch(rows))
        free = ~tie[rows]
        np.testing.assert_array_equal(got.exit_layer[free], expected[rows][free])
        np.testing.assert_array_equal(got.prediction[free], answer[rows][free])


def test_patience_counts_exits_that_agree(model, tokens):
    seen = Record()
    ids, n = tokens.batch(np.arange(30))
    full = full_plan(model.config)
    model.record(full, ids, n, seen)
    votes = torch.stack(seen.logits, 1).argmax(-1).numpy()
    plan = exits(full, {0: np.inf, 1: np.inf, 2: np.inf}, criterion="patience", patience=1)
    expected = np.where(votes[:, 0] == votes[:, 1], 2, np.where(votes[:, 1] == votes[:, 2], 3, 4))
    np.testing.assert_array_equal(model.run(plan, ids, n).exit_layer, expected)


def test_layers_above_the_depth_and_switched_off_experts_are_not_read(model, tokens):
    plan = replace(full_plan(model.config), depth=2, num_experts=(4, 4, 1, 1), top_k=(1, 1, 1, 1))
    names = [k for k in model.weights if k.startswith(("layers.2.", "layers.3.", "heads.3."))]
    broken = DynamicEncoder(
        model.config, {**model.weights, **{k: model.weights[k] * np.nan for k in names}}
    )
    ids, n = tokens.batch(np.arange(8))
    np.testing.assert_array_equal(broken.run(plan, ids, n).logits, model.run(plan, ids, n).logits)
    assert np.isfinite(broken.run(plan, ids, n).logits).all()


def test_bf16_runs_every_plan(model, tokens):
    small = model.to("bf16")
    ids, n = tokens.batch(np.arange(12))
    for changes in PLANS.values():
        plan = replace(full_plan(model.config), **changes)
        got, want = small.run(plan, ids, n).logits, model.run(plan, ids, n).logits
        assert np.isfinite(got).all()
        assert np.median(np.abs(got - want)) < 0.05
