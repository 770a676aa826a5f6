"""Texts without labels: cut to the length of the labelled ones, never one of those."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.job import load_job
from dynsearch.models.dynamic import DynamicEncoder, full_plan
from dynsearch.models.tokens import load_tokenizer, ragged, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality import batches
from dynsearch.quality import distil as distil_module
from dynsearch.quality.batches import batch_parts, take
from dynsearch.quality.distil import train_supernet
from dynsearch.quality.opening import open_material
from dynsearch.quality.training import Labelled, Training, add_heads, is_trained
from dynsearch.quality.unlabelled import Unlabelled, read_texts
from dynsearch.testing import tiny_data, tiny_model, tiny_texts
from search_spaces.errors import InputError

JOB = """
schema_version = 1
name = "tiny"
devices = ["nvidia-a100-80g-sxm"]
[model]
folder = "model"
[data]
file = "data.jsonl"
{unlabelled}
[space.exits]
layers = [1, 2]
[workload]
max_len = 24
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny_model(home / "model")
    tiny_data(home / "data.jsonl", 1200)
    return home


@pytest.fixture(scope="module")
def words(home: Path) -> list[str]:
    return [text for text, _ in tiny_texts(300, seed=7)]


def material_of(home: Path, unlabelled: str):
    (home / "job.toml").write_text(JOB.format(unlabelled=unlabelled), encoding="utf-8")
    return open_material(load_job(home / "job.toml"))


def test_long_texts_are_cut_into_sentences_as_long_as_the_labelled_texts(home, words):
    tokenizer = load_tokenizer(home / "model")
    like = tokenize(tokenizer, words, 24).lengths
    long = [". ".join(words[i : i + 10]) + "." for i in range(0, 200, 10)]
    more = Unlabelled(texts=long, labelled=[])
    tokens = more.tokens(tokenizer, like=like, max_len=24, rows=1000)
    low, high = np.quantile(like, (0.05, 0.95))
    assert len(tokens) > 100
    assert low <= tokens.lengths.min() <= tokens.lengths.max() <= high


def test_no_labelled_text_of_any_split_is_among_them(home, words):
    tokenizer = load_tokenizer(home / "model")
    like = tokenize(tokenizer, words, 24).lengths
    every = Unlabelled(texts=words, labelled=[]).tokens(
        tokenizer, like=like, max_len=24, rows=1000
    )
    other = Unlabelled(texts=words, labelled=[w.upper() + "  " for w in words[:150]])
    left = other.tokens(tokenizer, like=like, max_len=24, rows=1000)
    known = {tuple(t) for t in texts_of(tokenize(tokenizer, words[:150], 24))}
    assert len(left) < len(every)
    assert not known & {tuple(t) for t in texts_of(left)}
    with pytest.raises(InputError, match="no piece of them"):
        Unlabelled(texts=words, labelled=words).tokens(tokenizer, like=like, max_len=24, rows=1000)


def texts_of(tokens):
    return [tokens.ids[s : s + n] for s, n in zip(tokens.starts, tokens.lengths, strict=True)]


def test_the_order_of_the_file_does_not_matter_and_rows_limit(home, words):
    tokenizer = load_tokenizer(home / "model")
    like = tokenize(tokenizer, words, 24).lengths
    one, two = (
        Unlabelled(texts=texts, labelled=[]).tokens(tokenizer, like=like, max_len=24, rows=40)
        for texts in (words, words[::-1])
    )
    assert len(one) == 40
    assert np.array_equal(one.ids, two.ids)


