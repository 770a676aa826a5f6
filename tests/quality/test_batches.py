"""Pieces of long texts: whole stretches between a text's own first and last token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.models.dynamic import DynamicEncoder
from dynsearch.models.tokens import load_tokenizer, ragged, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality import batches
from dynsearch.quality import distil as distil_module
from dynsearch.quality.batches import LONG_TOKENS, piece_tokens, pieces
from dynsearch.quality.training import Labelled, Optimizers, Training, add_heads, fine_tune
from dynsearch.testing import tiny_model, tiny_texts


def numbered(lengths: list[int]):
    """Texts whose ids tell text and place: 1000 i + place."""
    texts = [1000 * i + np.arange(n, dtype=np.int32) for i, n in enumerate(lengths)]
    return ragged(texts, [np.arange(n) * 2 // n for n in map(len, texts)])


@given(
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=12),
    width=st.integers(3, 40),
    seed=st.integers(0, 1000),
)
def test_a_piece_is_a_stretch_with_the_ends_of_its_text(lengths, width, seed):
    tokens = numbered(lengths)
    found = pieces(tokens, width, np.random.default_rng(seed))
    assert found.lengths.tolist() == [min(n, width) for n in lengths]
    for i, n in enumerate(lengths):
        ids = found.ids[found.starts[i] : found.starts[i] + found.lengths[i]] - 1000 * i
        assert ids[0] == 0
        assert ids[-1] == n - 1
        assert (np.diff(ids[1:-1]) == 1).all()
        assert (ids[1:-1] >= 1).all()
        assert (ids[1:-1] <= n - 2).all()
        types = found.types[found.starts[i] : found.starts[i] + found.lengths[i]]
        assert (np.diff(types) >= 0).all()  # a pair stays one text after another


def test_pieces_come_from_every_part_of_a_text():
    tokens = numbered([30])
    rng = np.random.default_rng(0)
    seen = {int(pieces(tokens, 10, rng).ids[1]) for _ in range(400)}
    assert seen == set(range(1, 22))  # 8 tokens between the ends begin at 1..21


def test_only_long_texts_are_cut():
    assert piece_tokens(numbered([LONG_TOKENS] * 5)) == 0
    assert piece_tokens(numbered([LONG_TOKENS + 4] * 5)) == (LONG_TOKENS + 4) // 4
    assert piece_tokens(numbered([20] * 21 + [400])) == 0  # most tokens stand in short texts
    assert piece_tokens(numbered([20] * 19 + [400])) == 100


def test_training_on_long_texts_begins_with_as_many_epochs_of_pieces(tmp_path, monkeypatch):
    folder = tiny_model(tmp_path / "model")
    texts = [" ".join([t] * 5) for t, _ in tiny_texts(40)]
    tokens = tokenize(load_tokenizer(folder), texts, 64)
    monkeypatch.setattr(batches, "LONG_TOKENS", 16)
    width = piece_tokens(tokens)
    assert 3 <= width < tokens.lengths.min()
    asked: list[int] = []

    def pooled(self, plan, ids, lengths, types=None):
        asked.append(ids.shape[1])
        return real(self, plan, ids, lengths, types)

    real = DynamicEncoder.pooled
    monkeypatch.setattr(DynamicEncoder, "pooled", pooled)
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    train = Labelled(tokens=tokens, labels=np.arange(40) % 2)
    training = Training(epochs=2, batch=16, expert_counts=(), threads=1, distillation=1.0)
    tuned = fine_tune(config, read_pretrained(folder), train, training)
    assert len(asked) == 2 * 2 * 3  # twice two epochs of three batches
    assert set(asked[:6]) == {width}
    assert min(asked[6:]) > width
    read: list[int] = []

    def step(model, teacher, texts, plan, dtype):
        read.append(int(texts.lengths.max()))
        return 0.0

    monkeypatch.setattr(distil_module, "_step", step)
    monkeypatch.setattr(Optimizers, "step", lambda self, done: None)
    distil_module.distil(config, tuned, tokens, training)
    assert len(read) == 6
    assert max(read[:3]) <= width + 1 < min(read[3:])  # pieces, joined or not; then whole texts


@pytest.mark.parametrize("wanted", [False, True])
def test_only_a_supernet_that_drops_what_enters_learns_to_rank_it(tmp_path, monkeypatch, wanted):
    folder = tiny_model(tmp_path / "model")
    tokens = tokenize(load_tokenizer(folder), [text for text, _ in tiny_texts(40)], 24)
    plans = []
    monkeypatch.setattr(
        distil_module,
        "_step",
        lambda model, teacher, texts, drawn, dtype: plans.extend(drawn) or 0,
    )
    monkeypatch.setattr(Optimizers, "step", lambda self, done: None)
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    training = Training(batch=4, expert_counts=(), threads=1, distillation=2.0, input_skims=wanted)
    tuned = add_heads(config, read_pretrained(folder), 0)
    _, weights = distil_module.distil(config, tuned, tokens, training)
    assert any(name.startswith("scorer.") for name in weights) == wanted
    assert (min(plan.keep_input for plan in plans) < 1.0) == wanted
