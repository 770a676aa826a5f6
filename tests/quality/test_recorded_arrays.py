"""What a pass of the supernet records besides logits, and replays beside real runs of it."""

from __future__ import annotations

import mmap
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynsearch.models.dynamic import plan_of
from dynsearch.models.experts import split_experts
from dynsearch.models.tokens import load_tokenizer, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.training import Labelled, add_heads
from dynsearch.sim.decide import exit_layers
from dynsearch.sim.records import named_arrays
from dynsearch.simulate.fidelity import fidelity
from dynsearch.simulate.texts import traced_work
from dynsearch.testing import tiny_model, tiny_texts
from search_spaces.candidate import Candidate, Exits, Experts, Skim, policies_of
from search_spaces.errors import InputError
from search_spaces.exits.hash import random_layers

ROWS, LAYERS = 60, 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[SupernetQuality, Candidate]:
    folder: Path = tiny_model(tmp_path_factory.mktemp("recorded") / "model")
    backbone = read_backbone(folder)
    config = encoder_config(backbone, num_classes=2, norm_eps=1e-12)
    tokens = tokenize(load_tokenizer(folder), [text for text, _ in tiny_texts(ROWS)], 24)
    data = Labelled(tokens=tokens, labels=np.arange(ROWS) % 2)
    weights = add_heads(config, read_pretrained(folder), 0)
    outer = Candidate(backbone=backbone, depth=LAYERS)
    return SupernetQuality(config, weights, {"search": data}, "0" * 64), outer


def cut(
    source: tuple[SupernetQuality, Candidate], granularity: str
) -> tuple[SupernetQuality, Candidate]:
    """With tokens dropped before and after the first layer, and experts."""
    quality, outer = source
    tokens = quality.splits["search"].tokens
    config, weights = split_experts(quality.config, quality.weights, tokens, (4,), 0)
    moe = Experts(layers=(3, 4), num_experts=(4, 4), top_k=(2, 2), granularity=granularity)
    skim = (Skim(layers=(1,), keep_rate=(0.5,)),)
    return replace(quality, config=config, weights=weights), replace(outer, skim=skim, moe=moe)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim belongs to glibc")
def test_a_process_that_recorded_a_pass_holds_nothing_that_was_freed(
    source: tuple[SupernetQuality, Candidate],
) -> None:
    quality, outer = replace(source[0], _cast={}), source[1]
    quality.record(outer, "search")  # what stays of a first pass
    before = resident()
    pieces = [np.full(100_000, 1, dtype=np.uint8) for _ in range(1_000)]
    kept = pieces[::16]
    del pieces
    assert resident() > before + 80e6
    quality.record(outer, "search")
    assert resident() < before + 50e6
    assert kept


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("granularity", ["sequence", "token"])
def test_nothing_of_a_pass_lies_elsewhere_than_its_weights(
    source: tuple[SupernetQuality, Candidate], granularity: str
) -> None:
    """What names no device lands on one here that computes nothing."""
    quality, outer = cut(source, granularity)
    want = quality.record(outer, "search").logits
    with torch.device("meta"):
        found = quality.record(outer, "search").logits
    assert np.array_equal(found, want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@pytest.mark.parametrize("granularity", ["sequence", "token"])
def test_a_gpu_records_what_a_processor_does(
    source: tuple[SupernetQuality, Candidate], granularity: str
) -> None:
    quality, outer = cut(source, granularity)
    want, found = (q.record(outer, "search") for q in (quality, quality.on("cuda")))
    assert found.logits == pytest.approx(want.logits, abs=1e-3)
    assert np.array_equal(found.tokens_layer, want.tokens_layer)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_a_gpu_that_torch_does_not_find_is_refused(
    source: tuple[SupernetQuality, Candidate],
) -> None:
    with pytest.raises(InputError, match=r"search\.gpu_share = cuda: .*torch finds none"):
        source[0].on("cuda")


def test_likeness_of_states_is_that_of_pooled_states_around_each_layer(
    source: tuple[SupernetQuality, Candidate],
) -> None:
    quality, outer = source
    trace = quality.record(outer, "search")
    model, plan = quality.encoder("fp32"), plan_of(outer)
    for row in (0, 7):
        ids, n = quality.splits["search"].tokens.batch(np.array([row]))
        with torch.inference_mode():
            states = [model.start(ids, n).x.mean(dim=1), *model.pooled(plan, ids, n)]
        for layer in range(LAYERS):
            want = torch.nn.functional.cosine_similarity(states[layer], states[layer + 1])
            assert trace.aux["cosine_previous"][row, layer] == pytest.approx(float(want), abs=1e-5)


def test_hashed_layers_are_those_of_the_deepest_token(
    source: tuple[SupernetQuality, Candidate],
) -> None:
    quality, outer = source
    trace, tokens = quality.record(outer, "search"), quality.splits["search"].tokens
    for row in (0, 7):
        own = tokens.ids[tokens.starts[row] : tokens.starts[row] + tokens.lengths[row]]
        deepest = random_layers(own, np.arange(1, LAYERS + 1)).max()
        assert (trace.aux["hash_layer"][row] == deepest).all()


@pytest.mark.parametrize(
    "exits",
    [
        Exits(layers=(1, 2), criterion="state_similarity", thresholds=(0.7, 0.7)),
        Exits(layers=(1, 2, 3), criterion="hash"),
        Exits(layers=(1, 2), criterion="energy", thresholds=(0.1, 0.1)),
    ],
)
def test_criteria_of_states_and_tokens_decide_on_recorded_passes(
    source: tuple[SupernetQuality, Candidate], exits: Exits
) -> None:
    quality, outer = source
    trace = quality.record(outer, "search")
    policies = policies_of([replace(outer, exits=exits)])
    where = exit_layers(trace.logits, policies, named_arrays(trace))[0]
    assert where.shape == (ROWS,)
    assert set(where.tolist()) <= {layer - 1 for layer in (*exits.layers, LAYERS)}


def test_fidelity_is_whole_where_nothing_is_skipped_and_less_where_much_is(
    source: tuple[SupernetQuality, Candidate],
) -> None:
    quality, outer = source
    scores = quality.record(outer, "search").logits
    middle = float(np.median(np.abs(scores[:, 1, 0] - scores[:, 1, 1])))
    sure = 1 / (1 + np.exp(-middle))
    exits = Exits(layers=(2,), thresholds=(sure,))
    found = []
    for rate in (1.0, 0.2):
        skim = () if rate == 1.0 else (Skim(layers=(1,), keep_rate=(rate,)),)
        setting = replace(outer, skim=skim, exits=exits)
        plain, real = quality.record(outer, "search"), quality.record(setting, "search")
        found.append(fidelity(setting, plain, traced_work(real, LAYERS), real))
    assert found[0]["same_exit"] == found[0]["same_answer"] == found[0]["tokens"] == 1.0
    assert found[1]["tokens"] == 1.0  # how many stay is known, not what they then say
    assert found[1]["same_exit"] < 1.0
