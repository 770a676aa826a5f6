"""The supernet learns, is found again by content, and its traces are what execution does."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynsearch.models.dynamic import DynamicEncoder, full_plan, plan_of
from dynsearch.models.tokens import load_tokenizer, tokenize
from dynsearch.models.weights import (
    encoder_config,
    file_sha256,
    read_backbone,
    read_pretrained,
    weights_path,
)
from dynsearch.quality import training as training_module
from dynsearch.quality.data import read_examples
from dynsearch.quality.distil import distil, sample_plan, train_supernet
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.splits import split_examples
from dynsearch.quality.supernet import load_supernet, save_supernet, supernet_key
from dynsearch.quality.training import (
    WORDS,
    Labelled,
    Training,
    add_heads,
    fine_tune,
    training_threads,
)
from dynsearch.testing import tiny_data, tiny_model
from search_spaces.candidate import Candidate, Exits, Experts, Skim
from search_spaces.errors import InputError
from search_spaces.tokens import SCORER_WIDTH

TRAINING = Training(
    epochs=4,
    learning_rate=1e-3,
    head_learning_rate=3e-3,
    threads=1,
    max_len=24,
    input_skims=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def splits(folder: Path) -> dict[str, Labelled]:
    examples = read_examples(tiny_data(folder / "tiny.jsonl"))
    tokenizer = load_tokenizer(folder)
    return {
        name: Labelled(tokens=tokenize(tokenizer, part.texts, 24), labels=np.array(part.classes))
        for name, part in split_examples(examples).items()
    }


@pytest.fixture(scope="module")
def quality(folder: Path, splits: dict[str, Labelled]) -> SupernetQuality:
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    config, weights = train_supernet(config, read_pretrained(folder), splits["train"], TRAINING)
    return SupernetQuality(config=config, weights=weights, splits=splits, weights_hash="tiny")


def candidate(folder: Path, **changes: object) -> Candidate:
    return Candidate(backbone=read_backbone(folder), depth=4, **changes)


def test_training_beats_the_majority_class_by_far(folder, quality):
    trace = quality.record(candidate(folder), "search")
    error = (trace.logits[:, -1].argmax(-1) != trace.labels).mean()
    assert quality.majority_error("search") > 0.4
    assert error < 0.5 * quality.majority_error("search")


def test_training_is_a_function_of_seed_and_data(folder, splits):
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    short = replace(TRAINING, epochs=1)
    one, two = (
        train_supernet(config, read_pretrained(folder), splits["train"], short)[1] for _ in "ab"
    )
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_of_the_embeddings_only_words_that_were_read_are_trained(folder, splits, quality):
    before, after = read_pretrained(folder), quality.weights
    for name in before:
        if name.startswith("embeddings.") and name != WORDS:
            assert torch.equal(before[name], after[name])
    moved = (before[WORDS] != after[WORDS]).any(dim=1)
    read = np.unique(splits["train"].tokens.ids)
    assert read.size < len(moved)
    assert set(torch.nonzero(moved)[:, 0].tolist()) == set(read.tolist())


def test_fine_tuning_trains_layers_words_and_the_last_head_alone(folder, splits):
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    few = replace(TRAINING, epochs=1)
    fresh = add_heads(config, read_pretrained(folder), few.seed)
    tuned = fine_tune(config, read_pretrained(folder), splits["train"], few)
    moved = {name for name, tensor in tuned.items() if not torch.equal(tensor, fresh[name])}
    assert {n for n in moved if n.startswith("heads.")} == {
        n for n in fresh if n.startswith("heads.3.")
    }
    assert {n for n in moved if n.startswith("embeddings.")} == {WORDS}
    assert all(f"layers.{i}.qkv.weight" in moved for i in range(4))


def test_early_stopping_keeps_the_best_epoch(folder, splits, monkeypatch):
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    errors = iter([0.3, 0.1, 0.2])
    after: list[torch.Tensor] = []

    def error(model, rows):
        after.append(model.weights["layers.0.qkv.weight"].detach().clone())
        return next(errors)

    monkeypatch.setattr(training_module, "_error", error)
    short = replace(TRAINING, epochs=3)
    tuned = fine_tune(
        config, read_pretrained(folder), splits["train"], short, early_stop=splits["early_stop"]
    )
    assert torch.equal(tuned["layers.0.qkv.weight"], after[1])


def test_a_supernet_learns_what_its_teacher_answers_and_no_label(folder, splits):
    """Of a teacher that was taught everything the wrong way round."""
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    train = splits["train"]
    wrong = replace(train, labels=1 - train.labels)
    tuned = fine_tune(config, read_pretrained(folder), wrong, TRAINING)
    before = {k: v.clone() for k, v in tuned.items()}
    config, weights = distil(config, tuned, train.tokens, TRAINING)
    assert all(torch.equal(tuned[k], before[k]) for k in tuned)
    rows, plan = np.arange(200), full_plan(config)
    teacher, student = (
        [m.head(i, x).argmax(dim=-1) for i, x in enumerate(m.pooled(plan, *texts))]
        for m in (DynamicEncoder(config, tuned), DynamicEncoder(config, weights))
        for texts in [train.tokens.batch(rows)]
    )
    for answers in student[1:]:
        assert float((answers == teacher[-1]).float().mean()) > 0.8
        assert float((answers.numpy() == train.labels[rows]).mean()) < 0.4


def test_sampled_sub_networks_are_legal_and_varied(quality):
    rng = np.random.default_rng(0)
    plans = [sample_plan(quality.config, rng, input_skims=True) for _ in range(200)]
    assert len({p.keep_rate for p in plans}) > 10
    assert 0.2 < np.mean([p.keep_input < 1.0 for p in plans]) < 0.6
    assert len({p.num_experts for p in plans}) > 10
    for p in plans:
        rates = [p.keep_input, *p.keep_rate]
        assert rates == sorted(rates, reverse=True)
        assert all(0 < k < e or k == e == 1 for k, e in zip(p.top_k, p.num_experts, strict=True))


def test_sub_networks_keep_all_that_enters_where_no_search_drops_it(quality):
    rng = np.random.default_rng(0)
    plans = [sample_plan(quality.config, rng) for _ in range(200)]
    assert {p.keep_input for p in plans} == {1.0}
    assert 0.2 < np.mean([p.keep_rate[0] < 1.0 for p in plans]) < 0.9


def test_saved_supernet_is_the_same_network(folder, quality, tmp_path):
    vocabulary = tmp_path / "tokenizer.json"
    load_tokenizer(folder).save(str(vocabulary))
    target = tmp_path / "cache" / "abc"
    save_supernet(
        target, quality.config, quality.weights, info={"labels": ["a", "b"]}, tokenizer=vocabulary
    )
    config, weights, info = load_supernet(target)
    assert config == quality.config
    assert info["labels"] == ["a", "b"]
    assert all(torch.equal(weights[k], v) for k, v in quality.weights.items())
    assert [p.name for p in target.parent.iterdir()] == ["abc"]
    (target / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="no readable supernet"):
        load_supernet(target)


def test_cache_key_changes_with_everything_but_threads():
    base = {"weights_sha256": "w", "data_sha256": "d", "training": TRAINING}
    key = supernet_key(**base)
    assert supernet_key(**{**base, "training": replace(TRAINING, threads=7)}) == key
    for change in (
        {"weights_sha256": "x"},
        {"data_sha256": "x"},
        {"training": replace(TRAINING, seed=1)},
        {"training": replace(TRAINING, epochs=5)},
    ):
        assert supernet_key(**{**base, **change}) != key


BEFORE = Skim(
    layers=(1,),
    keep_rate=(0.5,),
    score="learned",
    point="before_layer",
    gate_width=SCORER_WIDTH,
)
OUTER = {
    "full": {},
    "skim": {"skim": (Skim(layers=(1, 3), keep_rate=(0.75, 0.5)),)},
    "skim before all": {"skim": (BEFORE, Skim(layers=(2,), keep_rate=(0.25,)))},
    "experts": {"moe": Experts(layers=(1, 2, 4), num_experts=(4, 8, 8), top_k=(1, 4, 2))},
    "joint": {
        "skim": (Skim(layers=(2,), keep_rate=(0.5,)),),
        "moe": Experts(layers=(3, 4), num_experts=(4, 4), top_k=(1, 2), granularity="token"),
    },
}


@pytest.mark.parametrize("name", OUTER)
def test_a_source_rebuilt_from_its_payload_records_the_same_trace(folder, quality, name):
    payload = quality.payload()
    for array in payload["weights"].values():
        array.flags.writeable = False
    again = SupernetQuality.from_payload(payload)
    outer = candidate(folder, **OUTER[name])
    one, two = quality.record(outer, "search"), again.record(outer, "search")
    np.testing.assert_array_equal(one.logits, two.logits)
    np.testing.assert_array_equal(one.expert_tokens, two.expert_tokens)
    assert one.header["split_hash"] == two.header["split_hash"]


def test_long_texts_are_recorded_first_so_that_no_later_batch_needs_more_memory(
    folder, quality, monkeypatch
):
    widths, record = [], DynamicEncoder.record

    def noted(self, plan, ids, *rest):
        widths.append(ids.shape[1])
        record(self, plan, ids, *rest)

    monkeypatch.setattr(DynamicEncoder, "record", noted)
    trace = quality.record(candidate(folder, **OUTER["skim"]), "search")
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == trace.lengths.max() > widths[-1]


def test_a_trace_counts_the_tokens_that_execution_processes(folder, quality):
    trace = quality.record(candidate(folder, **OUTER["joint"]), "search")
    n = trace.lengths
    np.testing.assert_array_equal(trace.tokens_layer[:, 0], n)
    half = np.minimum(n, np.maximum(2, np.ceil(0.5 * n - 1e-9)))
    np.testing.assert_array_equal(trace.tokens_ffn[:, 1], half)
    np.testing.assert_array_equal(trace.tokens_layer[:, 3], half)
    np.testing.assert_array_equal(trace.expert_tokens[:, 2].sum(1), half * 1)
    np.testing.assert_array_equal(trace.expert_tokens[:, 3].sum(1), half * 2)
    assert (trace.expert_tokens[:, 0] == 0).all()
    dropped = half < n
    assert np.isfinite(trace.aux["skim_gap"][dropped, 1]).all()
    assert np.isinf(trace.aux["skim_gap"][:, 0]).all()


def test_tokens_that_are_dropped_before_all_layers_enter_none(folder, quality):
    trace = quality.record(candidate(folder, **OUTER["skim before all"]), "search")
    n = trace.lengths
    half = np.minimum(n, np.maximum(2, np.ceil(0.5 * n - 1e-9)))
    np.testing.assert_array_equal(trace.tokens_layer[:, 0], half)
    np.testing.assert_array_equal(trace.tokens_ffn[:, 0], half)
    assert np.isfinite(trace.aux["skim_gap"][half < n, 0]).all()


@pytest.mark.parametrize("batching", ["serial", "compact", "wait_all"])
@pytest.mark.parametrize("name", OUTER)
def test_real_execution_answers_what_the_trace_says(folder, quality, name, batching):
    outer = candidate(folder, **OUTER[name])
    trace = quality.record(outer, "report")
    sure = np.exp(trace.logits.astype(float))
    sure = (sure / sure.sum(-1, keepdims=True)).max(-1)
    at = (float(np.quantile(sure[:, 0], 0.6)), float(np.quantile(sure[:, 2], 0.5)))
    policy = replace(outer, exits=Exits(layers=(1, 3), thresholds=at), exit_batching=batching)
    want = np.where(sure[:, 0] >= at[0], 1, np.where(sure[:, 2] >= at[1], 3, 4))
    gaps = np.minimum(trace.aux["skim_gap"].min(1), trace.aux["router_gap"].min(1))
    tie = (np.abs(sure[:, [0, 2]] - at) <= 1e-5).any(1) | (gaps <= 1e-5)
    assert tie.mean() <= 0.1
    model, plan = quality.encoder("fp32"), plan_of(policy)
    tokens = quality.splits["report"].tokens
    for rows in tokens.batches(batch=1 if batching == "serial" else 8, sort=True):
        got = model.run(plan, *tokens.batch(rows))
        free = ~tie[rows]
        np.testing.assert_array_equal(got.exit_layer[free], want[rows][free])
        said = trace.logits.argmax(-1)[rows, want[rows] - 1]
        np.testing.assert_array_equal(got.prediction[free], said[free])


def test_weights_of_another_file_are_refused(folder):
    digest = file_sha256(weights_path(folder))
    read_pretrained(folder, sha256=digest)
    with pytest.raises(InputError, match="expected 0000"):
        read_pretrained(folder, sha256="0000")


def test_heads_start_close_to_the_pooled_state(folder):
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    weights = add_heads(config, read_pretrained(folder), 0)
    same = add_heads(config, read_pretrained(folder), 0)
    assert all(torch.equal(weights[k], same[k]) for k in weights)
    model = DynamicEncoder(config, weights)
    assert model.head(0, torch.zeros(1, 32)).abs().max() == 0
    assert full_plan(config).depth == 4


def test_training_takes_the_cores_that_the_process_may_run_on(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5}, raising=False)
    before = torch.get_num_threads()
    with training_threads(Training(threads=0)):
        assert torch.get_num_threads() == 3
    with training_threads(Training(threads=1)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
