"""Pairs of texts are put together, cut and embedded as the reference implementation does it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynsearch.models.dynamic import DynamicEncoder, Record, full_plan
from dynsearch.models.experts import ffn_inputs, split_experts
from dynsearch.models.tokens import Tokens, load_tokenizer, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality import distil, training
from dynsearch.quality.batches import joined_texts, take
from dynsearch.quality.distil import sample_plan
from dynsearch.quality.lesson import add_scorer
from dynsearch.quality.training import Labelled, add_heads
from dynsearch.testing import NEGATIVE, NEUTRAL, POSITIVE, tiny_model, tiny_texts

WORDS = (*POSITIVE, *NEGATIVE, *NEUTRAL, "Unheard", "GOOD", "!", "\u00e9t\u00e9", "[SEP]")
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=16).map(" ".join)
PAIRS = [(a, b) for (a, _), (b, _) in zip(tiny_texts(24), tiny_texts(24, seed=1), strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@cache
def their_tokenizer(folder: Path):
    transformers = pytest.importorskip("transformers")
    return transformers.BertTokenizer(vocab=str(folder / "vocab.txt"))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.integers(5, 24))
def test_pairs_are_tokenised_as_the_reference_tokenises_them(folder, pairs, max_len):
    got = tokenize(load_tokenizer(folder), pairs, max_len)
    assert got.types is not None
    first, second = map(list, zip(*pairs, strict=True))
    want = their_tokenizer(folder)(
        first, second, truncation="longest_first", max_length=max_len, return_token_type_ids=True
    )
    for i, (ids, types) in enumerate(zip(want["input_ids"], want["token_type_ids"], strict=True)):
        here = slice(got.starts[i], got.starts[i] + got.lengths[i])
        assert got.ids[here].tolist() == ids
        assert got.types[here].tolist() == types


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.integers(5, 24))
def test_a_pair_that_is_too_long_loses_ends_of_its_longer_text(folder, first, second, max_len):
    tokenizer = load_tokenizer(folder)
    cls, sep = (tokenizer.token_to_id(x) for x in ("[CLS]", "[SEP]"))
    a, b = (tokenize(tokenizer, [text], 64).ids.tolist()[1:-1] for text in (first, second))
    got = tokenize(tokenizer, [(first, second)], max_len)
    kept_b = int(got.types.sum()) - 1
    kept_a = got.ids.size - kept_b - 3
    assert got.ids.tolist() == [cls, *a[:kept_a], sep, *b[:kept_b], sep]
    assert got.types.tolist() == [0] * (kept_a + 2) + [1] * (kept_b + 1)
    assert kept_a + kept_b == min(len(a) + len(b), max_len - 3)
    if kept_a < len(a):
        assert kept_a >= kept_b - 1
    if kept_b < len(b):
        assert kept_b >= kept_a - 1


def test_one_text_each_needs_no_types(folder):
    tokens = tokenize(load_tokenizer(folder), [a for a, _ in PAIRS], 24)
    assert tokens.types is None
    assert tokens.batch_types(np.arange(3)) is None


@pytest.fixture(scope="module")
def tokens(folder: Path) -> Tokens:
    return tokenize(load_tokenizer(folder), PAIRS, 24)


@pytest.mark.filterwarnings("ignore")
def test_states_of_pairs_equal_the_reference_implementation(folder, tokens):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    ours = DynamicEncoder(config, read_pretrained(folder))
    rows = np.arange(16)
    (ids, n), types = tokens.batch(rows), tokens.batch_types(rows)
    mask = (torch.arange(ids.shape[1])[None] < torch.from_numpy(n)[:, None]).long()
    with torch.no_grad():
        states = theirs(
            ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True
        ).hidden_states[1:]
        pooled = ours.pooled(full_plan(config), ids, n, types)
        blind = ours.pooled(full_plan(config), ids, n)
    for want, got, without in zip(states, pooled, blind, strict=True):
        mean = (want * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(got, mean, atol=2e-6, rtol=1e-5)
        assert (without - mean).abs().max() > 1e-3


def test_running_and_recording_know_the_types(folder, tokens):
    config = encoder_config(read_backbone(folder), num_classes=3, norm_eps=1e-12)
    model = DynamicEncoder(config, add_heads(config, read_pretrained(folder), 0))
    plan = replace(full_plan(config), keep_rate=(1.0, 0.5, 0.5, 0.5))
    rows = np.arange(12)
    (ids, n), types = tokens.batch(rows), tokens.batch_types(rows)
    seen = Record()
    model.record(plan, ids, n, seen, types)
    got = model.run(plan, ids, n, types).logits
    np.testing.assert_allclose(got, seen.logits[-1].numpy(), atol=1e-6)
    for i in rows:
        one = np.array([i])
        alone = model.run(plan, *tokens.batch(one), tokens.batch_types(one)).logits
        np.testing.assert_allclose(alone[0], got[i], atol=1e-5)
    assert np.abs(model.run(plan, ids, n).logits - got).max() > 1e-6


def test_joined_pairs_stay_one_text_after_another(tokens):
    rows = np.arange(len(tokens))
    rng = np.random.default_rng(0)
    for _ in range(20):
        joined = joined_texts(take(tokens, rows), rng)
        (ids, n), types = joined.batch(rows), joined.batch_types(rows)
        assert types is not None
        assert types.shape == ids.shape
        for i, length in enumerate(n):
            assert (np.diff(types[i, :length].numpy()) >= 0).all()
            assert (types[i, length:] == 0).all()
            assert (ids[i, length:] == 0).all()
        assert types.max() == 1


def test_training_sees_the_types_of_pairs(folder, tokens, monkeypatch):
    """What the network is asked in each step of a fine-tuning, at every place that asks it."""
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    config, weights = split_experts(config, read_pretrained(folder), tokens, (4,), 0)
    train = Labelled(tokens=tokens, labels=np.arange(len(tokens)) % 2)
    asked: list[torch.Tensor | None] = []

    class Watched(DynamicEncoder):
        def start(self, ids, lengths, types=None):
            asked.append(types)
            return super().start(ids, lengths, types)

    rng = np.random.default_rng(0)
    state = add_heads(config, {k: v.clone() for k, v in weights.items()}, 0)
    state = add_scorer(config.hidden_size, state, 0)
    for name, tensor in state.items():
        tensor.requires_grad_(name.startswith(("heads.", "scorer.")))
    model = Watched(config, state)
    few = take(tokens, np.arange(8))
    dropping = replace(full_plan(config), keep_input=0.5, keep_rate=(0.5,) * config.num_layers)
    for texts, plan in (
        (few, full_plan(config)),
        (joined_texts(few, rng), sample_plan(config, rng)),
        (few, dropping),
    ):
        before, scored = len(asked), plan.keep_input < 1.0
        distil._step(model, model, texts, (plan,), "fp32")
        assert len(asked) == before + 2 + scored  # the teacher, one network, what is scored
    before = len(asked)
    ffn_inputs(model, tokens)
    assert len(asked) == before + 1  # the rows that routers are fitted on
    monkeypatch.setattr(training, "DynamicEncoder", Watched)
    training.fine_tune(config, weights, train, training.Training(epochs=1, threads=1))
    assert len(asked) > before + 1
    assert all(types is not None and types.max() == 1 for types in asked)
