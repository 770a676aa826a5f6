"""A remembered trace is the one a pass would give; a shallow one serves no deeper ask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynsearch.gains.remembered import RememberingQuality
from dynsearch.models.tokens import load_tokenizer, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.training import Labelled, add_heads
from dynsearch.testing import tiny_model, tiny_texts
from search_spaces.candidate import Candidate, Skim


@pytest.fixture(scope="module")
def quality(tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp("model") / "model")
    backbone = read_backbone(folder)
    config = encoder_config(backbone, num_classes=2, norm_eps=1e-12)
    texts = [text for text, _ in tiny_texts(20)]
    rows = Labelled(tokens=tokenize(load_tokenizer(folder), texts, 24), labels=np.arange(20) % 2)
    weights = add_heads(config, read_pretrained(folder), 0)
    found = SupernetQuality(
        config=config, weights=weights, splits={"search": rows, "report": rows}, weights_hash="a"
    )
    return found, Candidate(backbone=backbone, depth=backbone.num_layers)


@pytest.fixture
def passes(monkeypatch):
    done: list[tuple[int, str]] = []
    real = SupernetQuality.record

    def record(self, outer, split):
        done.append((outer.depth, split))
        return real(self, outer, split)

    monkeypatch.setattr(SupernetQuality, "record", record)
    return done


def test_a_setting_is_run_once_however_often_it_is_asked_for(quality, passes, tmp_path):
    source, outer = quality
    mine = RememberingQuality.of(source, tmp_path / "traces")
    first, second = mine.record(outer, "search"), mine.record(outer, "search")
    assert len(passes) == 1
    assert np.array_equal(first.logits, second.logits)
    assert first.header["outer_hash"] == second.header["outer_hash"]
    mine.record(replace(outer, skim=(Skim(layers=(1,), keep_rate=(0.5,)),)), "search")
    assert len(passes) == 2


def test_a_shallow_trace_is_replaced_by_a_deeper_one_and_serves_no_deeper_ask(
    quality, passes, tmp_path
):
    source, outer = quality
    mine = RememberingQuality.of(source, tmp_path)
    assert mine.record(replace(outer, depth=2), "search").depth == 2
    assert mine.record(outer, "search").depth == outer.depth
    assert mine.record(replace(outer, depth=2), "search").depth == outer.depth
    assert [depth for depth, _ in passes] == [2, outer.depth]


def test_what_reaches_a_worker_remembers_in_the_same_folder(quality, passes, tmp_path):
    source, outer = quality
    mine = RememberingQuality.of(source, tmp_path)
    theirs = RememberingQuality.from_payload(mine.payload())
    theirs.record(outer, "search")
    mine.record(outer, "search")
    assert len(passes) == 1


def test_traces_of_other_weights_are_not_mistaken(quality, passes, tmp_path):
    source, outer = quality
    RememberingQuality.of(source, tmp_path).record(outer, "search")
    other = replace(source, weights_hash="b")
    RememberingQuality.of(other, tmp_path).record(outer, "search")
    assert len(passes) == 2
