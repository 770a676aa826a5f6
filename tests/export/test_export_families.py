"""Folders of other families than BERT go the whole way: job, training, export, runner."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import run_folder
import torch
from away import away_from_checkout
from reference import byte_vocabulary, reference_model

from dynsearch.export.front import write_front_json
from dynsearch.export.records import family_of
from dynsearch.export.torch_export import export_torch
from dynsearch.job import load_job
from dynsearch.models.dynamic import DynamicEncoder, plan_of
from dynsearch.models.tokens import tokenize
from dynsearch.quality.opening import Material, open_material, open_quality
from dynsearch.quality.supernet import load_supernet
from dynsearch.testing import tiny_data, tiny_model, tiny_texts
from search_spaces.candidate import Candidate, Exits, Experts, Skim
from search_spaces.codec import candidate_hash, candidate_to_dict

pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = [*(t for t, _ in tiny_texts(20)), "", " caf\u00e9  \U0001f600", "GOOD good"]
JOB = """
schema_version = 1
name = "tiny"
devices = ["nvidia-a100-80g-sxm"]
[model]
folder = "model"
[data]
file = "data.jsonl"
[training]
epochs = 1
batch = 64
threads = 1
[space.exits]
layers = [1, 2]
[space.experts]
groups = [[1, 3]]
counts = [1, 4]
active = [0.5]
[workload]
max_len = 24
[search]
trials = 1
"""


def write_model(folder: Path, kind: str) -> None:
    if kind == "roberta":
        byte_vocabulary(folder, TEXTS, size=300)
        reference_model(folder, kind, vocab_size=300)
        return
    tiny_model(folder)  # for its vocabulary
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    reference_model(folder, kind, vocab_size=len(words))


@pytest.fixture(
    scope="module",
    params=[
        "roberta",
        pytest.param("electra", marks=pytest.mark.slow),
        pytest.param("distilbert", marks=pytest.mark.slow),
    ],
)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Material, Path]:
    """Model and data of a job, and a run folder with the supernet that they trained to."""
    home = tmp_path_factory.mktemp(request.param)
    write_model(home / "model", request.param)
    tiny_data(home / "data.jsonl", 1000)
    (home / "job.toml").write_text(JOB, encoding="utf-8")
    material = open_material(load_job(home / "job.toml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
        (home / "run").mkdir()
        open_quality(material, home / "run")
    return material, home / "run"


def test_an_export_answers_as_the_supernet_that_the_job_trained(
    opened: tuple[Material, Path], tmp_path: Path
) -> None:
    material, run = opened
    candidate = Candidate(
        backbone=material.backbone,
        depth=3,
        exits=Exits(layers=(1, 2), thresholds=(0.503, 0.505)),
        moe=Experts(layers=(2, 3), num_experts=(4, 4), top_k=(1, 2)),
        skim=(Skim(layers=(2,), keep_rate=(0.5,)),),
    )
    name = candidate_hash(candidate)[:8]
    template = run_folder.make_front(dtypes=("fp32",), draws=1)
    point = replace(
        template.front[0],
        id=name,
        family=family_of(candidate),
        candidate=candidate_to_dict(candidate),
        reach=None,
    )
    workload = template.workload | {"max_len": 24}
    write_front_json(replace(template, front=(point,), workload=workload), run)
    (folder,) = export_torch(run, [name], tmp_path)
    (folder / "texts.txt").write_text("\n".join(t for t in TEXTS if t), encoding="utf-8")
    told = away_from_checkout(folder, "runner.py", "--json", "--file", "texts.txt")
    answers = [json.loads(line) for line in told.splitlines()]
    config, weights, info = load_supernet(run / "supernet")
    model = DynamicEncoder(config, weights)
    tokens = tokenize(material.tokenizer, [a["text"] for a in answers], 24)
    assert len(answers) == len([t for t in TEXTS if t])
    for i, answer in enumerate(answers):
        expected = model.run(plan_of(candidate), *tokens.batch(np.array([i])))
        share = torch.softmax(torch.from_numpy(expected.logits).double(), -1).numpy()
        assert answer["label"] == info["labels"][int(expected.prediction[0])]
        assert answer["exit_layer"] == expected.exit_layer[0]
        assert answer["tokens"] == tokens.lengths[i]
        assert np.isclose(answer["probability"], share.max(), rtol=1e-12)
