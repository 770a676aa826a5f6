"""Traces of pairs see both texts, here and in a worker that was sent the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dynsearch.models.dynamic import plan_of
from dynsearch.models.tokens import load_tokenizer, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality.source import SupernetQuality, split_hash
from dynsearch.quality.training import Labelled, add_heads
from dynsearch.testing import tiny_model, tiny_texts
from search_spaces.candidate import Candidate


def test_a_trace_of_pairs_is_what_running_them_gives_and_travels_to_workers(tmp_path):
    folder = tiny_model(tmp_path / "model")
    backbone = read_backbone(folder)
    config = encoder_config(backbone, num_classes=2, norm_eps=1e-12)
    weights = add_heads(config, read_pretrained(folder), 0)
    pairs = [(a, b) for (a, _), (b, _) in zip(tiny_texts(40), tiny_texts(40, seed=1), strict=True)]
    tokens = tokenize(load_tokenizer(folder), pairs, 24)
    data = Labelled(tokens=tokens, labels=np.arange(40) % 2)
    source = SupernetQuality(config, weights, {"search": data}, "0" * 64)
    outer = Candidate(backbone=backbone, depth=4)
    trace = source.record(outer, "search")
    for i in range(40):
        row = np.array([i])
        got = source.encoder("fp32").run(
            plan_of(outer), *tokens.batch(row), tokens.batch_types(row)
        )
        np.testing.assert_allclose(got.logits[0], trace.logits[i, -1], atol=1e-5)
    blind = Labelled(tokens=replace(tokens, types=None), labels=data.labels)
    other = SupernetQuality(config, weights, {"search": blind}, "0" * 64)
    assert np.abs(other.record(outer, "search").logits - trace.logits).max() > 1e-5
    assert split_hash(blind) != split_hash(data)
    sent = SupernetQuality.from_payload(source.payload())
    np.testing.assert_array_equal(sent.record(outer, "search").logits, trace.logits)
    few = source.first_rows("search", 7).record(outer, "search")
    np.testing.assert_allclose(few.logits, trace.logits[:7], atol=1e-5)
