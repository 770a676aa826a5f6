"""A teacher says which tokens its answers hang on, and a supernet learns to keep those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynsearch.models.dynamic import DynamicEncoder, State, full_plan
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality import distil as distil_module
from dynsearch.quality.batches import take
from dynsearch.quality.distil import distil
from dynsearch.quality.lesson import add_scorer, lesson_of, scorer_loss
from dynsearch.quality.training import Labelled, Training, add_heads, fine_tune
from dynsearch.testing import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def texts(folder: Path, labelled: Callable[[Path, int], Labelled]) -> Labelled:
    return labelled(folder, 600)


def lead(teacher: DynamicEncoder, state: State) -> float:
    """Lead of the last layer's answer over the mean logit, from embeddings."""
    plan = full_plan(teacher.config)
    with torch.no_grad():
        for layer in range(plan.depth):
            state = teacher.feed_forward(layer, teacher.attend(layer, state, plan), plan)
        logits = teacher.head(plan.depth - 1, teacher.pool(state))
    return float((logits.amax(-1) - logits.mean(-1)).sum())


def test_weights_are_roots_of_gradient_norms_found_by_finite_differences(folder, texts):
    config = encoder_config(read_backbone(folder), num_classes=3, norm_eps=1e-12)
    teacher = DynamicEncoder(config, add_heads(config, read_pretrained(folder), 3))
    few = take(texts.tokens, np.arange(2))
    got = lesson_of(teacher, few, "fp32", weigh=True)
    exact = DynamicEncoder(config, {k: v.double() for k, v in teacher.weights.items()})
    step = 1e-6
    for i, n in enumerate(few.lengths):
        state = exact.start(*few.batch(np.array([i])))
        norms = np.zeros(n)
        for token in range(1, n):
            for unit in range(config.hidden_size):
                ends = []
                for sign in (-step, step):
                    x = state.x.clone()
                    x[0, token, unit] += sign
                    ends.append(lead(exact, replace(state, x=x)))
                norms[token] += ((ends[1] - ends[0]) / (2 * step)) ** 2
        root = norms**0.25
        mine = got.weight[i].numpy()
        np.testing.assert_allclose(mine[:n], root / root.sum(), atol=1e-4)
        assert (mine[n:] == 0).all()


def test_answers_are_those_of_the_network_whether_or_not_tokens_are_weighed(folder, texts):
    config = encoder_config(read_backbone(folder), num_classes=3, norm_eps=1e-12)
    teacher = DynamicEncoder(config, add_heads(config, read_pretrained(folder), 3))
    everyone = np.arange(len(texts.tokens))
    with torch.no_grad():
        pooled = teacher.pooled(full_plan(config), *texts.tokens.batch(everyone))
        answers = teacher.head(config.num_layers - 1, pooled[-1])
    for weigh in (False, True):
        got = lesson_of(teacher, texts.tokens, "fp32", weigh=weigh)
        torch.testing.assert_close(got.logits, answers, atol=1e-5, rtol=1e-5)
        assert not got.logits.requires_grad
        assert (got.weight is None) == (not weigh)


def test_divergence_counts_no_first_token_and_no_padding():
    wanted, n = torch.tensor([[0.0, 0.25, 0.75, 0.0]]), np.array([3])
    right = torch.tensor([[9.0, 1.0, 1.0 + np.log(3.0), 50.0]])
    assert float(scorer_loss(right, wanted, n)) == pytest.approx(0.0, abs=1e-6)
    even = torch.tensor([[5.0, 2.0, 2.0, -7.0]])
    closed = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert float(scorer_loss(even, wanted, n)) == pytest.approx(closed, rel=1e-5)


def test_a_supernet_learns_to_rank_tokens_as_its_teacher_needs_them(folder, texts, monkeypatch):
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    training = Training(
        epochs=2,
        learning_rate=1e-3,
        head_learning_rate=3e-3,
        threads=1,
        max_len=24,
        input_skims=True,
    )
    tuned = fine_tune(config, read_pretrained(folder), texts, training)
    lesson = lesson_of(DynamicEncoder(config, tuned), texts.tokens, "fp32", weigh=True)
    rows = texts.tokens.batch(np.arange(len(texts.tokens)))
    apart = []
    for weight in (0.0, distil_module.SCORER):
        monkeypatch.setattr(distil_module, "SCORER", weight)
        model = DynamicEncoder(*distil(config, tuned, texts.tokens, training))
        with torch.no_grad():
            scores = model.token_scores(model.start(*rows).x)
        apart.append(float(scorer_loss(scores, lesson.weight, rows[1])))
    assert apart[1] < 0.85 * apart[0]


def test_a_fresh_scorer_finds_all_tokens_alike(folder, texts):
    config = encoder_config(read_backbone(folder), num_classes=2, norm_eps=1e-12)
    weights = add_scorer(config.hidden_size, read_pretrained(folder), 0)
    model = DynamicEncoder(config, weights)
    assert (model.token_scores(model.start(*texts.tokens.batch(np.arange(8))).x) == 0).all()
