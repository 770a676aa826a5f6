"""A job's data is refused where the metric that ranks makes no sense of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dynsearch.gains.families import family_job
from dynsearch.job import job_from_dict
from dynsearch.quality.opening import MIN_CLASS_ROWS, open_material
from dynsearch.testing import tiny_model, tiny_texts
from search_spaces.errors import InputError


def material(home: Path, metric: str, rare: int, rows: int = 1500):
    texts = [
        {"text": text, "label": "rare" if i < rare else label}
        for i, (text, label) in enumerate(tiny_texts(rows))
    ]
    (home / "data.jsonl").write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    raw = {
        "schema_version": 1,
        "name": "j",
        "model": {"folder": "model"},
        "data": {"file": "data.jsonl"},
        "space": {"exits": {"layers": [1], "min_depth": 2}},
        "quality": {"metric": metric},
        "workload": {"max_len": 24},
    }
    return open_material(job_from_dict(raw, base=home))


def test_the_worst_class_ranks_only_where_each_has_rows_enough(tmp_path):
    tiny_model(tmp_path / "model")
    with pytest.raises(InputError, match=r"too few for quality\.metric") as caught:
        material(tmp_path, "worst_class", rare=100)
    assert caught.value.problems[0].value == "rare"
    assert "macro_f1" in caught.value.problems[0].message
    material(tmp_path, "macro_f1", rare=100)
    splits = material(tmp_path, "worst_class", rare=500).splits
    for name in ("search", "report"):
        assert min(sum(splits[name].labels == k) for k in range(3)) >= MIN_CLASS_ROWS


def test_a_class_without_rows_in_a_split_is_refused_whatever_ranks(tmp_path):
    tiny_model(tmp_path / "model")
    with pytest.raises(InputError, match="class absent from this split"):
        material(tmp_path, "macro_f1", rare=2)


def test_pairs_need_a_model_that_tells_two_texts_apart(tmp_path):
    folder = tiny_model(tmp_path / "model")
    texts = tiny_texts(1200)
    rows = [
        {"a": text, "b": other, "label": label}
        for (text, label), (other, _) in zip(texts, reversed(texts), strict=True)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    raw = {
        "schema_version": 1,
        "name": "j",
        "model": {"folder": "model"},
        "data": {"file": "pairs.jsonl", "text": ["a", "b"]},
        "space": {"exits": {"layers": [1], "min_depth": 2}},
        "workload": {"max_len": 24},
    }
    found = open_material(job_from_dict(raw, base=tmp_path))
    assert found.text_columns == ("a", "b")
    assert all(set(np.unique(s.tokens.types)) == {0, 1} for s in found.splits.values())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    with pytest.raises(InputError, match="2 token types, the model has 1") as caught:
        open_material(job_from_dict(raw, base=tmp_path))
    assert caught.value.problems[0].key == "data.text"


def test_a_supernet_belongs_to_the_settings_and_the_tokenizer_of_its_model(tmp_path):
    folder = tiny_model(tmp_path / "model")
    key = material(tmp_path, "accuracy", rare=0).key
    (folder / "README.md").write_text("notes", encoding="utf-8")
    assert material(tmp_path, "accuracy", rare=0).key == key
    settings = (folder / "config.json").read_text(encoding="utf-8")
    config = json.loads(settings) | {"layer_norm_eps": 1e-3}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert material(tmp_path, "accuracy", rare=0).key != key
    (folder / "config.json").write_text(settings, encoding="utf-8")
    assert material(tmp_path, "accuracy", rare=0).key == key
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text(encoding="utf-8") + "another\n", encoding="utf-8")
    assert material(tmp_path, "accuracy", rare=0).key != key


def with_skims(home: Path, **training: object):
    tiny_model(home / "model")
    texts = [{"text": text, "label": label} for text, label in tiny_texts(1200)]
    (home / "data.jsonl").write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    raw = {
        "schema_version": 1,
        "name": "j",
        "model": {"folder": "model"},
        "data": {"file": "data.jsonl"},
        "space": {
            "exits": {"layers": [1], "min_depth": 2},
            "skim": {"layers": [0, 1], "keep": [1.0, 0.5]},
        },
        "training": training,
        "workload": {"max_len": 24},
    }
    return job_from_dict(raw, base=home)


def test_a_family_without_skims_shares_the_supernet_of_the_joint_job(tmp_path):
    job = with_skims(tmp_path)
    whole = open_material(job)
    assert whole.training.input_skims
    mine = family_job(job, whole, "exit-only", dtype="fp32", seed=0, trials=None)
    part = open_material(mine)
    assert part.space.table.skim is None
    assert part.key == whole.key


def test_a_job_that_trains_for_no_skims_before_the_first_layer_cannot_search_them(tmp_path):
    with pytest.raises(InputError, match="before the first layer") as caught:
        open_material(with_skims(tmp_path, input_skims=False))
    assert caught.value.problems[0].key == "training.input_skims"