def test_they_change_the_supernet_and_its_key(home, words):
    (home / "more.txt").write_text("\n".join(words), encoding="utf-8")
    bare = material_of(home, "")
    rich = material_of(home, 'unlabelled = "more.txt"')
    assert bare.key != rich.key
    assert bare.labelled_sha256 == rich.labelled_sha256
    assert rich.unlabelled is not None
    tokens = rich.unlabelled.tokens(
        rich.tokenizer, like=rich.splits["train"].tokens.lengths, max_len=24, rows=64
    )
    config = encoder_config(read_backbone(home / "model"), num_classes=2, norm_eps=1e-12)
    short = Training(epochs=1, threads=1, max_len=24)
    train = Labelled(
        tokens=take(rich.splits["train"].tokens, np.arange(64)),
        labels=rich.splits["train"].labels[:64],
    )
    nets = [
        train_supernet(config, read_pretrained(home / "model"), train, short, unlabelled=more)[1]
        for more in (None, tokens)
    ]
    assert not torch.equal(nets[0]["layers.0.qkv.weight"], nets[1]["layers.0.qkv.weight"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "", "no text"),
        ("a.csv", "text,label\n", "no text"),
        ("a.csv", "body\nfine\n", "column is missing"),
        ("a.jsonl", "{broken", "cannot be read"),
        ("a.jsonl", json.dumps({"body": "x"}), "column is missing"),
        ("a.pdf", "x", "give a .txt"),
    ],
)
def test_a_file_that_holds_no_texts_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        read_texts(tmp_path / name, "text")


def test_a_missing_file_is_told_by_its_key_when_the_job_is_read(home):
    (home / "job.toml").write_text(
        JOB.format(unlabelled='unlabelled = "nowhere.txt"'), encoding="utf-8"
    )
    with pytest.raises(InputError) as told:
        load_job(home / "job.toml")
    assert [p.key for p in told.value.problems] == ["data.unlabelled"]


def test_csv_jsonl_and_txt_of_the_same_texts_are_the_same(tmp_path):
    texts = ["a fine, film", 'a "dull" one']
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    (tmp_path / "a.csv").write_text('text\n"a fine, film"\n"a ""dull"" one"\n', encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": t}) for t in texts), encoding="utf-8"
    )
    for name in ("a.txt", "a.csv", "a.jsonl"):
        assert read_texts(tmp_path / name, "text") == texts


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 400))
def test_parts_hold_every_row_once_within_the_limit(lengths, limit):
    tokens = ragged([np.arange(n, dtype=np.int32) for n in lengths])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "CHUNK_TOKENS", limit)
        parts = list(batch_parts(tokens, np.arange(len(lengths))))
    assert np.concatenate([p for p, _ in parts]).tolist() == list(range(len(lengths)))
    assert sum(share for _, share in parts) == pytest.approx(1.0)
    longest = max(lengths)
    assert all(p.size * longest <= limit or p.size == 1 for p, _ in parts)


def test_gradients_of_parts_add_up_to_those_of_the_whole_batch(home, monkeypatch):
    config = encoder_config(read_backbone(home / "model"), num_classes=2, norm_eps=1e-12)
    material = material_of(home, "")
    whole, rows = material.splits["train"], np.arange(16)
    train = replace(whole, tokens=take(whole.tokens, rows), labels=whole.labels[rows])
    found = []
    teacher = DynamicEncoder(config, add_heads(config, read_pretrained(home / "model"), 1))
    for limit in (10_000, 60):
        monkeypatch.setattr(batches, "CHUNK_TOKENS", limit)
        state = {
            k: v.clone().requires_grad_(is_trained(k))
            for k, v in add_heads(config, read_pretrained(home / "model"), 0).items()
        }
        model = DynamicEncoder(config, state)
        loss = distil_module._step(model, teacher, train.tokens, (full_plan(config),), "fp32")
        found.append(
            (loss, {k: v.grad.to_dense() for k, v in state.items() if v.grad is not None})
        )
    (one, whole), (two, parts) = found
    assert one == pytest.approx(two, rel=1e-5)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], atol=1e-5), name


def test_pairs_of_texts_have_no_unlabelled_ones(home, words):
    (home / "more.txt").write_text("\n".join(words), encoding="utf-8")
    pairs = product(words[:40], words[40:70])
    rows = [{"a": a, "b": b, "label": i % 2} for i, (a, b) in enumerate(pairs)]
    (home / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    text = JOB.format(unlabelled='unlabelled = "more.txt"\ntext = ["a", "b"]')
    (home / "pairs.toml").write_text(text.replace("data.jsonl", "pairs.jsonl"), encoding="utf-8")
    with pytest.raises(InputError, match="not possible with pairs"):
        open_material(load_job(home / "pairs.toml"))
